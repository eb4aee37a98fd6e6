"""A weights file is half as large where that changes nothing that matters; what is no number is not loaded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gradsam_exp.errors import InputError
from gradsam_exp.weights import open_weights, save_weights


def saved(path: Path, exact: bool = False, **state: torch.Tensor) -> dict[str, torch.Tensor]:
    return load_file(save_weights(path / "w.safetensors", state, {"kind": "classifier"}, exact=exact))


def test_what_half_precision_cannot_hold_is_in_single_precision(tmp_path: Path):
    state = {
        "kernel": torch.linspace(-0.3, 0.3, 12).view(3, 4),
        "large": torch.tensor([[1.0, 70_000.0]]),
        "small": torch.full((2, 2), 3e-8),
        "running_var": torch.tensor([156_953.0, 1e-12]),
        "steps": torch.tensor(3),
    }
    kept = saved(tmp_path, **state)
    assert kept["kernel"].dtype == torch.float16
    assert kept["steps"].dtype == torch.int64
    for name in ("large", "small", "running_var", "steps"):
        assert torch.equal(kept[name], state[name]), name
    exactly = saved(tmp_path, exact=True, **state)
    assert all(torch.equal(exactly[name], state[name]) for name in state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_not_loaded(tmp_path: Path, bad: float):
    saved(tmp_path, first=torch.zeros(2), second=torch.tensor([[0.0, bad]]))
    with pytest.raises(InputError, match=r"w\.safetensors: the weights in second are not all finite") as refused:
        open_weights(tmp_path / "w.safetensors").tensors()
    assert "\n" not in str(refused.value)
