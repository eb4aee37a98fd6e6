"""These explainers see what happens to the class score when something is taken away: many passes, no gradients."""

from abc import abstractmethod
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from gradsam_exp.explainers.attribution import InputExplainer
from gradsam_exp.explainers.base import EXPLAINERS, Count, Explained, LayerExplainer, Recorded, checked_targets
from gradsam_exp.explainers.layers import frame_of, recording
from gradsam_exp.explainers.network import widened
from gradsam_exp.explainers.scores import Score, class_score
from gradsam_exp.explainers.suffix import Suffix

MaskScore = Literal["probability", "logit", "margin", "rest"]


@dataclass(frozen=True, kw_only=True)
class PerturbationCAM(LayerExplainer):
    """A perturbation CAM weighs a layer's channels by forward passes.

    Attributes:
        chunk: rows of one forward pass; memory and speed only.
    """

    score: Score = "logit"
    chunk: Count = 128

    @abstractmethod
    def layer_map(self, layer: nn.Module, pixels: Tensor, targets: Tensor | None) -> Explained:
        """Make the raw map of one layer; returns the targets and the logits as well."""

    @torch.no_grad()
    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """Make the raw map of one target layer after the other."""
        maps = []
        logits = pixels.new_zeros(0)
        for layer in self.layers:
            raw, targets, logits = self.layer_map(layer, pixels, targets)
            maps.append(raw)
        assert targets is not None
        return Recorded(maps, targets, logits)


@EXPLAINERS.register("ablationcam")
class AblationCAM(PerturbationCAM):
    """AblationCAM weights a layer's channels by what the score loses without them.

    Desai and Ramaswamy (WACV 2020), eq. 2 and 3: ``w_k = (y_c − y_c^k) / y_c`` with ``y_c^k`` the score after
    channel ``k`` is set to zero; the map is ``ReLU(Σ_k w_k A_k)``. Only the part of the network behind the layer
    is run again. Channels that are zero everywhere have weight zero and are not run.

    Since eq. 2 divides by the score, a negative ``y_c`` (a logit or a margin of a class that is not predicted)
    turns all signs round: the map then shows what lowers the score. The grad-cam package does the same.
    """

    by_influence = once = True

    def layer_map(self, layer: nn.Module, pixels: Tensor, targets: Tensor | None) -> Explained:
        """Run the rest of the network without each of the channels."""
        suffix = Suffix(self.model, layer, pixels)
        targets = checked_targets(targets, suffix.logits)
        activations = widened(self.as_maps(suffix.activations, layer, pixels))
        axis = int(self.layout_of(suffix.activations, layer, pixels) == "tokens_first")  # of the images
        if layer not in self.known.setdefault("suffixes", set()):
            suffix.check(axis)
            self.known["suffixes"].add(layer)
        whole = class_score(self.score, suffix.logits, targets)
        scores = whole[:, None].expand(activations.shape[:2]).clone()
        for image, active in enumerate(activations.flatten(2).any(2)):
            for channels in torch.nonzero(active).flatten().split(self.chunk):
                ablated = suffix.activations.index_select(axis, torch.full_like(channels, image))
                rows = torch.arange(len(channels), device=channels.device)
                self.as_maps(ablated, layer, pixels)[rows, channels] = 0  # changes `ablated`
                if ablated.ndim == 4:  # convolutions on a CPU are faster so
                    ablated = ablated.contiguous(memory_format=torch.channels_last)
                logits = suffix(ablated, image, axis)
                scores[image, channels] = class_score(self.score, logits, targets[image].expand(len(channels)))
        weights = (whole[:, None] - scores) / whole[:, None]
        weights = weights.to(activations.dtype)
        return torch.einsum("bk,bkhw->bhw", weights, activations).relu(), targets, suffix.logits


@EXPLAINERS.register("scorecam")
class ScoreCAM(PerturbationCAM):
    """ScoreCAM weights channels by the score of the image masked with each (Wang et al., CVPRW 2020, alg. 1).

    Each channel is upsampled, scaled to [0, 1] and multiplied into the network's input; the scores of
    these inputs, softmax over the channels, are the weights; the map is ``ReLU(Σ_k w_k A_k)``.
    """

    def layer_map(self, layer: nn.Module, pixels: Tensor, targets: Tensor | None) -> Explained:
        """Run the network on the image seen through each of the channels."""
        with recording([layer], gradients=False) as recorded:
            logits = self.run(pixels)
        targets = checked_targets(targets, logits)
        frame = frame_of(pixels)
        activations = widened(self.as_maps(self.recorded_output(recorded, layer), layer, pixels))
        maps, channels = activations.flatten(0, 1), activations.shape[1]
        scores = []
        for rows in torch.arange(len(maps), device=maps.device).split(self.chunk):
            image = rows // channels
            masks = F.interpolate(maps[rows][:, None], frame, mode="bilinear", align_corners=False)
            low, high = masks.amin((1, 2, 3), keepdim=True), masks.amax((1, 2, 3), keepdim=True)
            masks = torch.where(high > low, (masks - low) / (high - low), 0.0)
            scores.append(class_score(self.score, self.run(pixels[image] * masks, image), targets[image]))
        weights = torch.cat(scores).unflatten(0, (len(pixels), channels)).softmax(1).to(activations.dtype)
        return torch.einsum("bk,bkhw->bhw", weights, activations).relu(), targets, logits


@EXPLAINERS.register("rise")
@dataclass(frozen=True, kw_only=True)
class RISE(InputExplainer):
    """RISE averages random masks, weighted by the masked image's class probability (Petsiuk et al., BMVC 2018).

    ``Σ_i s_i M_i / (keep · masks)`` with ``s_i`` the class's score where the image is multiplied by mask ``M_i``.

    Attributes:
        score: what is explained. ``probability`` is the paper's, after the softmax; for the others see
            `class_score`. Those may be negative, and only their differences say anything: their mean over the
            masks is subtracted first.
        masks: number of random masks, the same for all images.
        cells: cells of a mask along each side before it is upsampled and shifted at random.
        keep: probability of a cell to stay.
        seed: of the masks.
        chunk: rows of one forward pass.
    """

    score: MaskScore = "probability"
    masks: Count = 1000
    cells: Count = 7
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    seed: int = 0
    chunk: Count = 128

    def random_masks(self, frame: tuple[int, int]) -> Float[Tensor, "masks height width"]:
        """Draw the masks for inputs of ``frame`` = (height, width) px, in [0, 1], on the CPU.

        Section 3.2 of the paper: ``cells``² random cells, upsampled bilinearly to one cell more than the frame,
        and a window of the frame's size cut out at a place that is random within one cell.
        """
        height, width = frame
        generator = torch.Generator().manual_seed(self.seed)
        grid = (torch.rand(self.masks, 1, self.cells, self.cells, generator=generator) < self.keep).float()
        step_y, step_x = -(-height // self.cells), -(-width // self.cells)
        size = ((self.cells + 1) * step_y, (self.cells + 1) * step_x)
        large = F.interpolate(grid, size, mode="bilinear", align_corners=False)[:, 0]
        top = torch.randint(0, step_y, (self.masks,), generator=generator).tolist()
        left = torch.randint(0, step_x, (self.masks,), generator=generator).tolist()
        return torch.stack([m[y : y + height, x : x + width] for m, y, x in zip(large, top, left, strict=True)])

    @torch.no_grad()
    def input_maps(self, pixels: Tensor, targets: Tensor | None) -> Explained:
        """Average the masks, weighted by the scores of what they leave."""
        logits = self.run(pixels)
        targets = checked_targets(targets, logits)
        masks = self.random_masks(frame_of(pixels)).to(pixels.device)
        maps = pixels.new_zeros(len(pixels), *pixels.shape[-2:])
        for k, image in enumerate(pixels):
            parts = [
                self.kept(self.run(image * m[:, None], torch.full((len(m),), k)), targets[k])
                for m in masks.split(self.chunk)
            ]
            scores = torch.cat(parts)
            if self.score != "probability":
                scores = scores - scores.mean()
            maps[k] = torch.einsum("m,mhw->hw", scores, masks)
        return maps / (self.keep * self.masks), targets, logits

    def kept(self, logits: Float[Tensor, "rows classes"], target: Int[Tensor, ""]) -> Float[Tensor, " rows"]:
        """Compute the score of one class in each row."""
        if self.score == "probability":
            return logits.softmax(1)[:, target]
        return class_score(self.score, logits, target.expand(len(logits)))
