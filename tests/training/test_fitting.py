"""A file to resume from is data: it runs nothing, and one that does not fit is refused before the training."""

import pickle
from pathlib import Path

import pytest
import torch

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.errors import InputError
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.training.fitting import check_same_network, read_checkpoint
from gradsam_exp.training.promptable import PromptableTraining

STATE = {"epoch": 1, "global_step": 8, "loops": {}, "callbacks": {"KeptEpochs": {"best": None}}, "optimizer_states": [], "lr_schedulers": []}


class Program:
    """Creates a file when it is unpickled."""

    def __init__(self, creates: Path) -> None:
        self.creates = creates

    def __reduce__(self) -> tuple:
        return open, (str(self.creates), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a whole checkpoint"])
def test_a_program_is_refused_and_not_run(tmp_path: Path, write, inside: bool):
    program, path = Program(tmp_path / "created"), tmp_path / "last.ckpt"
    write({**STATE, "state_dict": {}, "callbacks": program} if inside else program, path)
    with pytest.raises(
        InputError, match=r"task\.resume=.*last\.ckpt is not a checkpoint of a training"
    ) as refused:
        read_checkpoint(str(path))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip archive"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"task\.resume=.*last\.ckpt is not a checkpoint of a training"
    ) as refused:
        read_checkpoint(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("what", [torch.zeros(3), {"state_dict": {}}])
def test_tensors_without_the_state_of_a_training_are_refused(tmp_path: Path, what):
    path = tmp_path / "last.ckpt"
    torch.save(what, path)
    with pytest.raises(InputError, match=r"task\.resume=.* does not hold the state of a training"):
        read_checkpoint(str(path))


def test_nothing_to_resume_is_nothing_to_read(tmp_path: Path):
    assert read_checkpoint(None) is None
    with pytest.raises(InputError, match=r"task\.resume=.*nowhere\.ckpt does not exist"):
        read_checkpoint(str(tmp_path / "nowhere.ckpt"))


def test_a_training_of_another_network_is_not_resumed(tmp_path: Path, classifier: ImageClassifier):
    path = tmp_path / "last.ckpt"
    torch.save({**STATE, "state_dict": classifier.state_dict()}, path)
    checkpoint = read_checkpoint(str(path))
    check_same_network(checkpoint, classifier, "last.ckpt")
    wanted = ImageClassifier("resnet18", ["cat", "dog"])
    with pytest.raises(InputError, match=r"its backbone\.fc\.bias is \(5,\), here it is \(2,\)"):
        check_same_network(checkpoint, wanted, "last.ckpt")
    with pytest.raises(InputError, match=r"task\.resume=last\.ckpt is a training of another network"):
        check_same_network(checkpoint, PromptableTraining(build_compact(), steps=1), "last.ckpt")
