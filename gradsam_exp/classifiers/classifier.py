"""`ImageClassifier` is a torchvision network with class names, input transform and Lightning training steps.

This module knows nothing of heatmaps, data sets or files' places.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

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

    Raises:
        InputError: unknown backbone, or ImageNet weights that cannot be downloaded.
    """

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
    ) -> None:
        super().__init__()
        self.transform = Transform(**transform) if isinstance(transform, dict) else transform or Transform()
        self.class_names = tuple(class_names)
        self.backbone_name = backbone
        self.learning_rate, self.weight_decay, self.flip = learning_rate, weight_decay, flip
        self.backbone = build_backbone(backbone, len(self.class_names), pretrained=pretrained)
        self.val_accuracy = MulticlassAccuracy(len(self.class_names), average="micro")
        self.val_accuracy_by_class = MulticlassAccuracy(len(self.class_names), average="none")
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
        return self.backbone(images if images.is_floating_point() else self.transform(images))

    def training_step(self, batch: ExampleBatch, batch_index: int) -> Tensor:
        """Compute the cross entropy of one batch, mirrored at random."""
        del batch_index
        pixels = self.transform(batch.own_images)
        if self.flip:
            mirrored = torch.rand(len(batch), device=pixels.device) < 0.5
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        loss = F.cross_entropy(self.backbone(pixels), batch.labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: ExampleBatch, batch_index: int) -> None:
        """Measure the accuracy, overall and per class."""
        del batch_index
        logits = self(batch.own_images)
        self.val_accuracy.update(logits, batch.labels)
        self.val_accuracy_by_class.update(logits, batch.labels)
        self.log("val/loss", F.cross_entropy(logits, batch.labels), batch_size=len(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's accuracies."""
        self.log("val/accuracy", self.val_accuracy.compute(), prog_bar=True)
        for name, value in zip(self.class_names, self.val_accuracy_by_class.compute(), strict=True):
            self.log(f"val/accuracy/{name}", value)
        self.val_accuracy.reset()
        self.val_accuracy_by_class.reset()

    def configure_optimizers(self) -> Any:
        """Train with AdamW under a one-cycle schedule over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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
    setattr(model.get_submodule(parent), leaf, nn.Linear(head.in_features, classes))
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
