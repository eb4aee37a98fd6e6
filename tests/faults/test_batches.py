"""What explainers draw at random is the same, and so are their heatmaps, whatever images are explained at once."""

from __future__ import annotations

import pytest
import torch

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.classifiers.checkpoints import find_classifier
from gradsam_exp.engine.stages.heatmaps import Explained
from gradsam_exp.explainers.base import EXPLAINERS
from gradsam_exp.explainers.several import Mirrored
from gradsam_exp.metrics.heatmaps import Sparsity
from gradsam_exp.types import ExampleBatch, Heatmaps

pytestmark = pytest.mark.slow  # whole networks, many times

OF_LAYERS = {"target_layers": ["layer2.-1"]}
RANDOM = {
    "smoothgrad": {"samples": 8},
    "smoothgradcam++": {"samples": 8, **OF_LAYERS},
    "rise": {"masks": 50},
    "integrated_gradients": {"steps": 16},  # draws nothing, but adds up as many copies
    "ensemble": {"of": [{"name": "smoothgrad", "samples": 8}, {"name": "gradcam", **OF_LAYERS}]},
}


@pytest.mark.parametrize("name", RANDOM)
def test_heatmaps_do_not_depend_on_the_batch_size(batch: ExampleBatch, name: str):
    model = find_classifier("shipped:resnet18-shapes").load()
    explainer = EXPLAINERS.build({"name": name, **RANDOM[name]}, model=model)

    def heatmaps(size: int, explainer=explainer) -> Heatmaps:
        return Explained((), lambda: (model, explainer)).heatmaps(batch, AdaptiveBatch("explain", size))

    expected = heatmaps(8)
    for size in (1, 3):
        found = heatmaps(size)
        torch.testing.assert_close(found.values, expected.values, atol=1e-6, rtol=0)
        torch.testing.assert_close(Sparsity().measure(found), Sparsity().measure(expected), atol=1e-6, rtol=0)
    if name == "smoothgrad":
        one, all_of_them = heatmaps(1, Mirrored(explainer)), heatmaps(8, Mirrored(explainer))
        torch.testing.assert_close(one.values, all_of_them.values, atol=1e-6, rtol=0)
