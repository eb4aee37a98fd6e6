"""A weights file is half as large where that changes nothing that matters; what is no number is not loaded."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from gradsam_exp.errors import InputError
from gradsam_exp.weights import (
    file_digest,
    open_weights,
    read_pickle,
    save_weights,
    shape_differences,
    shipped,
    unnested,
)


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


def test_a_weights_file_says_what_it_is(tmp_path: Path):
    state = {"steps": torch.tensor(3), "kernel": torch.ones(2)}
    path = save_weights(tmp_path / "w.safetensors", state, {"kind": "classifier", "classes": ["a"]})
    opened = open_weights(path)
    assert (opened.header["kind"], opened.header["classes"]) == ("classifier", ["a"])
    assert opened.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {name: value.dtype for name, value in opened.tensors().items()} == {
        "steps": torch.int64,
        "kernel": torch.float32,
    }
    assert open_weights(str(path), sha256=opened.digest).path == path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            None,
            "sam.checkpoint={path} does not exist; give a file that does, or leave sam.checkpoint at its default",
        ),
        (b"no weights", "sam.checkpoint={path} is not a whole safetensors file ("),
        (
            save({"a": torch.ones(1)}),
            "sam.checkpoint={path} was not written by gradsam_exp: its header does not say what it holds; give "
            "such weights together with their network, as model=timm, torchvision and module do",
        ),
        (
            save({"a": torch.ones(1)}, {"gradsam_exp": "["}),
            "sam.checkpoint={path} is damaged: its header is no JSON",
        ),
        (
            save({"a": torch.ones(1)}, {"gradsam_exp": "1"}),
            "sam.checkpoint={path} is damaged: its header says noth",
        ),
    ],
)
def test_what_is_no_weights_file_is_named(tmp_path: Path, content: bytes | None, said: str):
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        open_weights(path, key="sam.checkpoint")
    assert str(refused.value).startswith(said.format(path=path))


def test_another_file_than_expected_is_refused(tmp_path: Path):
    path = save_weights(tmp_path / "w.safetensors", {"a": torch.ones(1)}, {"kind": "compact"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    said = f"^checkpoint=.*w.safetensors fails its check: SHA-256 {digest[:12]}… instead of 000000000000…; it is"
    for read in (open_weights, file_digest):
        with pytest.raises(InputError, match=said):
            read(path, sha256="0" * 64)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_not_loaded(tmp_path: Path, bad: float):
    saved(tmp_path, first=torch.zeros(2), second=torch.tensor([[0.0, bad]]))
    with pytest.raises(InputError, match=r"w\.safetensors: the weights in second are not all finite") as refused:
        open_weights(tmp_path / "w.safetensors").tensors()
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("; use another file, or train again with a lower task.learning_rate")


def test_large_weights_of_either_sign_are_numbers(tmp_path: Path):
    large = torch.tensor([3e38, 3e38, -3e38, -3e38])
    assert torch.equal(saved(tmp_path, large=large)["large"], large)
    assert torch.equal(open_weights(tmp_path / "w.safetensors").tensors()["large"], large)


def test_weights_that_are_being_written_stand_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gradsam_exp.weights.save_file", lambda state, path, metadata: path.touch())
    monkeypatch.setattr(Path, "replace", lambda path, to: None)
    save_weights(tmp_path / "w.safetensors", {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors.partial"]


def test_shapes_are_compared_by_name():
    one = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(1)}
    other = {"a": torch.zeros(2, 3), "b": torch.zeros(5), "d": torch.zeros(())}
    assert shape_differences(one, other) == [("b", (4,), (5,)), ("c", (1,), None), ("d", None, ())]


def test_a_state_dict_is_found_below_what_holds_it():
    state = {"weight": 1}
    assert unnested({"epoch": 3, "model": {"state_dict": state}}, ["state_dict", "model"]) is state
    assert unnested({"model": "resnet18"}, ["state_dict", "model"]) == {"model": "resnet18"}
    assert unnested([1], ["model"]) == [1]


def test_a_pickle_is_read_as_tensors_and_plain_values(tmp_path: Path):
    torch.save({"a": torch.arange(3)}, tmp_path / "good.pt")
    assert read_pickle(tmp_path / "good.pt", "checkpoint", key="model.file")["a"].tolist() == [0, 1, 2]
    torch.save({"a": Path("x")}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"model\.file=.*bad\.pt is not a whole checkpoint \("):
        read_pickle(tmp_path / "bad.pt", "checkpoint", key="model.file")


def test_shipped_weights_are_known_by_name():
    assert shipped("compact").header["kind"] == "compact"
    with pytest.raises(InputError, match="compact"):
        shipped("compct")
