"""These functions describe image classifiers of transformers, and CLIP as a zero-shot classifier."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gradsam_exp.classifiers.base import CLASSIFIERS
from gradsam_exp.classifiers.classifier import without_weights
from gradsam_exp.classifiers.described import Described, Size, changed_transform, find_names
from gradsam_exp.classifiers.networks import build_network
from gradsam_exp.classifiers.sources import Channels, Names
from gradsam_exp.classifiers.transform import Interpolation, Transform
from gradsam_exp.digest import digest
from gradsam_exp.errors import InputError, first_line
from gradsam_exp.weights import file_digest
from gradsam_exp.weights.hub import find_folder, load_pretrained, needed

BICUBIC = 3  # as Pillow counts, in preprocessor_config.json
PROMPT = "a photo of a {}"
_TEXTS = ("*.json", "*.txt")
OPEN_CLIP = "open_clip:"


@CLASSIFIERS.register("hf")
def from_transformers(
    id: str,
    *,
    revision: str | None = None,
    names: Names = None,
    size: Size = None,
    mean: Channels = None,
    std: Channels = None,
    interpolation: Interpolation | None = None,
) -> Described:
    """Describe an image classifier of transformers, by its id on the Hugging Face hub or by a local folder.

    Args:
        id: such as ``google/vit-base-patch16-224``, downloaded into Hugging Face's cache on first use; or a folder
            that ``save_pretrained`` wrote.
        revision: a commit, branch or tag of the hub.
        names: what the outputs mean; None: the configuration's ``id2label``.
        size, mean, std, interpolation: of the input; None: as ``preprocessor_config.json`` says.

    Raises:
        InputError: no such model, or one that classifies no images.
    """
    transformers = needed("transformers", "hf")
    folder = _folder(id, revision)
    config = _config(transformers, folder, id)
    known = [str(config.id2label[k]) for k in sorted(config.id2label)]
    transform = changed_transform(
        _transform(folder, config), size=size, mean=mean, std=std, interpolation=interpolation
    )
    architecture = {"source": "hf", "id": id, "config": plain(config)}
    try:
        without_weights(lambda: build_network(architecture))
    except ValueError as error:
        raise InputError(f"model.id={id} is a {config.model_type}, which classifies no images") from error

    return Described(
        id,
        find_names(names, known),
        transform,
        digest([architecture, _digests(folder), vars(transform), version("transformers")]),
        architecture,
        lambda: build_network(architecture),
        lambda: loaded(transformers.AutoModelForImageClassification, folder, id),
    )


def _folder(id: str, revision: str | None) -> Path:
    """Find a model's folder with its weights, in the format of today if there is one; see `find_folder`."""
    find = partial(find_folder, id, key="model.id", instead="model=imagenet", revision=revision)
    folder = find([*_TEXTS, "*.safetensors"])
    return folder if list(folder.glob("*.safetensors")) else find([*_TEXTS, "*.safetensors", "*.bin"])


def _config(transformers: Any, folder: Path, id: str) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"model.id={id}: {folder} holds no model of transformers ({first_line(error)})"
        ) from error


def loaded(kind: Any, folder: Path, id: str) -> nn.Module:
    """Load a model of transformers in float32; every weight must be there.

    Raises:
        InputError: weights that cannot be read, are missing or of another shape; names them.
    """
    model, wrong = load_pretrained(kind, folder, f"model.id={id}")
    if wrong:
        raise InputError(
            f"model.id={id} has no weights of {len(wrong)} of the network's tensors, such as {wrong[0]}: "
            "train it for classification, or choose another"
        )
    return model


def plain(config: Any) -> dict[str, Any]:
    """Return a configuration of transformers as plain values that build the same network."""
    own = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    return json.loads(json.dumps({**own, "model_type": config.model_type}, default=str))


def _digests(folder: Path) -> list[str]:
    files = sorted(file for file in folder.glob("*") if file.suffix in {".safetensors", ".bin"})
    return [file_digest(file.resolve(), key="model.id") for file in files]


def _transform(folder: Path, config: Any) -> Transform:
    """Read what a model's image processor does."""
    file = folder / "preprocessor_config.json"
    said: Mapping[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    crop, size = said.get("crop_size") if said.get("do_center_crop") else None, said.get("size")
    side = crop or size or getattr(config, "image_size", None) or 224
    if isinstance(side, Mapping):
        side = (side["height"], side["width"]) if "height" in side else next(iter(side.values()))
    height, width = side if isinstance(side, Sequence) else (side, side)
    normalized = said.get("do_normalize", True)
    return Transform(
        (int(height), int(width)),
        tuple(said.get("image_mean", (0.5,) * 3)) if normalized else (0.0,) * 3,
        tuple(said.get("image_std", (0.5,) * 3)) if normalized else (1.0,) * 3,
        interpolation="bicubic" if said.get("resample") == BICUBIC else "bilinear",
    )


class ZeroShot(nn.Module):
    """A zero-shot classifier compares an image's embedding with those of the class names.

    Radford et al.: *Learning Transferable Visual Models From Natural Language Supervision* (ICML 2021), section
    3.1: the logit of a class is the cosine of both embeddings times the learned scale.

    Args:
        vision: maps network input to embeddings ``(B, D)``, or to an output with ``image_embeds`` or
            ``pooler_output``.
        texts: the embedding of each class's prompt ``(K, D)``, times the scale.
    """

    texts: Tensor

    def __init__(self, vision: nn.Module, texts: Float[Tensor, "classes channels"]) -> None:
        super().__init__()
        self.vision = vision
        self.register_buffer("texts", texts)

    def forward(self, pixels: Tensor) -> Float[Tensor, "batch classes"]:
        """Compute the logits of network input."""
        found = self.vision(pixels)
        if not isinstance(found, Tensor):
            found = found.image_embeds
        return F.normalize(found, dim=-1) @ self.texts.T.to(found.dtype)


@CLASSIFIERS.register("clip")
def from_clip(
    id: str = "openai/clip-vit-base-patch32",
    *,
    classes: Sequence[str] | None = None,
    prompt: str | Sequence[str] = PROMPT,
    pretrained: str | None = None,
    revision: str | None = None,
    size: Size = None,
) -> Described:
    """Describe CLIP as a classifier of classes that are given by name; nothing is trained.

    Args:
        id: of the Hugging Face hub, or a folder of transformers' ``CLIPModel``; or ``open_clip:ViT-B-32``, a model
            of open_clip.
        classes: names, such as ``[cat, dog]``.
        prompt: text about a class, whose name stands for ``{}``; of several, the embeddings' mean is taken.
        pretrained: of open_clip: a tag of its weights (``laion2b_s34b_b79k``) or a file.
        revision: a commit, branch or tag of the hub.
        size: ``[height, width]`` px of the input; None: the model's own.

    Raises:
        InputError: no classes, a prompt without ``{}``, or no such model.
    """
    if not classes:
        raise InputError("model.classes is missing: CLIP needs names to choose among: model.classes=[cat,dog]")
    names = find_names(list(map(str, classes)), ())
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or any("{}" not in one for one in prompts):
        raise InputError(f"model.prompt={prompt!r}: {{}} stands for the class's name, as in {PROMPT!r}")
    texts = [[one.replace("{}", name) for one in prompts] for name in names]
    if id.startswith(OPEN_CLIP):
        return _open_clip(id.removeprefix(OPEN_CLIP), pretrained, names, texts, size)
    if pretrained is not None:
        raise InputError(f"model.pretrained={pretrained} is for model.id=open_clip:NAME only")
    transformers = needed("transformers", "hf")
    folder = _folder(id, revision)
    config = _config(transformers, folder, id)
    if config.model_type != "clip":
        raise InputError(f"model.id={id} is a {config.model_type}, not a CLIP")
    config.vision_config.projection_dim = config.projection_dim
    transform = changed_transform(_transform(folder, config.vision_config), size=size)

    def build() -> nn.Module:
        vision = transformers.CLIPVisionModelWithProjection._from_config(config.vision_config)
        return ZeroShot(vision, torch.empty(len(names), config.projection_dim))

    def load_network() -> nn.Module:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model: Any = loaded(transformers.CLIPModel, folder, id).eval()

        def embed(some: list[str]) -> Tensor:
            given = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            found = model.text_model(**given).pooler_output
            return model.text_projection(found)

        vision = transformers.CLIPVisionModelWithProjection._from_config(config.vision_config)
        vision.vision_model.load_state_dict(model.vision_model.state_dict())
        vision.visual_projection.load_state_dict(model.visual_projection.state_dict())
        return ZeroShot(vision, _text_embeddings(texts, embed, model.logit_scale))

    depends = [_digests(folder), texts, vars(transform), version("transformers")]
    return Described(id, names, transform, digest(depends), None, build, load_network)


@torch.no_grad()
def _text_embeddings(
    texts: Sequence[Sequence[str]], embed: Callable[[list[str]], Tensor], log_scale: Tensor
) -> Float[Tensor, "classes channels"]:
    """Embed the prompts of every class, and scale their mean to the length of the learned temperature."""
    means = [F.normalize(embed(list(own)), dim=-1).mean(0) for own in texts]
    return F.normalize(torch.stack(means), dim=-1) * log_scale.exp()


def _open_clip(
    name: str, pretrained: str | None, names: tuple[str, ...], texts: Sequence[Sequence[str]], size: Size
) -> Described:
    """Describe a model of open_clip."""
    open_clip = needed("open_clip", "clip")
    if name not in open_clip.list_models():
        raise InputError(f"model.id={OPEN_CLIP}{name} is not a model of open_clip")
    if pretrained is None:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise InputError(f"model.pretrained is missing: a file, or a tag of {name}'s weights: {', '.join(tags)}")
    try:
        path = Path(pretrained).expanduser()
        if not path.is_file():
            path = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, pretrained)))
    except Exception as error:  # of many kinds
        raise InputError(
            f"model.pretrained={pretrained}: no file, and could not be downloaded ({first_line(error)})"
        ) from error
    outline = without_weights(lambda: open_clip.create_model(name, load_weights=False).visual)
    cfg = {**open_clip.get_model_preprocess_cfg(without_weights(lambda: open_clip.create_model(name)))}
    side = cfg["size"] if isinstance(cfg["size"], int) else cfg["size"][0]
    own = Transform((side, side), tuple(cfg["mean"]), tuple(cfg["std"]), interpolation=cfg["interpolation"])
    transform = changed_transform(own, size=size)

    def build() -> nn.Module:
        model = open_clip.create_model(name)
        return ZeroShot(model.visual, torch.empty(len(names), outline.output_dim))

    def load_network() -> nn.Module:
        model = open_clip.create_model(name, pretrained=str(path), precision="fp32").eval()
        tokenizer = open_clip.get_tokenizer(name)
        scaled = _text_embeddings(texts, lambda some: model.encode_text(tokenizer(some)), model.logit_scale)
        return ZeroShot(model.visual, scaled)

    depends = [name, file_digest(path, key="model.pretrained"), texts, vars(transform), version("open-clip-torch")]
    return Described(f"{OPEN_CLIP}{name}", names, transform, digest(depends), None, build, load_network)
