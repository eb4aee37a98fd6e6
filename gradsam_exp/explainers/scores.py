"""These functions compute the score that an explanation explains: one differentiable number per image."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsam_exp.types import PerImage

Logits = Float[Tensor, "batch classes"]
Targets = Int[Tensor, " batch"]
Score = Literal["logit", "softmax", "margin", "rest"]
"""Explainers with a field of this type explain this score of a class; see `class_score`."""


def class_score(kind: Score, logits: Logits, targets: Targets) -> PerImage:
    """Compute the score of each image's target class.

    Args:
        kind: ``logit`` is the class's logit; ``softmax`` its probability, in which the other classes count too,
            computed in float64, or its gradient would vanish where the network is sure; ``margin`` the logit minus
            the largest of the other classes (why this class and not the runner-up?); ``rest`` the logit plus the
            log-probability (Cai, *CAMs as Shapley Value-based Explainers*, 2025), whose second derivative does
            not vanish.
        logits: of one forward pass.
        targets: class ids.
    """
    own = logits.gather(1, targets[:, None])[:, 0]
    if kind == "logit":
        return own
    if kind == "softmax":
        return logits.double().softmax(1).gather(1, targets[:, None])[:, 0].to(logits.dtype)
    if kind == "margin":
        return own - logits.scatter(1, targets[:, None], -torch.inf).amax(1)
    return own + logits.log_softmax(1).gather(1, targets[:, None])[:, 0]


def finer_score(logits: Logits, targets: Targets, *, similar: int, alpha: float) -> PerImage:
    """Compare the target's logit with the ``similar`` classes of the nearest logits.

    ``Σ_d p_d (y_c − α·y_d) / Σ_d p_d`` over these classes ``d``. Zhang et al.: *Finer-CAM* (CVPR 2025), section
    3.2, averaged with the classes' probabilities as in the authors' code.
    """
    own = logits.gather(1, targets[:, None])
    gap = (logits - own).abs().scatter(1, targets[:, None], torch.inf)
    nearest = gap.topk(min(similar, logits.shape[1] - 1), largest=False).indices
    probability = logits.softmax(1).gather(1, nearest)
    difference = own - alpha * logits.gather(1, nearest)
    return (probability * difference).sum(1) / probability.sum(1)
