"""Training of a promptable segmenter: what is trained, by which loss and rate, and that it learns."""

import pytest
import torch
from pytorch_lightning import seed_everything

from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.training.promptable import PromptableTraining, mask_loss
from gradsam_exp.training.queries import SceneBatch


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
    for _ in range(25):
        loss = model.loss(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.slow
def test_scenes_with_one_target_each_have_a_finite_loss():
    seed_everything(0, verbose=False)
    model = PromptableTraining(build_compact(), steps=10)
    images = torch.zeros(2, 3, 256, 256, dtype=torch.uint8)
    masks = square(10, 10, 20).expand(2, 1, 64, 64)
    batch = SceneBatch(images, torch.ones(2, 256, 256, dtype=torch.bool), masks)
    assert all(torch.isfinite(model.loss(batch)) for _ in range(4))
