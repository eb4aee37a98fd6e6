"""This module holds ``sam=grabcut``: graph cuts on colours, as before there were networks.

Rother, Kolmogorov and Blake: *GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts*, SIGGRAPH
2004; OpenCV's implementation.
"""

from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from torch import Tensor

from gradsam_exp.digest import digest
from gradsam_exp.segmenters.base import SEGMENTERS
from gradsam_exp.segmenters.pixelwise import LOGIT, PixelSegmenter, inside
from gradsam_exp.types import NO_POINT, Prompts
from gradsam_exp.weights.hub import needed

BACKGROUND, FOREGROUND, PROBABLY_BACKGROUND, PROBABLY_FOREGROUND = range(4)
"""What pixels are marked as: OpenCV's ``GC_BGD``, ``GC_FGD``, ``GC_PR_BGD`` and ``GC_PR_FGD``."""
Probability = Annotated[float, Field(ge=0, le=1)]
Marks = UInt8[np.ndarray, "height width"]


@SEGMENTERS.register("grabcut")
class GrabCut(PixelSegmenter):
    """GrabCut segments by colours: iterated graph cuts, from what a prompt says is probably or surely the object.

    A mask prompt makes pixels of a probability above 0.5 probable foreground, the others probable background, and
    those beyond two thresholds sure. A box makes what is outside of it sure background; without a mask, what is
    inside is probable foreground. Points are sure. With points alone, the image's outermost pixels are sure
    background, as photographers seldom cut objects (Wei et al.: *Geodesic Saliency Using Background Priors*, ECCV
    2012), and all others probable foreground.

    Args:
        iterations: of fitting the colour models and cutting the graph.
        sure_foreground: pixels of at least this probability in a mask prompt are surely foreground.
        sure_background: those of at most this probability are surely background.

    Raises:
        InputError: OpenCV is not installed.
    """

    accepts = frozenset({"points", "boxes", "masks"})

    def __init__(
        self,
        *,
        iterations: Annotated[int, Field(ge=1, le=100)] = 5,
        sure_foreground: Probability = 0.99,
        sure_background: Probability = 0.01,
    ) -> None:
        super().__init__(digest(["opencv", _opencv().__version__]))
        self.iterations, self.sure_foreground, self.sure_background = iterations, sure_foreground, sure_background

    def answer(
        self, image: UInt8[Tensor, "channels height width"], query: Prompts
    ) -> Float[Tensor, "1 height width"]:
        """Mark the pixels by the prompt, and cut."""
        pixels = image.permute(1, 2, 0).numpy()
        found = grabcut(pixels, self.marks(query, pixels.shape[:2]), self.iterations)
        return torch.where(torch.from_numpy(found)[None], LOGIT, -LOGIT)

    def marks(self, query: Prompts, size: tuple[int, int]) -> Marks:
        """Mark the pixels of an image of ``size``, (height, width), as one query says; see the class."""
        marks = torch.full(size, PROBABLY_FOREGROUND)
        if query.mask_logits is not None:
            probability = query.mask_logits[0, 0].sigmoid()
            marks = torch.where(probability > 0.5, PROBABLY_FOREGROUND, PROBABLY_BACKGROUND)
            marks[probability >= self.sure_foreground] = FOREGROUND
            marks[probability <= self.sure_background] = BACKGROUND
        if query.boxes is not None:
            marks[~inside(query.boxes, size)[0]] = BACKGROUND
        elif query.mask_logits is None:
            marks[[0, -1]] = marks[:, [0, -1]] = BACKGROUND
        real = query.labels[0] != NO_POINT
        x, y = query.points[0, real].round().long().T
        marks[y.clamp(0, size[0] - 1), x.clamp(0, size[1] - 1)] = query.labels[0, real]  # the same two numbers
        return marks.to(torch.uint8).numpy()


def grabcut(
    image: UInt8[np.ndarray, "height width 3"], marks: Marks, iterations: int = 5
) -> Bool[np.ndarray, "height width"]:
    """Cut out the foreground of an RGB image; equal input gives equal output.

    Args:
        marks: what the pixels surely or probably are. Where none is foreground, or none background, there is
            nothing to model, and the mask is what is marked as foreground.
    """
    cv2 = _opencv()
    marks = np.ascontiguousarray(marks).copy()
    if len(np.unique(marks % 2)) == 2:
        cv2.setRNGSeed(0)  # of k-means, which begins the colour models
        models = np.zeros((2, 1, 65))
        bgr = np.ascontiguousarray(image[..., ::-1])
        cv2.grabCut(bgr, marks, (0, 0, 0, 0), models[0], models[1], iterations, cv2.GC_INIT_WITH_MASK)
    return marks % 2 == 1


def _opencv() -> Any:
    return needed("cv2", "grabcut")
