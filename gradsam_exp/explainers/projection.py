"""These functions project activations on their principal component: one number per pixel for what varies most."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gradsam_exp.explainers.layers import Map, Maps

Kernel = Literal["sigmoid", "rbf", "linear"]
Sign = Literal["channels", "largest"]


def first_component(values: Maps, sign: Sign = "channels") -> Map:
    """Project each pixel on the first principal component of the map's pixels, mean removed.

    Work grows with the cube of the pixels or of the channels, whichever are fewer.

    Args:
        sign: a component's sign means nothing. It is chosen so that the projection rises with the sum of the
            ``channels``, or so that its ``largest`` absolute value is positive.
    """
    pixels = values.flatten(2).transpose(1, 2).double()  # (B, pixels, channels)
    centred = pixels - pixels.mean(1, keepdim=True)
    if pixels.shape[1] <= pixels.shape[2]:
        return _leading(centred @ centred.transpose(1, 2), values, sign)
    directions = torch.linalg.eigh(centred.transpose(1, 2) @ centred).eigenvectors
    return _signed((centred @ directions[..., -1:])[..., 0], values, sign)


def first_kernel_component(values: Maps, kernel: Kernel = "sigmoid") -> Map:
    """Project each pixel on the first component in the feature space of a kernel with γ = 1 / channels.

    Schölkopf et al. (1998). Work grows with the cube of the pixels: that space has more
    dimensions than there are channels.
    """
    pixels = values.flatten(2).transpose(1, 2).double()
    pixels = pixels - pixels.mean(1, keepdim=True)
    gamma = 1 / pixels.shape[2]
    product = pixels @ pixels.transpose(1, 2)
    if kernel == "sigmoid":
        gram = (gamma * product + 1).tanh()
    elif kernel == "rbf":
        gram = (-gamma * torch.cdist(pixels, pixels).square()).exp()
    else:
        gram = product
    gram = gram - gram.mean(1, keepdim=True)
    return _leading(gram - gram.mean(2, keepdim=True), values)


def _leading(gram: Float[Tensor, "batch pixels pixels"], values: Maps, sign: Sign = "channels") -> Map:
    """Project the pixels on the Gram matrix's leading eigenvector."""
    eigenvalues, eigenvectors = torch.linalg.eigh(gram)
    return _signed(eigenvectors[..., -1] * eigenvalues[..., -1:].clamp(min=0).sqrt(), values, sign)


def _signed(scores: Float[Tensor, "batch pixels"], values: Maps, sign: Sign) -> Map:
    """Lay the scores out as maps, turned round where `first_component` says so."""
    if sign == "channels":
        brightness = values.double().sum(1).flatten(1)
        brightness = brightness - brightness.mean(1, keepdim=True)
        direction = (scores * brightness).sum(1, keepdim=True)
    else:
        direction = scores.amax(1, keepdim=True) + scores.amin(1, keepdim=True)
    scores = torch.where(direction < 0, -scores, scores)
    return scores.unflatten(1, values.shape[2:]).to(values.dtype)
