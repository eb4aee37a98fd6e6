"""`ImageClassifier` is a torchvision network with class names, input transform and Lightning training steps.

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

from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.types import ExampleBatch

Network = TypeVar("Network", bound=nn.Module)


class ImageClassifier(pl.LightningModule):
    """An image classifier maps images to logits; class names and transform go into every checkpoint.

    Args:
        backbone: name of a torchvision classification model (``resnet18``).
        class_names: what the outputs mean, in order.
        transform: resize and normalisation, or its fields as a dict.
        pretrained: start from torchvision's default ImageNet weights (downloaded on first use)
            instead of from scratch; only the last layer is new.
        learning_rate, weight_decay: AdamW's; the rate is the peak of a one-cycle schedule.
        flip: mirror half of the training images.
        class_weights: what an example of each class counts in the loss; None: 1. Not kept in files.

    Raises:
        InputError: unknown backbone, or ImageNet weights that cannot be downloaded.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        backbone: str,
        class_names: Sequence[str],
        transform: Transform | dict[str, Any] | None = None,
        *,
        pretrained: bool = False,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
        flip: bool = True,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.transform = Transform(**transform) if isinstance(transform, dict) else transform or Transform()
        self.class_names = tuple(class_names)
        self.backbone_name = backbone
        self.learning_rate, self.weight_decay, self.flip = learning_rate, weight_decay, flip
        self.backbone = build_backbone(backbone, len(self.class_names), pretrained=pretrained)
        self.val_confusion = MulticlassConfusionMatrix(max(2, len(self.class_names)))
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        # Plain types only, so that a checkpoint loads with weights_only=True.
        fields = {
            name: list(value) if isinstance(value, Sequence) else value
            for name, value in vars(self.transform).items()
        }
        rates = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        names = {"backbone": backbone, "class_names": list(self.class_names)}
        self.save_hyperparameters({**names, "transform": fields, **rates, "flip": flip})

    def forward(self, images: Tensor) -> Float[Tensor, "batch classes"]:
        """Compute the logits of uint8 images ``(B, 3, H, W)``, or of network input, which is floating-point."""
        return self.backbone(self._pixels(images))

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
        with batch_norm_of_single_values(self.backbone) if len(pixels) == 1 else nullcontext():
            loss = self.loss(self.backbone(pixels)[batch.image_of], batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def loss(self, logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Compute the mean over a batch's examples of cross entropy times class weight."""
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
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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


def build_backbone(name: str, classes: int, *, pretrained: bool = False) -> nn.Module:
    """Build a torchvision classifier with ``classes`` outputs, from scratch or from ImageNet weights.

    Raises:
        InputError: unknown name (lists the nearest), or weights that cannot be downloaded.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(f"model.backbone={name!r} is not a torchvision classifier{did_you_mean(name, known)}")
    if not pretrained:
        return torchvision.models.get_model(name, num_classes=classes)
    try:
        model = torchvision.models.get_model(name, weights="DEFAULT")
    except OSError as error:
        raise InputError(
            f"model.pretrained=true: the ImageNet weights of {name} could not be downloaded ({error}); "
            "use model.pretrained=false or put them into torch's hub cache"
        ) from error
    heads = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not heads:
        raise InputError(f"model.backbone={name} has no linear layer to replace; use model.pretrained=false")
    path, head = heads[-1]
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Linear(head.in_features, classes, bias=head.bias is not None))
    return model


def without_weights(build: Callable[[], Network]) -> Network:
    """Build on the meta device: all modules and shapes of what ``build`` makes, no values and hardly any time."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # it calculates with tensors, as torchvision's RegNet
        return build().to("meta")


def check_trainable(name: str, classes: int, frame: tuple[int, int]) -> None:
    """Refuse a backbone that `ImageClassifier` cannot train on images of a size, before it is built.

    Args:
        name: of a torchvision classification model.
        classes: number of its outputs.
        frame: ``(height, width)`` px of the network's input.

    Raises:
        InputError: unknown name, auxiliary outputs, or a network that does not take this size; with a hint.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # GoogLeNet's and Inception's about their weights
        network = without_weights(lambda: build_backbone(name, classes))
    if getattr(network, "aux_logits", False):
        raise InputError(
            f"model.backbone={name} has auxiliary outputs while it trains, which task=train does not use; "
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
            f"model.backbone={name} does not take images of {frame[0]}×{frame[1]} px (height × width): "
            f"give model.size=[{side},{side}], to which they are resized"
        ) from error
