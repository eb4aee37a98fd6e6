"""Training of a promptable segmenter: what is trained, by which loss and rate, and that it learns."""

import pytest
import torch
from pytorch_lightning import seed_everything

from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.compact_lite import build_compact_lite
from gradsam_exp.training.promptable import PromptableTraining, mask_loss
from gradsam_exp.training.queries import SceneBatch, first_prompts


def square(x0: int, y0: int, side: int) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, y0 : y0 + side, x0 : x0 + side] = True
    return mask


def test_the_model_is_compact():
    assert sum(parameter.numel() for parameter in build_compact().parameters()) < 3.2e6


def test_a_frozen_encoder_is_not_trained():
    sam = build_compact()
    model = PromptableTraining(sam, steps=10, frozen_encoder=True)
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


def test_a_perfect_mask_costs_next_to_nothing():
    truth = square(10, 10, 20)[:, None].float()
    good, bad = torch.where(truth > 0, 20.0, -20.0), torch.where(truth > 0, -20.0, 20.0)
    loss = mask_loss(torch.cat([good, bad], 1), truth.expand(-1, 2, -1, -1))[0]
    assert loss[0] < 1e-3
    assert loss[1] > 10


def test_the_rate_rises_stays_and_falls_to_zero():
    model = PromptableTraining(build_compact(), steps=1000, warmup=100, decay_share=0.3)
    for schedule in model.configure_optimizers()[1]:
        rates = [schedule.lr_lambdas[0](step) for step in (0, 49, 99, 500, 700, 850, 1000)]
        assert rates == [0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_a_click_does_not_train_the_single_mask_and_a_box_does():
    seed_everything(0, verbose=False)
    sam = build_compact()
    inside = torch.ones(2, 256, 256, dtype=torch.bool)
    batch = SceneBatch(
        torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8), inside, square(10, 10, 20).expand(2, 2, 64, 64)
    )

    def trains_it(click_share: float) -> bool:
        model = PromptableTraining(sam, steps=10, click_share=click_share, box_share=1.0)
        embeddings = model._embed(sam, batch)
        clicks, boxes = first_prompts(
            batch,
            click_share=click_share,
            box_share=1.0,
            tight_clusters=0.0,
            idle_background=0.0,
            idle_foreground=0.0,
        )
        sam.zero_grad()
        click = click_share == 1.0
        model._answer(embeddings, clicks if click else boxes, ambiguous=click)[0].backward()
        gradient = sam.mask_decoder.output_hypernetworks_mlps[0].layers[0].weight.grad
        return gradient is not None and bool(gradient.any())

    assert not trains_it(1.0)
    assert trains_it(0.5)


def test_what_is_pretrained_learns_at_a_lower_rate_and_the_first_stages_not_at_all():
    sam = build_compact_lite()
    model = PromptableTraining(sam, steps=10, learning_rate=1e-3, pretrained_rate=0.25)
    optimizers, _ = model.configure_optimizers()
    rates = {
        id(one): group["initial_lr"] for own in optimizers for group in own.param_groups for one in group["params"]
    }
    encoder = sam.image_encoder
    assert rates[id(encoder.from8.weight)] == rates[id(encoder.blocks[0].qkv.weight)] == 1e-3
    assert rates[id(encoder.pretrained["stages"][3][0].conv_pw.weight)] == 0.25e-3
    assert rates[id(sam.mask_decoder.iou_token.weight)] == 0.25e-3


def test_the_moving_average_remembers_no_more_than_there_was():
    sam = build_compact()
    model = PromptableTraining(sam, steps=10, average_decay=0.9)
    weight, averaged = (one.mask_decoder.iou_token.weight for one in (sam, model.averaged.module))
    values = [1.0, 3.0, 5.0]
    for value in values:
        torch.nn.init.constant_(weight, value)
        model.averaged.update_parameters(sam)
    expected = 1.0  # the first is taken as it is; then decays are 2/11 and 3/12
    for value, decay in zip(values[1:], (2 / 11, 3 / 12), strict=True):
        expected = decay * expected + (1 - decay) * value
    assert averaged.flatten()[0].item() == pytest.approx(expected)


@pytest.mark.slow
def test_learning_lowers_the_loss_on_one_batch():
    seed_everything(0, verbose=False)
    model = PromptableTraining(build_compact(), steps=100, warmup=1)
    images = torch.zeros(2, 3, 256, 256, dtype=torch.uint8)
    images[:, :, 40:120, 40:120] = 255
    masks = square(10, 10, 20).expand(2, 4, 64, 64)
    batch = SceneBatch(images, torch.ones(2, 256, 256, dtype=torch.bool), masks)
    optimizers, _ = model.configure_optimizers()
    losses = []
    for _ in range(12):
        loss = model.loss(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])


@pytest.mark.slow
def test_scenes_with_one_target_each_have_a_finite_loss():
    seed_everything(0, verbose=False)
    model = PromptableTraining(build_compact(), steps=10)
    images = torch.zeros(2, 3, 256, 256, dtype=torch.uint8)
    masks = square(10, 10, 20).expand(2, 1, 64, 64)
    batch = SceneBatch(images, torch.ones(2, 256, 256, dtype=torch.bool), masks)
    assert all(torch.isfinite(model.loss(batch)) for _ in range(4))
