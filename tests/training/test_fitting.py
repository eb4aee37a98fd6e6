"""What a training keeps, how it goes on from it, and that the saved network is the one that was trained.

A file to resume from is data: it runs nothing, and one that does not fit is refused before the training.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.errors import InputError
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.training.fitting import (
    KeptEpochs,
    check_length,
    check_same_network,
    read_checkpoint,
    save_answering,
)
from gradsam_exp.training.promptable import PromptableTraining

STATE = {
    "epoch": 1,
    "global_step": 8,
    "loops": {},
    "callbacks": {"KeptEpochs": {"best": None}},
    "optimizer_states": [],
    "lr_schedulers": [],
}


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


def test_a_training_of_another_length_is_not_resumed():
    checkpoint = {"lr_schedulers": [{"total_steps": 60}]}
    check_length(checkpoint, 60, "last.ckpt")
    with pytest.raises(InputError, match=r"task\.resume=last\.ckpt is a training of 60 steps, .* make 90"):
        check_length(checkpoint, 90, "last.ckpt")


def test_a_best_epoch_that_is_not_beside_its_training_is_missed(tmp_path: Path):
    path = tmp_path / "last.ckpt"
    torch.save({**STATE, "state_dict": {}, "callbacks": {"KeptEpochs": {"best": 0.5}}}, path)
    with pytest.raises(InputError, match=r"best\.ckpt, the training's best epoch so far, does not exist"):
        read_checkpoint(str(path))
    (tmp_path / "best.ckpt").touch()
    assert read_checkpoint(str(path)) is not None


def test_weights_that_are_no_numbers_are_not_trained_further(tmp_path: Path):
    torch.save({**STATE, "state_dict": {"a": torch.tensor([float("nan")])}}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"task\.resume=.*last\.ckpt: the weights in a are not all finite"):
        read_checkpoint(str(tmp_path / "last.ckpt"))


class Told(pl.LightningModule):
    """Has the validation losses that it is told, one an epoch; its weight is the number of epochs."""

    def __init__(self, losses: Sequence[float], infinite_after: int = 99) -> None:
        super().__init__()
        self.losses, self.infinite_after = losses, infinite_after
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return -self.weight if self.current_epoch < self.infinite_after else -self.weight * float("inf")

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("val/loss", torch.tensor(self.losses[self.current_epoch]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=9)]


def train(
    folder: Path,
    model: Told,
    epochs: int,
    *callbacks: pl.Callback,
    resume: Path | None = None,
    batches: int = 1,
    **limits: int,
) -> KeptEpochs:
    kept = KeptEpochs(folder, "val/loss")
    kept.on_load_checkpoint = lambda *_: None  # lengths are another test's
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[kept, *callbacks], logger=False, accelerator="cpu", num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, **limits,
    )  # fmt: skip
    data = DataLoader([0] * batches)  # type: ignore[arg-type]
    trainer.fit(model, data, data, ckpt_path=resume, weights_only=True)
    return kept


def epoch_in(path: Path) -> int:
    return torch.load(path, weights_only=True)["epoch"]


@pytest.mark.filterwarnings("ignore")  # Lightning's, of so little data
def test_the_best_epoch_is_remembered_where_a_training_goes_on(tmp_path: Path):
    losses = [3.0, 1.0, 2.0, 1.5, 0.5]
    train(tmp_path / "one", Told(losses), 3)
    last = tmp_path / "one" / "last.ckpt"
    assert (epoch_in(last), epoch_in(last.with_name("best.ckpt"))) == (2, 1)
    kept = train(tmp_path / "two", Told(losses), 4, resume=last)
    assert kept.best == 1.0
    assert (epoch_in(kept.last), epoch_in(kept.best_path)) == (3, 1)
    kept = train(tmp_path / "two", Told(losses), 5, resume=kept.last)
    assert kept.best == 0.5
    assert (epoch_in(kept.last), epoch_in(kept.best_path)) == (4, 4)


@pytest.mark.filterwarnings("ignore")  # Lightning's, of so little data
def test_a_training_that_was_stopped_early_does_not_go_on(tmp_path: Path):
    losses = [3.0, 4.0, 5.0, 0.0]
    kept = train(tmp_path / "one", Told(losses), 4, EarlyStopping("val/loss", patience=2))
    assert epoch_in(kept.last) == 2
    kept = train(tmp_path / "two", Told(losses), 4, EarlyStopping("val/loss", patience=2), resume=kept.last)
    assert not kept.last.exists()
    assert (kept.best, epoch_in(kept.best_path)) == (3.0, 0)


@pytest.mark.filterwarnings("ignore")  # Lightning's, of so little data
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Told([3.0, float("nan"), 1.0]), "val/loss is nan after epoch 2"),
        (Told([3.0, 2.0, 1.0], infinite_after=1), "weight is not finite after epoch 2"),
    ],
)
def test_an_epoch_that_is_not_finite_is_not_kept_and_the_last(tmp_path: Path, model: Told, said: str):
    kept = train(tmp_path, model, 3)
    assert (kept.best, kept.diverged) == (3.0, said)
    assert (epoch_in(kept.last), epoch_in(kept.best_path)) == (0, 0)
    with pytest.raises(
        InputError, match=r"diverged: val/loss is inf after epoch 1; give a lower task\.learning_rate"
    ):
        train(tmp_path / "other", Told([float("inf")]), 3)
    assert not (tmp_path / "other").exists()


@pytest.mark.filterwarnings("ignore")  # Lightning's, of so little data
def test_an_epoch_that_a_limit_cuts_short_is_not_kept(tmp_path: Path):
    kept = train(tmp_path, Told([3.0, 2.0, 1.0]), 3, batches=4, max_steps=6)
    assert (kept.best, epoch_in(kept.last), epoch_in(kept.best_path)) == (3.0, 0, 0)


class Remainder(nn.Module):
    """Answers what is left of its weights, of which the first one's nearest whole number is taken away."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[weight, weight + 1e-3]]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight - self.weight[0, 0].detach().round()) * x


@pytest.mark.parametrize(("weight", "exactly"), [(0.2, False), (1000.1, True)])
def test_what_is_saved_is_read_again_and_must_answer_as_before(tmp_path: Path, weight: float, exactly: bool):
    """1000.1 in half precision is 1000: a network that takes 1000 from it answers 0, not 0.1."""
    model = Remainder(weight)

    def save(exact: bool) -> Path:
        torch.save(model.state_dict() if exact else {"weight": model.weight.detach().half()}, tmp_path / "w")
        return tmp_path / "w"

    def load() -> Remainder:
        other = Remainder(0.0)
        other.load_state_dict(torch.load(tmp_path / "w", weights_only=True))
        return other

    loaded, exact = save_answering(model, save, load, lambda one: one(torch.ones(1)), classes=True)
    assert exact is exactly
    torch.testing.assert_close(loaded(torch.ones(1)), model(torch.ones(1)), rtol=0.01, atol=0)
    with pytest.raises(InputError, match="what was saved does not compute what was trained"):
        save_answering(model, save, lambda: Remainder(0.5), lambda one: one(torch.ones(1)), classes=True)
    assert not (tmp_path / "w").exists()
    model.weight.data[0, 1] = float("nan")
    with pytest.raises(InputError, match="the training has diverged: the weights in weight are not all finite"):
        save_answering(model, save, load, lambda one: one(torch.ones(1)), classes=True)
    assert not (tmp_path / "w").exists()
