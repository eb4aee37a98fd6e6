"""The pieces of the training recipe, each where its answer is known."""

import pytest
import torch

from gradsam_exp.segmenters.compact import build_compact, count_parameters
from gradsam_exp.training import promptable as recipe


def square(x0: int, y0: int, side: int) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, y0 : y0 + side, x0 : x0 + side] = True
    return mask


def test_the_model_is_compact():
    assert count_parameters(build_compact()) < 3.2e6


def test_random_clicks_lie_on_their_masks():
    masks = torch.cat([square(3, 5, 4), square(40, 50, 9)])
    cells = recipe._anywhere(masks, 20)
    assert masks[torch.arange(2)[:, None], cells[..., 1], cells[..., 0]].all()


def test_the_innermost_cell_is_the_middle():
    assert recipe._innermost(square(10, 20, 5), 1).tolist() == [[[12, 22]]]


def test_cells_become_the_centres_of_their_pixels():
    assert recipe._cells_to_pixels(torch.tensor([[0, 15]])).tolist() == [[1.5, 61.5]]


def test_boxes_are_tight_but_for_the_noise():
    torch.manual_seed(0)
    boxes = recipe._jittered_boxes(square(10, 20, 20).expand(400, -1, -1))
    tight = torch.tensor([10 * 4 - 0.5, 20 * 4 - 0.5, 30 * 4 - 0.5, 40 * 4 - 0.5])
    assert torch.allclose(boxes.mean(0), tight, atol=1.5)
    assert (boxes - tight).abs().max() <= 20
    assert 6 <= (boxes - tight).std() <= 10


def test_corrections_come_from_the_error_region_with_the_right_label():
    torch.manual_seed(0)
    truth = square(10, 10, 20)
    logits = torch.where(square(10, 10, 40), 5.0, -5.0)  # too large: what is wrong is background
    queries = recipe._Queries(torch.tensor([0]), truth, torch.zeros(1, 1, 2), torch.ones(1, 1))
    asked = [recipe._correct(queries, logits) for _ in range(40)]
    clicked = [q for q in asked if q.points.shape[1] == 2]
    assert 20 < len(clicked) < 40, "now and then the mask is refined without a click"
    for q in clicked:
        x, y = ((q.points[0, 1] + 0.5) / 4).floor().long().tolist()
        assert (logits[0, y, x] > 0) != truth[0, y, x]
        assert q.labels[0].tolist() == [1, 0]
        assert torch.equal(q.masks, logits[:, None])


def test_idle_background_points_lie_off_the_target_inside_the_image():
    torch.manual_seed(0)
    truth = torch.cat([square(10, 10, 20), square(0, 0, 30)])
    inside = torch.zeros(2, 64, 64, dtype=torch.bool)
    inside[0, :48] = True
    inside[1, :, :40] = True
    queries = recipe._Queries(torch.tensor([0, 1]), truth, torch.full((2, 1, 2), 70.0), torch.ones(2, 1))
    counts = set()
    for _ in range(40):
        asked = recipe._with_idle_background(queries, inside)
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
    queries = recipe._Queries(torch.tensor([0, 1]), truth, torch.full((2, 1, 2), 70.0), torch.ones(2, 1))
    asked = recipe._with_idle_background(queries, torch.ones(2, 64, 64, dtype=torch.bool))
    assert asked.labels[0].all()
    assert not asked.labels[1, 1:].any()


def test_background_points_can_stand_beside_a_box():
    boxes = torch.tensor([[40.0, 40.0, 120.0, 120.0]])
    queries = recipe._Queries(torch.tensor([0]), square(10, 10, 20), None, None, boxes)
    asked = recipe._with_idle_background(queries, torch.ones(1, 64, 64, dtype=torch.bool))
    assert not asked.labels.any()
    assert torch.equal(asked.boxes, boxes)


def test_clusters_are_grids_around_the_click():
    torch.manual_seed(0)
    queries = recipe._Queries(
        torch.tensor([0]), square(10, 10, 20), torch.tensor([[[80.0, 60.0]]]), torch.ones(1, 1)
    )
    clustered = recipe._clustered(queries)
    assert clustered.labels.tolist() == [[1.0] * 9]
    assert torch.allclose(clustered.points.mean(1), queries.points[:, 0])
    spacing = clustered.points.diff(dim=1)[..., 1].max()
    assert 1 <= spacing <= 8
    assert torch.allclose(clustered.points.amax(1), queries.points[:, 0] + spacing)


def test_a_frozen_encoder_is_not_trained():
    sam = build_compact()
    model = recipe.PromptableTraining(sam, steps=10, frozen_encoder=True)
    encoder = {id(parameter) for parameter in sam.image_encoder.parameters()}
    trained = {
        id(parameter)
        for optimizer in model.configure_optimizers()[0]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert trained
    assert not trained & encoder
    assert {id(parameter) for parameter in sam.mask_decoder.parameters()} <= trained


def test_a_perfect_answer_is_confirmed():
    truth = square(10, 10, 20)
    queries = recipe._Queries(torch.tensor([0]), truth, torch.zeros(1, 1, 2), torch.ones(1, 1))
    for _ in range(20):
        corrected = recipe._correct(queries, torch.where(truth, 5.0, -5.0))
        assert (corrected.labels == 1).all()


def test_a_perfect_mask_costs_next_to_nothing():
    truth = square(10, 10, 20)[:, None].float()
    good, bad = torch.where(truth > 0, 20.0, -20.0), torch.where(truth > 0, -20.0, 20.0)
    loss = recipe._mask_loss(torch.cat([good, bad], 1), truth.expand(-1, 2, -1, -1))[0]
    assert loss[0] < 1e-3
    assert loss[1] > 10


def test_the_rate_rises_stays_and_falls_to_zero():
    model = recipe.PromptableTraining(build_compact(), steps=1000, warmup=100, decay_share=0.3)
    for schedule in model.configure_optimizers()[1]:
        rates = [schedule.lr_lambdas[0](step) for step in (0, 49, 99, 500, 700, 850, 1000)]
        assert rates == [0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]


@pytest.mark.slow
def test_learning_lowers_the_loss_on_one_batch():
    torch.manual_seed(0)
    model = recipe.PromptableTraining(build_compact(), steps=100, warmup=1)
    images = torch.zeros(2, 3, 256, 256, dtype=torch.uint8)
    images[:, :, 40:120, 40:120] = 255
    masks = square(10, 10, 20).expand(2, 4, 64, 64)
    batch = recipe.SceneBatch(images, torch.ones(2, 256, 256, dtype=torch.bool), masks)
    optimizers, _ = model.configure_optimizers()
    model.log_dict = lambda *_, **__: None
    losses = []
    for _ in range(25):
        loss = model.loss(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
