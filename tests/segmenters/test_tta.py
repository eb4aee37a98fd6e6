"""Every view is asked the same thing, and its answer comes back to where it belongs."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.testing import assert_close

from gradsam_exp import load_segmenter
from gradsam_exp.errors import InputError
from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.segmenters.tta import Augmented, Tta, augmented
from gradsam_exp.types import ExampleBatch, Prompts, Segmentation

LOW = 64


class Literally(Segmenter):
    """Answers with pictures of the prompts: nearness to the first point, the box, the mask, the image's red."""

    accepts = frozenset({"points", "boxes", "masks"})
    digest = "literally"
    device = torch.device("cpu")

    def encode(self, images: Tensor) -> Embeddings:
        """Red, on the low-resolution grid."""
        height, width = images.shape[-2:]
        scale = 4 * LOW / max(height, width)
        size = (round(height * scale), round(width * scale))
        red = torch.nn.functional.interpolate(images[:, :1].float(), size, mode="bilinear")
        red = torch.nn.functional.avg_pool2d(red, 4, ceil_mode=True)
        values = torch.zeros(len(images), 1, LOW, LOW)
        values[..., : red.shape[-2], : red.shape[-1]] = red
        return Embeddings.of_one_size([values], size, (height, width))

    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        centres = torch.arange(LOW) * 4 + 1.5
        (height, width), (input_height, input_width) = embeddings.original_size, embeddings.input_size
        x = (centres + 0.5) * width / input_width - 0.5
        y = (centres + 0.5) * height / input_height - 0.5
        boxes, masks = prompts.boxes, prompts.mask_logits
        assert boxes is not None
        assert masks is not None
        far = (x - prompts.points[:, :1, 0])[:, None].abs() + (y - prompts.points[:, :1, 1])[..., None].abs()
        x0, y0, x1, y1 = boxes.T[..., None]
        depth = torch.minimum(x - x0, x1 - x)[:, None].minimum(torch.minimum(y - y0, y1 - y)[..., None])
        red = embeddings.levels[0][prompts.example_index, 0]
        logits = torch.stack([far, depth, masks[:, 0], red], 1)
        return Segmentation(logits, torch.full((len(prompts), 4), 0.5), prompts.example_index)


def smooth(rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    return torch.linspace(-3, 5, rows)[:, None] + torch.linspace(0, 4, columns) ** 2


@pytest.mark.parametrize("views", [2, 4, 8])
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (64, 64), (37, 101)])
def test_views_of_a_segmenter_that_has_no_sides_agree(views: Tta, size: tuple[int, int]):
    height, width = size
    images = (10 * smooth(height, width) + 60).clamp(0, 255).to(torch.uint8).expand(2, 3, -1, -1)
    plain = Literally()
    embeddings = plain.encode(images)
    rows, columns = (-(-side // 4) for side in embeddings.input_size)
    mask = torch.zeros(1, 1, LOW, LOW)
    mask[..., :rows, :columns] = smooth(rows, columns)
    prompts = Prompts(
        torch.tensor([1]),
        torch.tensor([[[11.0, 7.0], [3.0, 20.0]]]),
        torch.tensor([[1, 0]]),
        torch.tensor([[2.5, 4.5, 20.5, 14.5]]),
        mask,
    )
    expected = plain.decode(embeddings, prompts).logits
    several = Augmented(plain, views)
    seen = several.encode(images)
    assert (seen.input_size, seen.original_size) == (embeddings.input_size, embeddings.original_size)
    sizes = embeddings.input_sizes[prompts.example_index]
    for view, values in zip(several.views, seen.levels[0].chunk(len(several.views), 1), strict=True):
        own = view.of_embeddings(embeddings, (values,))
        logits = view.back(plain.decode(own, view.of_prompts(prompts, embeddings)).logits, sizes)
        inside = (slice(None), slice(None), slice(rows - 1), slice(columns - 1))
        whole = all(side % 4 == 0 for side in embeddings.input_size)
        # where cells do not end with the image, what is kinked or curved is interpolated between them
        for token, tolerance in enumerate([1e-4, 1e-4, 1e-4, 1e-2] if whole else [1.0, 1.0, 0.2, 6.0]):
            assert_close(logits[inside][:, token], expected[inside][:, token], atol=tolerance, rtol=0)


def test_the_answer_is_the_mean_over_the_images_seen_so(segmenter: SamSegmenter, batch: ExampleBatch):
    """Against pictures that were mirrored and prompts that were written down by hand."""
    height, width = batch.size
    points = torch.tensor([[[10.0, 30.0]], [[40.0, 12.0]]])
    labels = torch.ones(2, 1, dtype=torch.long)
    which = torch.tensor([0, 3])
    images = batch.images[:4]
    mirrored_points = torch.tensor([[[width - 1 - 10.0, 30.0]], [[width - 1 - 40.0, 12.0]]])
    first = segmenter.decode(segmenter.encode(images), Prompts(which, points, labels))
    second = segmenter.decode(segmenter.encode(images.flip(-1)), Prompts(which, mirrored_points, labels))
    both = Augmented(segmenter, 2)
    embeddings = both.encode(images)
    answer = both.decode(embeddings, Prompts(which, points, labels))
    assert_close(answer.predicted_iou, (first.predicted_iou + second.predicted_iou) / 2)
    rows, columns = height, width  # 64×48 px: a cell is a pixel
    mean = (first.logits[..., :rows, :columns] + second.logits[..., :rows, :columns].flip(-1)) / 2
    assert_close(answer.logits[..., :rows, :columns], mean)
    assert not torch.allclose(first.logits, second.logits.flip(-1)), "nothing would be averaged"


def test_mirroring_the_image_mirrors_the_answer(segmenter: SamSegmenter, batch: ExampleBatch):
    several = Augmented(segmenter, 8)
    width = batch.size[1]
    index, labels = torch.arange(2), torch.ones(2, 1, dtype=torch.long)
    points = torch.tensor([[[10.0, 30.0]], [[40.0, 12.0]]])
    other = torch.tensor([[[width - 1 - 10.0, 30.0]], [[width - 1 - 40.0, 12.0]]])
    images = batch.images[:2]
    plain, mirrored = several.encode(images), several.encode(images.flip(-1))
    there = several.to_original(several.decode(plain, Prompts(index, points, labels)).logits[:, 1], plain)
    back = several.to_original(several.decode(mirrored, Prompts(index, other, labels)).logits[:, 1], mirrored)
    assert (there == back.flip(-1)).float().mean() > 0.999


def test_one_view_is_the_segmenter_itself(segmenter: SamSegmenter):
    assert augmented(segmenter, 1) is segmenter


def test_by_name(batch: ExampleBatch):
    images = batch.images[:2]
    one, four = load_segmenter("compact"), load_segmenter("compact", tta=4)
    channels = one.encode(images).levels[0].shape[1]
    assert four.encode(images).levels[0].shape[1] == 4 * channels
    with pytest.raises(InputError, match=r"sam\.tta=3"):
        load_segmenter("compact", tta=3)
