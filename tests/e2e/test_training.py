"""Training: the commands work, what they leave is used by the next command, and an interruption costs an epoch."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gradsam_exp.classifiers.checkpoints import find_classifier, save_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.shapes import SHAPES
from gradsam_exp.training.promptable import PromptableTraining
from gradsam_exp.weights import open_weights
from tests.faults.counts import only_soaking

pytestmark = pytest.mark.slow
SMALL = [
    "background=noise",
    "data.lengths.train=128",
    "data.lengths.val=32",
    "data.lengths.test=32",
    "trainer.precision=32-true",
]


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segmenter is validated on 4 scenes, not on 192, which takes most of a short training's time."""
    monkeypatch.setattr("gradsam_exp.training.scene_loader.VALIDATION_SCENES", 4)


def test_a_classifier_is_trained_and_used(run):
    done = run("task=train", "task.epochs=2", *SMALL, defaults=False)
    assert done.code == 0, done.err
    (weights,) = done.folder.rglob("classifier.safetensors")
    for checkpoint in (weights, *done.folder.rglob("best.ckpt")):
        used = run("logger=none", "limit=4", f"model.checkpoint={checkpoint}")
        assert used.code == 0, used.err
    accuracy = json.loads((weights.parent / "accuracy.json").read_text())
    assert accuracy["val"].keys() == {"overall", "macro", "classes"}
    assert accuracy["val"]["classes"].keys() == {"circle", "square", "triangle", "star", "diamond"}
    assert "use it: python run.py " in done.out
    whole, half = find_classifier(next(iter(done.folder.rglob("best.ckpt")))), find_classifier(weights)
    assert whole.class_names == half.class_names
    for one, other in zip(whole.load().parameters(), half.load().parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-2, rtol=1e-2)


def test_a_trained_classifier_is_trained_further(run, random_weights):
    (start,) = (o.removeprefix("model.checkpoint=") for o in random_weights if o.startswith("model."))
    still = ["task=train", "task.epochs=1", "task.learning_rate=1e-12", f"task.start={start}"]
    done = run(*still, *SMALL, defaults=False)
    assert done.code == 0, done.err
    (weights,) = done.folder.rglob("classifier.safetensors")
    before, after = (find_classifier(path).load().backbone.fc.weight for path in (start, weights))
    torch.testing.assert_close(after, before)
    other = run(*still, "model.backbone=resnet34", *SMALL, defaults=False)
    assert other.code == 1
    assert "task.start is a classifier with backbone_name=resnet18, but this training has resnet34" in other.err


@only_soaking
def test_trainings_can_be_swept(run):
    done = run("-m", "task=train", "task.epochs=1", "model.seed=0,1", *SMALL, defaults=False)
    assert done.code == 0, done.err
    assert len(list(done.folder.rglob("classifier.safetensors"))) == 2
    (table,) = done.folder.rglob("sweep.csv")
    assert pd.read_csv(table)[["model.seed", "status"]].to_numpy().tolist() == [[0, "finished"], [1, "finished"]]


def test_a_classifier_of_ones_own_data(run, tmp_path: Path, shape_files: Path):
    """Class names come from the folders; nothing is wired to five shapes or 64×48."""
    own = tmp_path / "own"
    for split in ("train", "val", "test"):
        for number, path in enumerate(sorted((shape_files / "images" / split).iterdir())):
            for tree in ("images", "masks"):
                target = own / tree / split / ("cats", "dogs")[number % 2] / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((shape_files / tree / split / path.name).read_bytes())
    data = ["data=folder", f"data.root={own}"]
    trained = run("task=train", "task.epochs=1", "task.batch_size=4", "model.size=[32,32]", *data,
                  "trainer.precision=32-true", defaults=False)  # fmt: skip
    assert trained.code == 0, trained.err
    (weights,) = trained.folder.rglob("classifier.safetensors")
    file = find_classifier(weights)
    assert file.class_names == ("cats", "dogs")
    assert tuple(file.load().transform.size) == (32, 32)
    used = run(f"model.checkpoint={weights}", *data)
    assert used.code == 0, used.err


def stop_at(patch: pytest.MonkeyPatch, module: type, epoch: int, batch: int) -> None:
    """Ctrl-C before a step of a training."""
    step = module.training_step

    def interrupted(model, given, index: int):
        if (model.current_epoch, index) == (epoch, batch):
            raise KeyboardInterrupt
        return step(model, given, index)

    patch.setattr(module, "training_step", interrupted)


def newest(folder: Path, name: str) -> Path:
    return max(folder.rglob(name), key=lambda path: path.stat().st_mtime)


def same(one, other) -> bool:
    """Equal to the bit, tensors in dicts and lists included."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def same_training(one: Path, other: Path) -> bool:
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    kinds = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "epoch", "global_step")
    return all(same(first[kind], second[kind]) for kind in kinds)


@pytest.mark.parametrize(
    ("drawn", "workers", "at", "extra"),
    [
        pytest.param(True, 0, (3, 1), [], marks=only_soaking),
        pytest.param(
            True, 2, (1, 0), ["task.fresh=false", "+trainer.accumulate_grad_batches=2"], marks=only_soaking
        ),
        pytest.param(False, 2, (3, 1), ["task.learning_rate=0.03"], marks=only_soaking),
        (False, 0, (2, 2), ["task.learning_rate=0.03", "+trainer.accumulate_grad_batches=2"]),
    ],
)
def test_interrupted_and_resumed_is_uninterrupted(
    run, monkeypatch, tmp_path: Path, drawn: bool, workers: int, at: tuple[int, int], extra: list[str]
):
    """Weights, optimizer, best score and file are equal bit for bit, in another folder and with other workers."""
    given = ["task=train", "model.backbone=mobilenet_v3_small", "task.epochs=5", "logger=none"]
    given += ["trainer.precision=32-true", *extra]
    if drawn:
        given += ["background=noise", *(f"data.lengths.{split}=32" for split in ("train", "val", "test"))]
        given += ["task.batch_size=8"]
    else:
        some = {"dog": 5, "emu": 4}
        root = coloured(tmp_path / "own", {"train": some, "val": some, "test": some})
        given += ["data=folder", f"data.root={root}", "task.batch_size=3"]
    whole = run(*given, "task.workers=0", defaults=False)
    assert whole.code == 0, whole.err
    expected = [newest(whole.folder, name) for name in ("last.ckpt", "best.ckpt", "classifier.safetensors")]
    with monkeypatch.context() as patch:
        stop_at(patch, ImageClassifier, *at)
        first = run(*given, f"task.workers={workers}", defaults=False)
    assert first.code == 130, first.err
    last = newest(first.folder, "last.ckpt")
    assert f"task.resume={last}" in first.out
    second = run(*given, f"task.workers={workers}", f"task.resume={last}", defaults=False)
    assert second.code == 0, second.err
    resumed = [newest(second.folder, name) for name in ("last.ckpt", "best.ckpt", "classifier.safetensors")]
    assert not {*resumed} & {last, *expected}
    assert same_training(resumed[0], expected[0])
    assert same_training(resumed[1], expected[1])
    assert resumed[2].read_bytes() == expected[2].read_bytes()


@only_soaking
def test_a_training_of_another_length_is_not_resumed(run, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, ImageClassifier, 1, 0)
        first = run("task=train", "task.epochs=3", *SMALL, defaults=False)
    (last,) = first.folder.rglob("last.ckpt")
    longer = run("task=train", "task.epochs=9", f"task.resume={last}", *SMALL, defaults=False)
    assert longer.code == 1
    assert "is a training of 6 steps, but these settings make 18" in longer.err
    assert longer.err.count("\n") == 1
    last.with_name("best.ckpt").unlink()
    alone = run("task=train", "task.epochs=3", f"task.resume={last}", *SMALL, defaults=False)
    assert alone.code == 1
    assert "best.ckpt, the training's best epoch so far, does not exist" in alone.err


class Program:
    """Creates a file when it is unpickled."""

    def __init__(self, creates: Path) -> None:
        self.creates = creates

    def __reduce__(self) -> tuple:
        return open, (str(self.creates), "w")


@pytest.mark.parametrize("task", ["train", "train_sam"])
def test_a_program_in_a_checkpoint_is_not_run(run, tmp_path: Path, task: str):
    checkpoint = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "callbacks": Program(tmp_path / "created")}, checkpoint)
    done = run(f"task={task}", f"task.resume={checkpoint}", "trainer.precision=32-true", defaults=False)
    assert done.code == 1
    said = f"gradsam_exp: task.resume={checkpoint} is not a checkpoint of a training, or is damaged"
    assert done.err.startswith(said)
    assert done.err.count("\n") == 1
    assert not (tmp_path / "created").exists()
    assert not list(done.folder.rglob("*.ckpt")), "refused before anything is trained"


TINY_SAM = [
    "task=train_sam", "task.batch_size=2", "task.targets=2", "task.steps_per_epoch=2", "trainer.precision=32-true",
]  # fmt: skip


@pytest.fixture
def outlined(tmp_path: Path) -> Path:
    """A folder of photographs with label maps, of which a quarter is held out."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / "own" / folder).mkdir(parents=True)
    for number in range(16):
        labels = np.kron(rng.integers(0, 4, (3, 4), dtype=np.uint8), np.ones((20, 20), np.uint8))
        Image.fromarray(labels).save(tmp_path / f"own/labels/{number}.png")
        picture = rng.integers(0, 256, (5, 3), dtype=np.uint8)[labels]
        Image.fromarray(picture).save(tmp_path / f"own/images/{number}.png")
    return tmp_path


@only_soaking
@pytest.mark.parametrize("architecture", ["vit", "lite0"])
def test_an_interrupted_and_resumed_training_of_a_sam_is_uninterrupted(run, monkeypatch, outlined, architecture):
    given = [*TINY_SAM, "task.steps=6", "task.tight_clusters=0.5", "task.idle_background=0.5"]
    given += [f"task.architecture={architecture}", f"task.photographs={outlined}", "task.drawn_share=0.5"]
    whole = run(*given, defaults=False)
    assert whole.code == 0, whole.err
    expected = [newest(whole.folder, name) for name in ("last.ckpt", "compact.safetensors")]
    with monkeypatch.context() as patch:
        stop_at(patch, PromptableTraining, 1, 1)
        first = run(*given, defaults=False)
    assert first.code == 130, first.err
    last = newest(first.folder, "last.ckpt")
    assert f"task.resume={last}" in first.out
    second = run(*given, f"task.resume={last}", defaults=False)
    assert second.code == 0, second.err
    resumed = [newest(second.folder, name) for name in ("last.ckpt", "compact.safetensors")]
    assert not {*resumed} & {last, *expected}
    assert same_training(resumed[0], expected[0])
    assert resumed[1].read_bytes() == expected[1].read_bytes()


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        (["+trainer.fast_dev_run=true"], 0, "no weights are kept"),
        (["+trainer.max_epochs=2"], 1, "trainer.max_epochs is set by the task; say task.epochs (task.steps"),
        (["task.learning_rate=1e30"], 1, "is not finite after epoch 1; give a lower task.learning_rate"),
    ],
)
def test_a_training_of_a_sam_that_keeps_no_weights_says_so(run, overrides: list[str], code: int, said: str):
    done = run(*TINY_SAM, "task.steps=4", *overrides, defaults=False)
    assert done.code == code, done.err
    assert said in done.out + done.err
    assert done.err.count("\n") == code
    assert not [*done.folder.rglob("*.safetensors"), *done.folder.rglob("*.ckpt")]


def test_a_compact_sam_is_trained_resumed_and_used(run, outlined: Path):
    tiny = TINY_SAM
    first = run(*tiny, "task.steps=2", defaults=False)
    assert first.code == 0, first.err
    (last,) = first.folder.rglob("last.ckpt")
    second = run(*tiny, "task.steps=4", f"task.resume={last}", defaults=False)
    assert second.code == 0, second.err
    newest = max(second.folder.rglob("compact.safetensors"), key=lambda path: path.stat().st_mtime)
    assert open_weights(newest).header["kind"] == "compact"
    used = run(f"sam.checkpoint={newest}")
    assert used.code == 0, used.err
    probe = ["task=probe_sam", f"sam.checkpoint={newest}", "logger=none"]
    probed = run(*probe, "task.images=4", defaults=False)
    assert probed.code == 0, probed.err
    assert "background click: both" in probed.out
    probed = run(*probe, f"task.photographs={outlined}", defaults=False)
    assert probed.code == 0, probed.err
    assert "labelled segments: one click, best of three" in probed.out


@only_soaking
def test_a_compact_sam_is_trained_further(run):
    tiny = TINY_SAM
    first = run(*tiny, "task.steps=2", defaults=False)
    assert first.code == 0, first.err
    (newest,) = first.folder.rglob("compact.safetensors")
    started = run(*tiny, "task.steps=2", "task.frozen_encoder=true", f"task.start={newest}", defaults=False)
    assert started.code == 0, started.err
    tuned = max(started.folder.rglob("compact.safetensors"), key=lambda path: path.stat().st_mtime)
    assert tuned != newest
    before, after = open_weights(newest).tensors(), open_weights(tuned).tensors()
    same = {key for key, value in before.items() if torch.equal(value, after[key])}
    assert {key for key in before if key.startswith("image_encoder.")} <= same
    assert any(key.startswith("mask_decoder.") for key in before.keys() - same)


def test_weights_to_start_from_that_are_not_there_are_named(run):
    bad = run(*TINY_SAM, "task.start=shipped:compakt", defaults=False)
    assert bad.code == 1
    assert "no weights named 'compakt' ship with gradsam_exp; did you mean 'compact'?" in bad.err
    bad = run(*TINY_SAM, "task.resume=/nowhere/last.ckpt", defaults=False)
    assert bad.code == 1
    assert "task.resume=/nowhere/last.ckpt does not exist" in bad.err


COLOURS = {"all": (200, 60, 60), "dog": (60, 200, 60), "emu": (60, 60, 200)}


def coloured(root: Path, counts: dict[str, dict[str, int]]) -> Path:
    """Pictures of one colour a class, 64×48 px, and masks of the middle; ``counts`` by split and class."""
    rng = np.random.default_rng(0)
    for split, of_class in counts.items():
        for name, count in of_class.items():
            for k in range(count):
                pixels, mask = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8), np.zeros((48, 64), np.uint8)
                pixels[8:40, 8:56], mask[8:40, 8:56] = COLOURS[name], 255
                for tree, array in (("images", pixels), ("masks", mask)):
                    path = root / tree / split / name / f"{k}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(path)
    return root


@only_soaking
def test_a_split_may_lack_a_class_and_the_printed_command_runs(run, tmp_path: Path):
    """A class called "all" that only train has; the folder's name needs quotes in a shell and in Hydra."""
    some = {"dog": 3, "emu": 3}
    root = coloured(tmp_path / "my data", {"train": {"all": 8, "dog": 8, "emu": 8}, "val": some, "test": some})
    done = run("task=train", "data=folder", f"data.root={root}", "task.epochs=12", "task.batch_size=8",
               "task.class_weights=balanced", "trainer.precision=32-true", "logger=none", "task.workers=0",
               "task.patience=null", defaults=False)  # fmt: skip
    assert done.code == 0, done.err
    assert "test: no image of 1 of 3 classes (all)" in done.out
    (weights,) = done.folder.rglob("classifier.safetensors")
    accuracy = json.loads((weights.parent / "accuracy.json").read_text())
    assert accuracy["test"] == {"overall": 1.0, "macro": 1.0, "classes": {"all": None, "dog": 1.0, "emu": 1.0}}
    assert open_weights(weights).header["accuracy"] == accuracy
    (line,) = (line for line in done.out.splitlines() if line.startswith("use it: "))
    words = shlex.split(line.removeprefix("use it: "))
    assert words[:2] == ["python", "run.py"]
    used = run(*words[2:], "task.figures=false", defaults=False)
    assert used.code == 0, used.err
    metrics = json.loads((used.runs[0] / "metrics.json").read_text())["metrics"]
    assert metrics["accuracy"]["mean"] == 1.0


def test_the_test_split_is_looked_at_before_the_first_epoch(run, tmp_path: Path):
    root = coloured(tmp_path / "own", {"train": {"dog": 2, "emu": 2}, "val": {"dog": 1, "emu": 1}})
    done = run("task=train", "data=folder", f"data.root={root}", "logger=none", defaults=False)
    assert done.code == 1
    assert done.err.startswith("gradsam_exp: data.root: the folder ")
    assert done.err.count("\n") == 1
    assert not list(done.folder.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        (["+trainer.fast_dev_run=true"], 0, "no weights are kept"),
        (["+trainer.max_epochs=2"], 1, "trainer.max_epochs is set by the task; say task.epochs"),
        (["+trainer.max_stepz=2"], 1, "did you mean 'max_steps'?"),
        (["+trainer.max_steps=1"], 1, "no epoch was validated"),
        (["task.learning_rate=1e30"], 1, "the training has diverged: val/loss is nan after epoch 1"),
    ],
)
def test_a_training_without_a_best_epoch_keeps_no_weights(run, tmp_path: Path, overrides, code: int, said: str):
    some = {"dog": 4, "emu": 4}
    root = coloured(tmp_path / "own", {"train": some, "val": some, "test": some})
    done = run("task=train", "data=folder", f"data.root={root}", "task.epochs=2", "task.batch_size=4",
               "trainer.precision=32-true", "logger=none", "task.workers=0", *overrides,
               defaults=False)  # fmt: skip
    assert done.code == code, done.err
    assert said in done.out + done.err
    assert "Traceback" not in done.err
    assert "use it" not in done.out
    assert not list(done.folder.rglob("classifier.safetensors"))


@only_soaking
def test_the_number_of_workers_changes_no_weight(run, tmp_path: Path):
    some = {"dog": 4, "emu": 4}
    root = coloured(tmp_path / "own", {"train": some, "val": some, "test": some})
    for workers in (0, 1):
        done = run("task=train", "data=folder", f"data.root={root}", "task.epochs=2", "task.batch_size=3",
                   "trainer.precision=32-true", "logger=none", f"task.workers={workers}",
                   defaults=False)  # fmt: skip
        assert done.code == 0, done.err
    one, other = (open_weights(path).tensors() for path in done.folder.rglob("classifier.safetensors"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_that_half_precision_cannot_hold_are_kept(run, monkeypatch, tmp_path: Path):
    """Images of −1 or 1 alone, a thousand times as large, have variances beyond 65504 after the first layer."""
    some = {"dog": 4, "emu": 4}
    root = coloured(tmp_path / "own", {"train": some, "val": some, "test": some})
    pixels = ImageClassifier._pixels
    monkeypatch.setattr(ImageClassifier, "_pixels", lambda model, images: 1e3 * pixels(model, images))
    done = run("task=train", "data=folder", f"data.root={root}", "task.epochs=2", "task.batch_size=4",
               "trainer.precision=32-true", "logger=none", "task.workers=0", defaults=False)  # fmt: skip
    assert done.code == 0, done.err
    (best,), (weights,) = (list(done.folder.rglob(name)) for name in ("best.ckpt", "classifier.safetensors"))
    whole, saved = find_classifier(best).load(), find_classifier(weights).load()
    assert whole.backbone.bn1.running_var.max() > 65504
    assert torch.equal(saved.backbone.bn1.running_var, whole.backbone.bn1.running_var)
    images = torch.randint(0, 256, (4, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected, found = whole(images), saved(images)
    assert (found - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_classifier_with_nan_is_not_evaluated(run, tmp_path: Path, suffix: str):
    model = ImageClassifier("resnet18", SHAPES)
    with torch.no_grad():
        model.backbone.layer4[1].bn2.running_var[3] = float("nan")
    path = tmp_path / f"diverged{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    else:
        save_classifier(model, path)
    for given in ([f"model.checkpoint={path}"], ["task=train", f"task.start={path}", *SMALL]):
        done = run(*given)
        assert done.code == 1
        assert str(path) in done.err
        assert "layer4.1.bn2.running_var are not all finite" in done.err
        assert done.err.count("\n") == 1


@only_soaking
def test_a_network_that_starts_from_imagenet_loads_from_its_own_file(run, monkeypatch, tmp_path: Path):
    """`maxvit_t` has a last layer without bias. The weights of the hub are ones that are made here."""
    import torchvision

    published = torchvision.models.MaxVit_T_Weights.DEFAULT.url
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    path = tmp_path / "hub/hub/checkpoints" / published.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    hub = torchvision.models.maxvit_t().state_dict()
    torch.save(hub, path)
    some = {"dog": 1, "emu": 1}
    root = coloured(tmp_path / "own", {"train": some, "val": some, "test": some})
    done = run("task=train", "data=folder", f"data.root={root}", "task.epochs=1", "task.batch_size=2",
               "model.backbone=maxvit_t", "model.pretrained=true", "model.size=[224,224]", "logger=none",
               "trainer.precision=32-true", "task.workers=0", "task.learning_rate=1e-6",
               defaults=False)  # fmt: skip
    assert done.code == 0, done.err
    (weights,) = done.folder.rglob("classifier.safetensors")
    network = find_classifier(weights).load().backbone
    assert network.classifier[-1].bias is None
    torch.testing.assert_close(network.stem[0][0].weight, hub["stem.0.0.weight"], rtol=1e-2, atol=1e-3)


@only_soaking
def test_two_processes_train_together(command, tmp_path: Path):
    """Batches of two of 5 and 4 images of one size: five batches, three steps of which the last has one empty."""
    some = {"dog": 2, "emu": 1}
    root = coloured(tmp_path / "own", {"train": {"dog": 5, "emu": 4}, "val": some, "test": some})
    done = command("task=train", "data=folder", f"data.root={root}", "task.epochs=2", "task.batch_size=2",
                   "trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.devices=2",
                   "logger=none", "task.workers=0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("use it: ") == 1
    (last,) = (tmp_path / "outputs").rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 6
