"""Each class of transformers answers as it does with its own processor, and what cannot be used is refused."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor, nn
from torch.testing import assert_close

from gradsam_exp.errors import InputError
from gradsam_exp.segmenters.checkpoints import load_segmenter
from gradsam_exp.segmenters.hf import HfSegmenter
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.segmenters.tta import Augmented
from gradsam_exp.types import Prompts
from tests.hf_models import SIDES, saved

pytestmark = pytest.mark.slow  # whole networks, and their other implementations

SIZES = [(60, 90), (90, 60), (128, 128), (37, 200)]
KINDS = {"point": 1, "13 points": 13, "box": 0, "box+points": 3, "mask+points": 2, "mask": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: saved(kind, root / kind) for kind in SIDES}


def loaded(folder: Path, **parameters: Any) -> HfSegmenter:
    segmenter = load_segmenter("hf", id=str(folder), **parameters)
    assert isinstance(segmenter, HfSegmenter)
    return segmenter


def images(height: int, width: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand(count, 3, 5, 7, generator=generator) * 255
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)


def random_prompts(size: tuple[int, int], kind: str, low: int) -> Prompts:
    height, width = size
    generator = torch.Generator().manual_seed(7)
    xy = torch.rand(1, KINDS[kind], 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    labels = (torch.rand(1, KINDS[kind], generator=generator) > 0.4).long()
    corner = torch.rand(1, 2, generator=generator) * torch.tensor([width / 2, height / 2])
    boxes = torch.cat([corner, corner + torch.tensor([width / 3, height / 3])], 1) if "box" in kind else None
    masks = torch.randn(1, 1, low, low, generator=generator) * 4 if "mask" in kind else None
    return Prompts(torch.tensor([0]), xy, labels, boxes, masks)


def theirs(folder: Path, model: nn.Module, image: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor, Tensor]:
    """What processor and model of transformers say: logits, predicted IoU and masks of all candidates."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    asked: dict[str, Any] = {}
    if prompts.points.shape[1]:
        asked = {"input_points": [prompts.points.tolist()], "input_labels": [prompts.labels.tolist()]}
    if prompts.boxes is not None:
        asked["input_boxes"] = [prompts.boxes.tolist()]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    inputs = processor(images=picture, return_tensors="pt", **asked)
    sizes = [inputs.pop(key) for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    parts = []
    for several in (False, True):
        answer = model(**inputs, input_masks=prompts.mask_logits, multimask_output=several)
        masks = processor.post_process_masks(answer.pred_masks, *sizes)
        parts.append((answer.pred_masks[0, 0], answer.iou_scores[0, 0], masks[0][0]))
    logits, scores, masks = (torch.cat(part) for part in zip(*parts, strict=True))
    return logits, scores, masks


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[1]}x{s[0]}")
@pytest.mark.parametrize("kind", SIDES)
def test_the_answers_are_those_of_its_own_processor_and_class(folders, kind: str, size: tuple[int, int]):
    segmenter = loaded(folders[kind], coordinates="corners")
    image = images(*size)
    embeddings = segmenter.encode(image)
    for asked in KINDS:
        prompts = random_prompts(size, asked, 32)
        ours = segmenter.decode(embeddings, prompts)
        logits, scores, masks = theirs(folders[kind], segmenter.model, image[0], prompts)
        assert ours.logits.shape == (1, 4, 32, 32)
        assert (ours.logits[0] - logits).abs().max() <= 1e-3 * logits.std(), asked
        assert_close(ours.predicted_iou[0], scores, atol=1e-4, rtol=1e-4)
        assert (segmenter.to_original(ours.logits[0], embeddings) != masks).float().mean() <= 1e-3, asked
        assert 0 < masks.float().mean() < 1, "a mask that is empty or full compares nothing"


@pytest.mark.parametrize("kind", SIDES)
def test_queries_of_one_image_and_of_many_do_not_mix(folders, kind: str):
    """Rows in any order, images asked twice or not at all, different numbers of points: each as if alone."""
    segmenter = loaded(folders[kind])
    batch = images(60, 90, 4)
    embeddings = segmenter.encode(batch)
    index = torch.tensor([2, 0, 2, 3, 0, 2])
    points = torch.rand(6, 5, 2, generator=torch.Generator().manual_seed(1)) * 50
    labels = torch.ones(6, 5, dtype=torch.long)
    labels[1, 3:], labels[3, 1], labels[4] = -1, -1, 0
    together = segmenter.decode(embeddings, Prompts(index, points, labels))
    for q in range(6):
        real = labels[q] >= 0
        alone = Prompts(index[q : q + 1], points[q : q + 1, real], labels[q : q + 1, real])
        answer = segmenter.decode(embeddings, alone)
        assert (together.logits[q] - answer.logits[0]).abs().max() <= 1e-3 * answer.logits.std()
        assert_close(together.predicted_iou[q], answer.predicted_iou[0], atol=1e-4, rtol=1e-4)
    for row, image in enumerate(batch):
        for level, alone in zip(embeddings.levels, segmenter.encode(image[None]).levels, strict=True):
            # Random weights of EdgeTAM make 9e-4 of a rounding difference of 1e-6.
            assert (level[row] - alone[0]).abs().max() <= 5e-3 * alone.std()
    nothing = Prompts(torch.zeros(0, dtype=torch.long), torch.zeros(0, 1, 2), torch.zeros(0, 1, dtype=torch.long))
    assert segmenter.decode(embeddings, nothing).logits.shape == (0, 4, 32, 32)


def test_the_single_mask_of_sam_2_is_its_stable_one(folders):
    """Token 0 where it is stable, else the alternative with the largest predicted IoU; both occur."""
    segmenter = loaded(folders["sam2"])
    embeddings = segmenter.encode(images(60, 90))
    points = torch.rand(40, 1, 2, generator=torch.Generator().manual_seed(1)) * 59
    prompts = Prompts(torch.zeros(40, dtype=torch.long), points, torch.ones(40, 1, dtype=torch.long))
    decoder: Any = segmenter.model.mask_decoder
    found = []
    for threshold in (0.0, 0.9, 1.1):
        decoder.dynamic_multimask_stability_thresh = threshold
        found.append(segmenter.decode(embeddings, prompts))
    always, sometimes, never = (answer.logits[:, 0] for answer in found)
    best = found[0].logits[torch.arange(40), 1 + found[0].predicted_iou[:, 1:].argmax(1)]
    assert torch.equal(never, best)
    inside, around = ((always > edge).sum((1, 2)) for edge in (0.05, -0.05))
    stable = inside >= 0.9 * around
    assert 0 < stable.sum() < 40
    assert torch.equal(sometimes, torch.where(stable[:, None, None], always, best))


RENAMED = [  # of transformers' SAM, to segment-anything's
    (r"^shared_image_embedding\.positional_", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix:"),
    (r":.*", ""),
    (r"^vision_encoder\.", "image_encoder."),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"image_encoder\.layers\.", "image_encoder.blocks."),
    (r"blocks\.(\d+)\.layer_norm", r"blocks.\1.norm"),
    (r"neck\.conv1", "neck.0"), (r"neck\.layer_norm1", "neck.1"),
    (r"neck\.conv2", "neck.2"), (r"neck\.layer_norm2", "neck.3"),
    (r"prompt_encoder\.point_embed", "prompt_encoder.point_embeddings"),
    (r"mask_embed\.conv1", "mask_downscaling.0"), (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"), (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"(decoder.*\.)layer_norm(\d)", r"\1norm\2"), (r"layer_norm_final_attn", "norm_final_attn"),
    (r"upscale_conv1", "output_upscaling.0"), (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"((?:mlps\.\d|prediction_head)\.)proj_in", r"\1layers.0"),
    (r"((?:mlps\.\d|prediction_head)\.)layers\.0\.(weight|bias)$", r"\1layers.1.\2"),
    (r"((?:mlps\.\d|prediction_head)\.)proj_out", r"\1layers.2"),
]  # fmt: skip


def renamed(name: str) -> str:
    if re.search(r"(mlps\.\d|prediction_head)\.proj_in", name):
        return re.sub(r"proj_in", "layers.0", name)
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def test_sam_agrees_with_segment_anything(folders):
    segmenter = loaded(folders["sam"])
    state = segmenter.model.state_dict()
    state = {renamed(name): value for name, value in state.items() if "shared_embedding" not in name}
    sam = Sam(
        ImageEncoderViT(
            img_size=128, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2, out_chans=32, window_size=3,
            global_attn_indexes=(1,), use_rel_pos=True, norm_layer=partial(nn.LayerNorm, eps=1e-6),
        ),
        PromptEncoder(embed_dim=32, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_chans=4),
        MaskDecoder(
            transformer_dim=32, transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=64),
            iou_head_depth=3, iou_head_hidden_dim=32,
        ),
    )  # fmt: skip
    sam.load_state_dict(state)
    official = SamSegmenter(lambda: sam, "converted")
    official.load(torch.device("cpu"))
    for size in ((128, 80), (90, 128)):  # their longer side needs no resizing, in which the packages differ
        batch = images(*size, 2)
        encoded = [one.encode(batch) for one in (segmenter, official)]
        assert (encoded[0].levels[0] - encoded[1].levels[0]).abs().max() <= 1e-3 * encoded[1].levels[0].std()
        for kind in KINDS:
            prompts = random_prompts(size, kind, 32)
            ours, expected = (
                one.decode(e, prompts) for one, e in zip((segmenter, official), encoded, strict=True)
            )
            assert (ours.logits - expected.logits).abs().max() <= 1e-3 * expected.logits.std(), kind
            assert_close(ours.predicted_iou, expected.predicted_iou, atol=1e-4, rtol=1e-4)
        logits = ours.logits[:, 0]
        assert torch.equal(segmenter.to_original(logits, encoded[0]), official.to_original(logits, encoded[1]))
        maps = torch.rand(2, *size)
        assert torch.equal(segmenter.to_low_res(maps, encoded[0]), official.to_low_res(maps, encoded[1]))


@pytest.mark.parametrize("kind", SIDES)
def test_views_are_mirrored_back_whatever_a_cell_spans(folders, kind: str):
    segmenter = loaded(folders[kind])
    both = Augmented(segmenter, 2)
    batch, width = images(64, 64, 2), 64  # a whole number of cells in each model's input
    points, labels = torch.tensor([[[10.0, 30.0]], [[40.0, 12.0]]]), torch.ones(2, 1, dtype=torch.long)
    mask = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    prompts = Prompts(torch.arange(2), points, labels, mask_logits=mask)
    mirrored_points = torch.stack([width - 1 - points[..., 0], points[..., 1]], -1)
    mirrored = Prompts(torch.arange(2), mirrored_points, labels, mask_logits=mask.flip(-1))
    first = segmenter.decode(segmenter.encode(batch), prompts)
    second = segmenter.decode(segmenter.encode(batch.flip(-1)), mirrored)
    answer = both.decode(both.encode(batch), prompts)
    expected = (first.logits + second.logits.flip(-1)) / 2
    assert (answer.logits - expected).abs().max() <= 1e-3 * expected.std()
    assert (first.logits - second.logits.flip(-1)).abs().max() > 0.1 * expected.std(), "nothing would be averaged"


def test_maps_come_to_the_low_resolution_grid_as_the_image_does(folders):
    """A stretched image fills the grid, a padded one its upper part."""
    ones = torch.ones(1, 60, 120)
    for kind, covered in (("sam2", 1.0), ("sam3_tracker", 1.0), ("sam", 0.5)):
        segmenter = loaded(folders[kind])
        low = segmenter.to_low_res(ones, segmenter.encode(images(60, 120)))
        assert low.shape == (1, 32, 32)
        assert low.mean() == covered


def test_the_digest_is_that_of_what_is_in_the_files(folders, tmp_path: Path):
    first = loaded(folders["sam2"]).digest
    copy = shutil.copytree(folders["sam2"], tmp_path / "elsewhere")
    assert loaded(copy).digest == first
    config = json.loads((copy / "config.json").read_text())
    config["mask_decoder_config"]["dynamic_multimask_stability_thresh"] = 0.5
    (copy / "config.json").write_text(json.dumps(config))
    changed = loaded(copy).digest
    assert changed != first
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    tensors["no_memory_embedding"] += 1
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert loaded(copy).digest not in {first, changed}


def test_half_precision_files_are_used_in_full(folders, tmp_path: Path):
    from transformers import Sam2Model

    copy = shutil.copytree(folders["sam2"], tmp_path / "half")
    Sam2Model.from_pretrained(copy, dtype=torch.float16).save_pretrained(copy)
    assert {p.dtype for p in loaded(copy).model.parameters()} == {torch.float32}


def test_what_cannot_be_used_is_refused(folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(message: str, **parameters: Any) -> None:
        with pytest.raises(InputError, match=message) as error:
            load_segmenter("hf", **parameters)
        assert "\n" not in str(error.value)

    folder = shutil.copytree(folders["sam2"], tmp_path / "model")
    for kind, message in (
        ("sam3", r"is asked with text only, not with points or boxes: use sam=sam3"),
        ("vit", r"is a 'vit', which is no promptable segmenter; known are edgetam,.*sam3_video"),
    ):
        other = tmp_path / kind
        other.mkdir()
        (other / "config.json").write_text(json.dumps({"model_type": kind}))
        refused(message, id=str(other))
    refused(r"holds no config\.json of a model of transformers", id=str(tmp_path))
    refused(r"sam\.accepts", id=str(folder), accepts=["text"])

    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused(r"lack 1 tensors, such as mask_decoder\.iou_token\.weight", id=str(folder))
    (folder / "model.safetensors").write_bytes(b"half a file")
    refused(r"cannot be read", id=str(folder))
    (folder / "model.safetensors").unlink()
    refused(r"holds no \*\.safetensors", id=str(folder))
    good = shutil.copytree(folders["sam2"], tmp_path / "without")
    (good / "processor_config.json").unlink()
    refused(r"holds no preprocessor_config\.json", id=str(good))

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(r"is no folder, is not in the hub's cache and could not be downloaded", id="nobody/nothing")


def test_a_gated_model_says_where_its_licence_is(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub.errors import GatedRepoError

    answer = Mock(side_effect=GatedRepoError("no", response=Mock()))
    monkeypatch.setattr("huggingface_hub.snapshot_download", answer)
    with pytest.raises(InputError, match=r"gated: accept its licence at https://huggingface\.co/facebook/sam3, "):
        load_segmenter("hf", id="facebook/sam3")


def test_without_transformers_it_says_what_to_install(folders, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r'pip install "gradsam_exp\[hf\]"'):
        load_segmenter("hf", id=str(folders["sam"]))


@pytest.mark.parametrize("kind", ["sam2", "edgetam", "sam3_tracker"])
def test_of_a_video_checkpoint_the_part_for_images_is_used(folders, kind: str, tmp_path: Path):
    """As the hub has SAM 2.1 and EdgeTAM (the same names and more) and SAM 3 (the tracker beside a detector)."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders[kind], tmp_path / "video")
    config, state = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    if kind == "sam3_tracker":
        config = {"model_type": "sam3_video", "tracker_config": config | {"model_type": "sam3_tracker_video"}}
        moved = {
            "vision_encoder.backbone.": "detector_model.vision_encoder.backbone.",
            "vision_encoder.neck.": "tracker_neck.",
        }
        plain = loaded(folders[kind]).model.state_dict()  # files have other names
        state = {in_sam_3(name, moved): value.clone() for name, value in plain.items()}
        state["detector_model.text_encoder.weight"] = torch.zeros(2)
    else:
        config["model_type"] = f"{kind}_video"
        state |= {"memory_attention.weight": torch.zeros(2), "no_object_pointer": torch.zeros(2)}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    segmenter, expected = loaded(folder), loaded(folders[kind]).model.state_dict()
    assert segmenter.cell == loaded(folders[kind]).cell
    assert all(torch.equal(value, expected[name]) for name, value in segmenter.model.state_dict().items())


def in_sam_3(name: str, moved: dict[str, str]) -> str:
    """Where a tensor of the tracker lies in a checkpoint of all of SAM 3."""
    for before, after in moved.items():
        if name.startswith(before):
            return after + name.removeprefix(before)
    return f"tracker_model.{name}"
