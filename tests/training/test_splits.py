"""Training, validation and test images: classes are matched by name, and what is odd is said before training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradsam_exp.data.backgrounds import Noise
from gradsam_exp.data.folder import Folder
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.errors import InputError
from gradsam_exp.training.splits import align_splits, balanced_weights, split_remarks
from tests.training.album import Album


def test_classes_are_matched_by_name_where_a_split_lacks_one():
    train = Album(["cat", "dog", "emu"], [(0,), (1,), (2,)])
    splits = align_splits({"train": train, "val": Album(["dog", "emu"], [(0,), (1,)]), "test": train})
    assert [splits["val"].image_labels(k) for k in range(2)] == [(1,), (2,)]
    assert [splits["val"][k].examples[0].label for k in range(2)] == [1, 2]
    assert split_remarks(splits) == ["val: no image of 1 of 3 classes (cat)"]


def test_a_class_that_is_not_trained_is_refused():
    train = Album(["cat", "dog"], [(0,), (1,)])
    said = "split 'test' has the class 'dogs', which split 'train' lacks; did you mean 'dog'"
    with pytest.raises(InputError, match=said):
        align_splits({"train": train, "val": train, "test": Album(["cat", "dogs"], [(1,)])})


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        ([], [(-1,)], "split 'train' has no classes"),
        (["cat"], [(0,)], "split 'train' has only the class 'cat'"),
        (["cat", "dog"], [(0,), (-1,), (1,)], "1 examples of split 'train' have no class"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(names: list[str], labels: list[tuple[int]], said: str):
    data = Album(names, labels)
    with pytest.raises(InputError, match=said):
        align_splits({"train": data, "val": data, "test": data})


def test_a_note_is_said_once():
    def noted(*notes: str) -> Album:
        return Album(["cat", "dog"], [(0,), (1,)], notes=notes)

    splits = {"train": noted("everywhere"), "val": noted("everywhere", "here"), "test": noted("everywhere")}
    assert split_remarks(splits) == ["everywhere", "val: here"]


def test_test_files_that_were_trained_on_are_named(tmp_path: Path):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)) for _ in range(12)]
    for k, (split, picture) in enumerate(
        [("train", 0), ("val", 1), ("test", 2)] * 2 + [("test", 0), ("train", 3)]
    ):
        for name, shift in (("cat", 0), ("dog", 4)):
            path = tmp_path / "images" / split / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures[picture + shift].save(path)
    splits = align_splits({s: Folder(root=tmp_path, split=s) for s in ("train", "val", "test")})
    (line,) = split_remarks(splits)
    assert line.startswith("test: 2 of 6 picture files are, byte for byte, files of train (")
    assert "cat/6.png" in line
    assert "dog/6.png" in line


def test_balanced_weights_are_inverse_to_the_number_of_examples():
    """Of 6 examples of 2 classes, 4 and 2: 6 / (2·4) and 6 / (2·2); a class without examples weighs nothing."""
    data = Album(["a", "b", "c"], [(0,), (0, 0), (2,), (0, 2)])
    assert balanced_weights(data) == [0.75, 0.0, 1.5]
    with pytest.raises(InputError, match=r"task\.class_weights=balanced"):
        balanced_weights(Shapes("train", Noise("train"), length=10))
