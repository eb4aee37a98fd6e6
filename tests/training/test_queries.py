"""The prompts that a segmenter is trained with, each where its answer is known."""

import pytest
import torch
from pytorch_lightning import seed_everything

from gradsam_exp.training.queries import (
    Queries,
    SceneBatch,
    borders_touched,
    cells_to_pixels,
    clustered,
    corrected,
    first_prompts,
    innermost_cells,
    jittered_boxes,
    random_cells,
    with_idle_background,
    with_idle_foreground,
)

PLAIN = {
    "click_share": 0.75, "box_share": 0.0, "tight_clusters": 0.0, "idle_background": 0.0, "idle_foreground": 0.0,
}  # fmt: skip


def square(x0: int, y0: int, side: int) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, y0 : y0 + side, x0 : x0 + side] = True
    return mask


def test_random_clicks_lie_on_their_masks():
    masks = torch.cat([square(3, 5, 4), square(40, 50, 9)])
    cells = random_cells(masks, 20)
    assert masks[torch.arange(2)[:, None], cells[..., 1], cells[..., 0]].all()


def test_the_innermost_cell_is_the_middle():
    assert innermost_cells(square(10, 20, 5), 1).tolist() == [[[12, 22]]]


def test_cells_become_the_centres_of_their_pixels():
    assert cells_to_pixels(torch.tensor([[[0, 15]]])).tolist() == [[[1.5, 61.5]]]


def test_boxes_are_tight_but_for_the_noise():
    seed_everything(0, verbose=False)
    boxes = jittered_boxes(square(10, 20, 20).expand(400, -1, -1))
    tight = torch.tensor([10 * 4 - 0.5, 20 * 4 - 0.5, 30 * 4 - 0.5, 40 * 4 - 0.5])
    assert torch.allclose(boxes.mean(0), tight, atol=1.5)
    assert (boxes - tight).abs().max() <= 20
    assert 6 <= (boxes - tight).std() <= 10


def test_corrections_come_from_the_error_region_with_the_right_label():
    seed_everything(0, verbose=False)
    truth = square(10, 10, 20)
    logits = torch.where(square(10, 10, 40), 5.0, -5.0)  # too large: what is wrong is background
    queries = Queries(torch.tensor([0]), truth, torch.zeros(1, 1, 2), torch.ones(1, 1))
    asked = [corrected(queries, logits) for _ in range(40)]
    clicked = [q for q in asked if q.points.shape[1] == 2]
    assert 20 < len(clicked) < 40, "now and then the mask is refined without a click"
    for q in clicked:
        x, y = ((q.points[0, 1] + 0.5) / 4).floor().long().tolist()
        assert (logits[0, y, x] > 0) != truth[0, y, x]
        assert q.labels[0].tolist() == [1, 0]
        assert torch.equal(q.masks, logits[:, None])


def test_idle_background_points_lie_off_the_target_inside_the_image():
    seed_everything(0, verbose=False)
    truth = torch.cat([square(10, 10, 20), square(0, 0, 30)])
    inside = torch.zeros(2, 64, 64, dtype=torch.bool)
    inside[0, :48] = True
    inside[1, :, :40] = True
    queries = Queries(torch.tensor([0, 1]), truth, torch.full((2, 1, 2), 70.0), torch.ones(2, 1))
    counts = set()
    for _ in range(40):
        asked = with_idle_background(queries, inside)
        assert torch.equal(asked.points[:, :1], queries.points)
        counts.add(asked.points.shape[1] - 1)
        assert asked.labels.tolist() == [[1.0] + [0.0] * (asked.points.shape[1] - 1)] * 2
        x, y = ((asked.points[:, 1:] + 0.5) / 4).floor().long().unbind(-1)
        rows = torch.arange(2)[:, None]
        assert inside[rows, y, x].all()
        assert not truth[rows, y, x].any()
    assert counts == set(range(1, 9))


def test_a_target_that_fills_the_image_has_no_background():
    truth = torch.cat([square(0, 0, 64), square(10, 10, 20)])
    queries = Queries(torch.tensor([0, 1]), truth, torch.full((2, 1, 2), 70.0), torch.ones(2, 1))
    asked = with_idle_background(queries, torch.ones(2, 64, 64, dtype=torch.bool))
    assert asked.labels[0].all()
    assert not asked.labels[1, 1:].any()


def test_idle_foreground_points_lie_on_the_target():
    seed_everything(0, verbose=False)
    truth = torch.cat([square(10, 10, 20), square(0, 0, 3)])
    queries = Queries(torch.tensor([0, 1]), truth, torch.full((2, 1, 2), 70.0), torch.ones(2, 1))
    counts = set()
    for _ in range(40):
        asked = with_idle_foreground(queries)
        assert torch.equal(asked.points[:, :1], queries.points)
        assert asked.labels.all()
        counts.add(asked.points.shape[1] - 1)
        x, y = ((asked.points[:, 1:] + 0.5) / 4).floor().long().unbind(-1)
        assert truth[torch.arange(2)[:, None], y, x].all()
    assert counts == set(range(1, 9))


def test_equal_shares_show_idle_clicks_of_both_kinds_in_the_same_steps():
    truth = torch.stack([square(4 + k, 5, 6) for k in range(8)]).view(2, 4, 64, 64)
    images, inside = torch.zeros(2, 3, 256, 256, dtype=torch.uint8), torch.ones(2, 256, 256, dtype=torch.bool)
    batch = SceneBatch(images, inside, truth)
    counts, labels = {}, {}
    for kind in ("background", "foreground"):
        asked = []
        for seed in range(40):
            seed_everything(seed, verbose=False)
            asked.append(first_prompts(batch, **PLAIN | {f"idle_{kind}": 0.4}))
        counts[kind] = [[own.points.shape[1] for own in both] for both in asked]
        labels[kind] = {int(value) for both in asked for own in both for value in own.labels[:, -1]}
    assert counts["background"] == counts["foreground"]
    assert 8 <= sum(clicks > 1 for clicks, _ in counts["background"]) <= 24
    assert labels == {"background": {0, 1}, "foreground": {1}}


def test_background_points_can_stand_beside_a_box():
    boxes = torch.tensor([[40.0, 40.0, 120.0, 120.0]])
    queries = Queries(torch.tensor([0]), square(10, 10, 20), None, None, boxes)
    asked = with_idle_background(queries, torch.ones(1, 64, 64, dtype=torch.bool))
    assert not asked.labels.any()
    assert torch.equal(asked.boxes, boxes)


def test_clusters_are_grids_around_the_click():
    seed_everything(0, verbose=False)
    queries = Queries(torch.tensor([0]), square(10, 10, 20), torch.tensor([[[80.0, 60.0]]]), torch.ones(1, 1))
    grid = clustered(queries)
    assert grid.labels.tolist() == [[1.0] * 9]
    assert torch.allclose(grid.points.mean(1), queries.points[:, 0])
    spacing = grid.points.diff(dim=1)[..., 1].max()
    assert 1 <= spacing <= 8
    assert torch.allclose(grid.points.amax(1), queries.points[:, 0] + spacing)


def test_a_perfect_answer_is_confirmed():
    truth = square(10, 10, 20)
    queries = Queries(torch.tensor([0]), truth, torch.zeros(1, 1, 2), torch.ones(1, 1))
    for _ in range(20):
        asked = corrected(queries, torch.where(truth, 5.0, -5.0))
        assert (asked.labels == 1).all()


@pytest.mark.parametrize(("targets", "by_click"), [(1, 1), (2, 2), (4, 3), (8, 6)])
def test_three_quarters_of_the_targets_are_asked_for_by_a_click(targets: int, by_click: int):
    truth = torch.stack([square(4 + k, 5, 6) for k in range(2 * targets)]).view(2, targets, 64, 64)
    images, inside = torch.zeros(2, 3, 256, 256, dtype=torch.uint8), torch.ones(2, 256, 256, dtype=torch.bool)
    clicks, others = first_prompts(SceneBatch(images, inside, truth), **PLAIN)
    assert torch.equal(clicks.truth, truth[:, :by_click].flatten(0, 1))
    assert torch.equal(others.truth, truth[:, by_click:].flatten(0, 1))
    assert clicks.image_index.tolist() == [0] * by_click + [1] * by_click
    assert clicks.points.shape == (2 * by_click, 1, 2)


def test_borders_are_those_of_the_image_and_not_of_its_padding():
    inside = torch.zeros(1, 64, 64, dtype=torch.bool)
    inside[:, :48] = True
    masks = torch.zeros(1, 4, 64, 64, dtype=torch.bool)
    masks[0, 0, 10:20, 10:20] = True  # none
    masks[0, 1, 40:48, 10:20] = True  # the lower one
    masks[0, 2, :20, :] = True  # all but the lower one
    masks[0, 3, :48, 63] = True  # all but the left one
    assert borders_touched(masks, inside).tolist() == [[0, 1, 3, 3]]


def test_boxes_ask_for_things_where_there_are_any():
    wide = torch.zeros(64, 64, dtype=torch.bool)
    wide[30:] = True  # touches three borders
    thing = square(10, 10, 8)[0]
    truth = torch.stack([torch.stack([thing, wide, wide, wide]), torch.stack([wide, wide, thing, thing])])
    inside = torch.ones(2, 256, 256, dtype=torch.bool)
    batch = SceneBatch(torch.zeros(2, 3, 256, 256, dtype=torch.uint8), inside, truth)
    seed_everything(0, verbose=False)
    clicks, others = first_prompts(batch, **PLAIN | {"box_share": 1.0})
    assert clicks.boxes is None
    assert others.points is None
    assert torch.equal(others.truth, thing.expand(2, -1, -1))
    assert others.image_index.tolist() == [0, 1]
    centres = others.boxes.unflatten(1, (2, 2)).mean(1)
    assert (centres - 55.5).abs().max() < 12


def test_the_same_seed_gives_the_same_prompts():
    batch = SceneBatch(
        torch.zeros(2, 3, 256, 256, dtype=torch.uint8),
        torch.ones(2, 256, 256, dtype=torch.bool),
        square(10, 10, 20).expand(2, 4, 64, 64),
    )
    drawn = []
    for seed in (3, 3, 4):
        seed_everything(seed, verbose=False)
        clicks, _ = first_prompts(
            batch, **PLAIN | dict.fromkeys(("tight_clusters", "idle_background", "idle_foreground"), 0.5)
        )
        drawn.append(clicks.points)
    assert torch.equal(drawn[0], drawn[1])
    assert not (drawn[0].shape == drawn[2].shape and torch.equal(drawn[0], drawn[2]))
