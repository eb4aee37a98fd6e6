"""AblationCAM against grad-cam's: ours runs only what comes after the target layer.

``python -m benchmarks.ablation``: ResNet-18 with random weights, one image of 224×224 px, on the CPU.
grad-cam runs the whole network once for every channel.
"""

from __future__ import annotations

import argparse

import torch
from pytorch_grad_cam import AblationCAM as GradCamAblationCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchvision.models import resnet18

from benchmarks.timing import interleaved, report, result
from gradsam_exp.explainers.base import scale_to_unit
from gradsam_exp.explainers.layers import find_layer
from gradsam_exp.explainers.perturbation import AblationCAM


def main() -> None:
    """Time both on two layers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", nargs="+", default=["layer4.-1", "layer2.-1"])
    parser.add_argument("--size", type=int, default=224, help="side of the image in pixels")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network = resnet18().eval()
    image = torch.randn(1, 3, arguments.size, arguments.size)
    targets = torch.tensor([3])
    for path in arguments.layers:
        ours = AblationCAM(network, [path])
        layer = find_layer(network, path)

        def theirs(layer: torch.nn.Module = layer) -> torch.Tensor:
            cam = GradCamAblationCAM(network, [layer])
            cam.batch_size = 32
            return torch.from_numpy(cam(image, [ClassifierOutputTarget(3)]))

        seconds = interleaved(
            {"ours": lambda ours=ours: ours(image, targets), "grad-cam": theirs},
            rounds=arguments.rounds,
            warm_up=0,
        )
        ratios = report(f"AblationCAM, {path}, {arguments.size} px", seconds, against="ours")
        mine = scale_to_unit(ours.layer_maps(image, targets).maps[0])[0]
        same = torch.nn.functional.interpolate(mine[:, None], image.shape[-2:], mode="bilinear")[:, 0]
        result(layer=path, speedup_vs_grad_cam=round(ratios["grad-cam"], 1),
               largest_difference=round(float((scale_to_unit(same)[0] - theirs()).abs().max()), 6))  # fmt: skip


if __name__ == "__main__":
    main()
