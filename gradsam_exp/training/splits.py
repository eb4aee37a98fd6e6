"""This module checks the three splits of ``task=train`` before its first epoch, and says what is odd in them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from gradsam_exp.data.base import Aligned, ExampleDataset, View, match_classes
from gradsam_exp.data.files import FileDataset
from gradsam_exp.errors import InputError, did_you_mean, some


def align_splits(splits: Mapping[str, ExampleDataset]) -> dict[str, ExampleDataset]:
    """Give all splits the class ids of ``train``; classes are matched by name.

    Raises:
        InputError: fewer than two classes, images without a class, or a class that ``train`` lacks.
    """
    names = tuple(splits["train"].class_names)
    if len(names) < 2:
        found = f"only the class {names[0]!r}" if names else "no classes"
        raise InputError(f"data: split 'train' has {found}; a classifier is trained on two or more")
    for split, dataset in splits.items():
        matched = match_classes(dataset.class_names, names)
        if None in matched:
            unknown = dataset.class_names[matched.index(None)]
            known = did_you_mean(unknown, names)
            raise InputError(f"data: split {split!r} has the class {unknown!r}, which split 'train' lacks{known}")
        counts = label_counts(dataset) or Counter[int]()
        if counts[-1]:
            raise InputError(
                f"data: {counts[-1]} examples of split {split!r} have no class; give them one, or leave them out"
            )
    return {split: dataset if split == "train" else Aligned(dataset, names) for split, dataset in splits.items()}


def split_remarks(splits: Mapping[str, ExampleDataset]) -> list[str]:
    """Return what the owner of the aligned splits should be told, one line each.

    That is each data set's notes, once; classes without images; and picture files of ``val`` or ``test`` that are,
    byte for byte, files of ``train`` as well.
    """
    said_by: dict[str, list[str]] = {}
    for split, dataset in splits.items():
        for note in dataset.notes:
            said_by.setdefault(note, []).append(split)
    lines = [
        note if len(of) == len(splits) or len(of) == 0 else f"{', '.join(of)}: {note}"
        for note, of in said_by.items()
    ]
    for split, dataset in splits.items():
        counts = label_counts(dataset)
        without = [] if counts is None else [n for k, n in enumerate(dataset.class_names) if not counts[k]]
        if without:
            kinds = f"{len(without)} of {len(dataset.class_names)} classes"
            lines.append(f"{split}: no image of {kinds} ({some(without)})")
    for split in [name for name in splits if name != "train"]:
        shared = shared_pictures(splits["train"], splits[split])
        if shared:
            named = some([str(path) for path in shared])
            lines.append(
                f"{split}: {len(shared)} of {len(splits[split])} picture files are, byte for byte, files of train "
                f"({named}); accuracies there are too high"
            )
    return lines


def shared_pictures(one: ExampleDataset, other: ExampleDataset) -> list[Path]:
    """List the picture files of ``other`` whose content is that of a file of ``one``; none for drawn data."""
    first, second = _files(one), _files(other)
    return [path for content, path in second.items() if content in first]


def label_counts(dataset: ExampleDataset) -> Counter[int] | None:
    """Count the examples of each class id; None for data whose labels are not known before they are drawn."""
    counts: Counter[int] = Counter()
    for index in range(len(dataset)):
        labels = dataset.image_labels(index)
        if labels is None:
            return None
        counts.update(labels)
    return counts


def balanced_weights(dataset: ExampleDataset) -> list[float]:
    """Weigh classes inversely to their frequency: ``N / (K · n)`` for a class of ``n`` of all ``N`` examples.

    ``K`` is the number of classes that have examples; the others weigh 0. The mean over all examples is 1. From
    King and Zeng, "Logistic regression in rare events data", 2001, as scikit-learn's ``class_weight="balanced"``.

    Raises:
        InputError: the labels are not known before the images are drawn.
    """
    counts = label_counts(dataset)
    if counts is None:
        raise InputError(
            "task.class_weights=balanced: the classes of drawn images are not known before, and equally frequent; "
            "use task.class_weights=none"
        )
    share = counts.total() / len(counts)
    return [share / counts[k] if counts[k] else 0.0 for k in range(len(dataset.class_names))]


def _files(dataset: ExampleDataset) -> dict[bytes, Path]:
    while isinstance(dataset, View):
        dataset = dataset.dataset
    return dataset.files() if isinstance(dataset, FileDataset) else {}
