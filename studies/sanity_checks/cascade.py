"""These functions randomise a network from its output down, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.errors import InputError


def blocks_of(network: nn.Module) -> list[tuple[str, ...]]:
    """Name the blocks of a network from its output to its input, as they are registered in it.

    A block is a child of the network. One that holds more than half of the parameters is taken apart into its own
    children, and a normalisation is one block with the layer before it.

    Returns:
        The dotted names of each block's modules, the layer's before the normalisations'.
    """
    total = _parameters(network)

    def below(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        for name, child in _children(module):
            if _parameters(child) > total / 2 and len(_children(child)) > 1:
                yield from below(f"{prefix}{name}.", child)
            else:
                yield f"{prefix}{name}", child

    blocks: list[tuple[str, ...]] = []
    for name, module in below("", network):
        only_scales = all(parameter.ndim < 2 for parameter in module.parameters())
        if only_scales and blocks:
            blocks[-1] = (*blocks[-1], name)
        else:
            blocks.append((name,))
    return blocks[::-1]


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that have parameters."""
    return [(name, child) for name, child in module.named_children() if _parameters(child)]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def randomised(
    trained: Mapping[str, Tensor], fresh: Mapping[str, Tensor], blocks: Sequence[Sequence[str]]
) -> Iterator[dict[str, Tensor]]:
    """Give the network's tensors after each step of the cascade: one block more is as if never trained.

    Args:
        trained, fresh: the network's tensors after and before training, by name.
        blocks: see `blocks_of`. With the last one, all tensors that are in none become random as well.
    """
    state = dict(trained)
    for number, block in enumerate(blocks, 1):
        prefixes = tuple(f"{name}." for name in block)
        chosen = [name for name in state if name.startswith(prefixes) or number == len(blocks)]
        state |= {name: fresh[name] for name in chosen}
        yield dict(state)


def untrained(classifier: ImageClassifier, seed: int) -> ImageClassifier:
    """Build the same classifier with random weights, as its library initialises them; torch's generator stays.

    Raises:
        InputError: it is not known how its network is built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return ImageClassifier(**classifier.hparams)
        except (KeyError, TypeError, InputError) as error:
            raise InputError(
                f"model: {classifier.backbone_name} cannot be built without its weights, so that it cannot be "
                "randomised: use model=resnet18, checkpoint, imagenet, torchvision, timm, hf or module"
            ) from error
