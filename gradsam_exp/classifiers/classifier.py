"""`ImageClassifier` is a network of any package with class names, input transform and Lightning training steps.

This module knows nothing of heatmaps, data sets or files' places.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms import v2

from gradsam_exp.classifiers.networks import Architecture, build_network, with_head
from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.types import ExampleBatch, logits_of
from gradsam_exp.weights.hub import hub_file
from gradsam_exp.weights.transfer import LIMITS, DownloadLimits

Network = TypeVar("Network", bound=nn.Module)


class ImageClassifier(pl.LightningModule):
    """An image classifier maps images to logits; class names and transform go into every checkpoint.

    Args:
        backbone: what the network is built from: the name of a torchvision classification model (``resnet18``),
            or see `gradsam_exp.classifiers.networks.Architecture`.
        class_names: what the outputs mean, in order.
        transform: resize and normalisation, or its fields as a dict.
        pretrained: start from torchvision's default ImageNet weights (downloaded on first use)
            instead of from scratch; only the last layer is new.
        learning_rate, weight_decay: AdamW's; the rate is the peak of a one-cycle schedule.
        flip: mirror half of the training images.
        class_weights: what an example of each class counts in the loss; None: 1. Not kept in files.
        network: the network itself, which is then not built.
        freeze: dotted names of modules of the network that keep their weights and statistics, or ``["all"]`` for
            all but the last linear layer.
        mixup, cutmix: α of Beta(α, α), which the shares are drawn from in which images of a batch and their labels
            are mixed (Zhang et al., ICLR 2018; Yun et al., ICCV 2019); 0: never. Of both, each batch gets one.

    Raises:
        InputError: unknown backbone, ImageNet weights that cannot be downloaded, or nothing to freeze of a name.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        backbone: Architecture,
        class_names: Sequence[str],
        transform: Transform | dict[str, Any] | None = None,
        *,
        pretrained: bool = False,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
        flip: bool = True,
        class_weights: Sequence[float] | None = None,
        network: nn.Module | None = None,
        freeze: Sequence[str] = (),
        mixup: float = 0,
        cutmix: float = 0,
    ) -> None:
        super().__init__()
        self.transform = Transform(**transform) if isinstance(transform, dict) else transform or Transform()
        self.class_names = tuple(class_names)
        self.backbone_name = backbone_name(backbone)
        self.outputs: Sequence[Sequence[int]] | None = None
        self.learning_rate, self.weight_decay, self.flip = learning_rate, weight_decay, flip
        self.backbone = (
            build_backbone(backbone, len(self.class_names), pretrained=pretrained) if network is None else network
        )
        self._frozen = frozen_modules(self.backbone, freeze)
        kinds = [(mixup, v2.MixUp), (cutmix, v2.CutMix)]
        mixes = [kind(alpha=alpha, num_classes=len(self.class_names)) for alpha, kind in kinds if alpha > 0]
        self._mix = v2.RandomChoice(mixes) if mixes else None
        self.val_confusion = MulticlassConfusionMatrix(max(2, len(self.class_names)))
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        # Plain types only, so that a checkpoint loads with weights_only=True.
        fields = {
            name: list(value) if isinstance(value, tuple | list) else value
            for name, value in vars(self.transform).items()
        }
        rates = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        built = backbone if isinstance(backbone, str) else dict(backbone)
        names = {"backbone": built, "class_names": list(self.class_names)}
        self.save_hyperparameters({**names, "transform": fields, **rates, "flip": flip})

    def forward(self, images: Tensor) -> Float[Tensor, "batch classes"]:
        """Compute the logits of uint8 images ``(B, 3, H, W)``, or of network input, which is floating-point.

        Raises:
            InputError: the network's output is not logits, or not as many as there are class names.
        """
        return self.logits(self._pixels(images))

    def train(self, mode: bool = True) -> "ImageClassifier":
        """Switch to training mode or back; frozen modules stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def logits(self, pixels: Tensor) -> Float[Tensor, "batch classes"]:
        """Compute the logits of network input; see `forward`."""
        found = logits_of(self.backbone(pixels))
        if self.outputs is not None:
            return torch.stack([found[:, list(ids)].logsumexp(1) for ids in self.outputs], 1)
        if len(self.class_names) == 1 and found.shape[1] == 2:  # one logit of a data set of one class
            found = found[:, 1:] * 2
        if found.shape[1] != len(self.class_names):
            raise InputError(
                f"{self.backbone_name} gives {found.shape[1]} logits, but there are {len(self.class_names)} class "
                "names: give as many by model.names"
            )
        return found

    def join_outputs(self, class_names: Sequence[str], outputs: Sequence[Sequence[int]]) -> None:
        """Answer with other classes from now on, each the logsumexp of some of the network's ``outputs``."""
        self.class_names, self.outputs = tuple(class_names), outputs

    def _pixels(self, images: Tensor) -> Tensor:
        """Make network input of images, unless they are that."""
        return images if images.is_floating_point() else self.transform(images)

    def training_step(self, batch: ExampleBatch, batch_index: int) -> Tensor:
        """Compute the loss of one batch, its images mirrored at random; 0 for an empty batch."""
        del batch_index
        if not len(batch):  # of a process that has one batch less than the others
            return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
        pixels = self._pixels(batch.images)
        if self.flip:
            mirrored = torch.rand(len(pixels), device=pixels.device) < 0.5
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        labels: Tensor = batch.labels
        if self._mix is not None:
            if len(labels) != len(pixels):
                raise InputError(
                    "task.mixup and task.cutmix mix labels, of which each image must have exactly one"
                )
            pixels, labels = self._mix(pixels, labels)
        with batch_norm_of_single_values(self.backbone) if len(pixels) == 1 else nullcontext():
            loss = self.loss(self.logits(pixels)[batch.image_of], labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def loss(
        self,
        logits: Float[Tensor, "batch classes"],
        labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Float[Tensor, ""]:
        """Compute the mean over a batch's examples of cross entropy times class weight; labels may be shares."""
        if self.class_weights is None:
            return F.cross_entropy(logits, labels)
        return F.cross_entropy(logits, labels, weight=self.class_weights, reduction="none").mean()

    def validation_step(self, batch: ExampleBatch, batch_index: int) -> None:
        """Measure the loss, and count predictions for the accuracies."""
        del batch_index
        loss = torch.zeros((), device=self.device)
        if len(batch):
            logits = self(batch.images)[batch.image_of]
            self.val_confusion.update(logits, batch.labels)
            loss = self.loss(logits, batch.labels)
        self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's accuracies: of all examples, and of each class that has some."""
        counts = self.val_confusion.compute()
        correct, given = counts.diagonal(), counts.sum(1)
        self.log("val/accuracy", correct.sum() / given.sum(), prog_bar=True)
        for name, right, number in zip(self.class_names, correct, given, strict=True):
            if number:
                self.log(f"val/accuracy/{name}", right / number)
        self.val_confusion.reset()

    def configure_optimizers(self) -> Any:
        """Train with AdamW under a one-cycle schedule over the whole training."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def frozen_modules(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Freeze modules of a network; see `ImageClassifier`.

    Raises:
        InputError: there is no module of a name.
    """
    found: list[nn.Module] = []
    if list(names) == ["all"]:
        *_, last = [module for module in network.modules() if isinstance(module, nn.Linear)]
        found = [module for module in network.modules() if last not in module.modules()]
        network.requires_grad_(False)
        last.requires_grad_(True)
    else:
        known = dict(network.named_modules())
        for name in names:
            if name not in known:
                raise InputError(f"task.freeze={name!r} is not a module of the network{did_you_mean(name, known)}")
            found.append(known[name].requires_grad_(False))
    for module in found:
        module.eval()
    if names and not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("task.freeze freezes the whole network, so that nothing is left to train")
    return found


@contextmanager
def batch_norm_of_single_values(network: nn.Module) -> Iterator[None]:
    """Let batch norm use its running statistics where a batch has one value per channel, which has no variance.

    That is a batch of one image whose feature map has shrunk to 1×1. The statistics stay as they are, and modules
    in training mode are so again afterwards.
    """

    def before(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given[0].numel() == given[0].shape[1]:
            module.eval()

    def after(module: nn.Module, *_: Any) -> None:
        module.train()

    hooks = []
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.training:
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def backbone_name(backbone: Architecture) -> str:
    """Name what a network is built from, for messages and tables."""
    if isinstance(backbone, str):
        return backbone
    return str(next((backbone[key] for key in ("name", "id", "target") if key in backbone), "the network"))


def build_backbone(
    name: Architecture, classes: int, *, pretrained: bool = False, limits: DownloadLimits = LIMITS
) -> nn.Module:
    """Build a classifier with ``classes`` outputs, from scratch or from torchvision's ImageNet weights.

    Args:
        limits: when the download of these is given up.

    Raises:
        InputError: unknown name (lists the nearest), or weights that cannot be downloaded.
    """
    if not pretrained or not isinstance(name, str):
        return build_network(name, classes)
    published: Any = torchvision.models.get_model_weights(name)
    try:
        hub_file(published["DEFAULT"].url, limits)
        model = torchvision.models.get_model(name, weights="DEFAULT")
    except (InputError, OSError) as error:
        raise InputError(
            f"model.pretrained=true: the ImageNet weights of {name} could not be downloaded ({error}); "
            "use model.pretrained=false or put them into torch's hub cache"
        ) from error
    return with_head(model, classes)


def without_weights(build: Callable[[], Network]) -> Network:
    """Build on the meta device: all modules and shapes of what ``build`` makes, no values and hardly any time."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # it calculates with tensors, as torchvision's RegNet
        return build().to("meta")


def check_trainable(build: Callable[[], nn.Module], name: str, frame: tuple[int, int]) -> None:
    """Refuse a network that `ImageClassifier` cannot train on images of a size, before it is built.

    Args:
        build: makes the network.
        name: what chose it, for errors: ``model.backbone=googlenet``.
        frame: ``(height, width)`` px of the network's input.

    Raises:
        InputError: unknown name, auxiliary outputs, or a network that does not take this size; with a hint.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # GoogLeNet's and Inception's about their weights
        network = without_weights(build)
    if getattr(network, "aux_logits", False):
        raise InputError(
            f"{name} has auxiliary outputs while it trains, which task=train does not use; "
            "choose another, such as model.backbone=resnet18"
        )
    try:
        with torch.no_grad():
            network.train()(torch.empty(2, 3, *frame, device="meta"))
    except NotImplementedError:  # it needs values to run
        return
    except Exception as error:  # of many kinds
        side = getattr(network, "image_size", 224)
        raise InputError(
            f"{name} does not take images of {frame[0]}×{frame[1]} px (height × width): "
            f"give model.size=[{side},{side}], to which they are resized"
        ) from error
