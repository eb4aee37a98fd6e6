"""Grad-CAM: ours, grad-cam, torchcam and captum, against the plain forward pass and what cannot be avoided.

``python -m benchmarks.cam``: ResNet-18 with random weights, 16 images of 224×224 px, on the CPU. ``limit`` is one
forward pass and `torch.autograd.grad` down to the target layer, all parameters frozen. Maps are compared at the
target layer's resolution before anything is timed. ``--networks`` are timm's, at the layer that
`find_target_layers` finds, against the plain forward pass alone.

Limits: heatmaps at the resolution that each package returns (ours and grad-cam scale them up to the image);
random weights; inputs are already tensors.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import timm
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM as GradCamGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCamGradCAM
from torchvision.models import resnet18

from benchmarks.timing import interleaved, report, result
from gradsam_exp.explainers.base import scale_to_unit
from gradsam_exp.explainers.dry_run import find_target_layers
from gradsam_exp.explainers.gradient import GradCAM
from gradsam_exp.explainers.layers import find_layer

PACKAGES = ("grad-cam", "torchcam", "captum")


def main() -> None:
    """Time all of them on every layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", nargs="*", default=["layer4.-1", "layer2.-1"])
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", nargs="*", default=["resnet18", "vit_base_patch16_224", "convnext_tiny"])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network = resnet18().eval().to(arguments.device)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=arguments.device)
    targets = torch.arange(arguments.batch, device=arguments.device) % 1000
    for path in arguments.layers:
        ours = GradCAM(network, [path])
        contestants = {
            "forward": lambda: _forward(network, images),
            "limit": lambda path=path: _limit(network, path, images, targets),
            "ours": lambda explainer=ours: explainer(images, targets),
            **_packages(network, find_layer(network, path), images, targets),
        }
        difference = _difference(network, path, images, targets)
        seconds = interleaved(contestants, rounds=arguments.rounds)
        title = f"Grad-CAM, {path}, {arguments.batch} images of {arguments.size} px"
        ratios = report(title, seconds, against="ours")
        result(
            layer=path,
            ratio_to_forward=round(1 / ratios["forward"], 3),
            ratio_to_limit=round(1 / ratios["limit"], 3),
            **{f"speedup_vs_{name.replace('-', '_')}": round(ratios[name], 2) for name in PACKAGES},
            largest_difference_to_torchcam=difference,
        )
    for name in arguments.networks:
        _against_forward(name, images, targets, rounds=arguments.rounds)


def _against_forward(name: str, images: Tensor, targets: Tensor, *, rounds: int) -> None:
    """Time Grad-CAM of a network of timm against its forward pass."""
    network = timm.create_model(name).eval().to(images.device)
    layers = find_target_layers(network, (images.shape[2], images.shape[3]))
    explainer = GradCAM(network, layers)
    contestants = {"forward": lambda: _forward(network, images), "ours": lambda: explainer(images, targets)}
    seconds = interleaved(contestants, rounds=rounds)
    report(f"Grad-CAM, {name}, {layers[0]}, {len(images)} images", seconds, against="forward")
    each = [ours / forward for ours, forward in zip(seconds["ours"], seconds["forward"], strict=True)]
    low, middle, high = (round(ratio, 3) for ratio in statistics.quantiles(each, n=4))
    result(network=name, layer=layers[0], ratio_to_forward=middle, quartiles=[low, high])


def _forward(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


def _limit(network: nn.Module, path: str, images: Tensor, targets: Tensor) -> Tensor:
    """Forward, and the gradient of the target layer's output, with nothing else recorded."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    frozen = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    handle = find_layer(network, path).register_forward_hook(keep)
    try:
        logits = network(images)
        return torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), kept[0])[0]
    finally:
        handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


def _packages(
    network: nn.Module, layer: nn.Module, images: Tensor, targets: Tensor
) -> dict[str, Callable[[], object]]:
    def grad_cam() -> object:
        with GradCamGradCAM(network, [layer]) as cam:
            return cam(images, [ClassifierOutputTarget(int(target)) for target in targets])

    def torchcam() -> Tensor:
        with TorchCamGradCAM(network, layer) as cam:
            return cam(targets.tolist(), network(images))[0]

    return {
        "grad-cam": grad_cam,
        "torchcam": torchcam,
        "captum": lambda: LayerGradCam(network, layer).attribute(images, targets, relu_attributions=True),
    }


def _difference(network: nn.Module, path: str, images: Tensor, targets: Tensor) -> float:
    """Largest difference between our maps and torchcam's, both scaled to [0, 1]."""
    ours = scale_to_unit(GradCAM(network, [path]).layer_maps(images, targets).maps[0])[0]
    theirs = _packages(network, find_layer(network, path), images, targets)["torchcam"]()
    assert isinstance(theirs, Tensor)
    return round(float((ours - scale_to_unit(theirs)[0]).abs().max()), 7)


if __name__ == "__main__":
    main()
