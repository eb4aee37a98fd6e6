from __future__ import annotations

import pytest
import torch

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS, scale_to_unit
from gradsam_exp.explainers.gradient import GradCAM
from gradsam_exp.explainers.several import Mirrored, together
from gradsam_exp.types import ExampleBatch, Heatmaps


def test_members_vote(classifier, batch: ExampleBatch):
    nodes = [{"name": "gradcam", "target_layers": [path]} for path in ("layer2.-1", "layer3.-1")]
    ensemble = EXPLAINERS.build({"name": "ensemble", "of": nodes}, model=classifier)
    one, other = (EXPLAINERS.build(node, model=classifier)(batch.images).values for node in nodes)
    found = ensemble(batch.images)
    assert torch.allclose(found.values, scale_to_unit((one + other) / 2)[0], atol=1e-6)
    assert found.logits is not None


def test_a_member_that_is_not_known_is_named(classifier):
    with pytest.raises(InputError, match="explainer='gradcm' is not known; did you mean 'gradcam'"):
        EXPLAINERS.build({"name": "ensemble", "of": [{"name": "gradcm"}]}, model=classifier)


def test_an_empty_map_has_no_vote():
    full, nothing = torch.tensor([[[0.0, 1.0]], [[0.5, 1.0]]]), torch.zeros(2, 1, 2)
    targets = torch.zeros(2, dtype=torch.long)
    merged = together(
        [
            Heatmaps(full, torch.tensor([False, False]), targets),
            Heatmaps(nothing, torch.tensor([True, True]), targets),
        ],
        "mean",
    )
    assert torch.equal(merged.values[0], full[0])
    assert merged.empty.tolist() == [False, False]


def test_mirroring_twice_changes_nothing_for_a_symmetric_answer(classifier, batch: ExampleBatch):
    plain = GradCAM(classifier, ["layer2.-1"])
    mirrored = Mirrored(plain)(batch.images, batch.labels)
    again = Mirrored(plain)(batch.images.flip(-1), batch.labels)
    assert torch.allclose(mirrored.values, again.values.flip(-1), atol=1e-4)
    assert not torch.allclose(mirrored.values, plain(batch.images, batch.labels).values, atol=1e-2)
