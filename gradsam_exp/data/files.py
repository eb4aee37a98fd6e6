"""This module holds data sets that are picture files: all are checked first, and decoded when they are needed."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass
from rich.progress import track

from gradsam_exp.console import console
from gradsam_exp.data.base import Example, ExampleDataset, Sample, plain_name
from gradsam_exp.data.pictures import (
    MAX_PIXELS,
    FileProblem,
    PictureFacts,
    inspect_picture,
    is_picture,
    is_unread_picture,
    read_bytes,
    read_rgb,
)
from gradsam_exp.data.truths import Truth, TruthFacts
from gradsam_exp.digest import digest
from gradsam_exp.errors import InputError, did_you_mean, harmless, some

# Which of ten buckets by name are a split: 80/10/10 where folders do not say which split a file belongs to.
SHARES = {"train": range(8), "val": range(8, 9), "test": range(9, 10)}
LEFT_OUT = "files that cannot be used are left out"
"""Begins the note on such files."""
_NAMED = 20  # problems in a message
_SLOW = 200  # files that take long enough to show progress


@dataclass(frozen=True)
class Entry:
    """An entry names one image on disk.

    Attributes:
        image_id: unique in its data set.
        image: the picture.
        truth: where its objects are; None where that is not known.
        label: class id of an image without truth; −1 unknown.
    """

    image_id: str
    image: Path
    truth: Truth | None
    label: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_id", harmless(self.image_id))


@dataclass(frozen=True)
class _Known:
    """What checking an entry's files has found."""

    entry: Entry
    picture: PictureFacts
    truth: TruthFacts
    digest: str


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SplitNames:
    """Split names say which split of a published data set, whose test masks are rarely public, each of ours is."""

    train: Annotated[str, Field(min_length=1)] = "train"
    val: Annotated[str, Field(min_length=1)] = "val"
    test: Annotated[str, Field(min_length=1)] = "val"

    def of(self, split: str) -> str:
        """Return the published name of ``train``, ``val`` or ``test``."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


@checked_dataclass(kw_only=True, eq=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class FileDataset(ExampleDataset):
    """A file data set reads images that are listed as `Entry`; its fields are the parameters of its configuration.

    Every file is read once when the data set is made, so that all that are broken are named before anything
    expensive starts.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        on_error: ``stop`` refuses a data set with files that cannot be used, ``skip`` leaves them out.
        max_pixels: larger pictures cannot be used.
        check: looked at by tasks: list everything that is wrong, and do nothing else.
        labels: ``none`` leaves the classes out, for classifiers that do not know them: only masks are scored.
        part: ``held_out`` reads the quarter of the images that ``sam=compact`` is not trained on (`is_held_out`),
            ``trained_on`` the others, ``all`` both.
        problems: files that were left out, with the reason.

    Raises:
        InputError: nothing to read, or a file that cannot be used; names all of them.
    """

    label_sources: ClassVar[tuple[str, ...]] = ("given",)

    split: str
    on_error: Literal["stop", "skip"] = "stop"
    max_pixels: Annotated[int, Field(ge=1)] = MAX_PIXELS
    check: bool = False
    labels: str = "given"
    part: Literal["all", "held_out", "trained_on"] = "all"

    def __post_init__(self) -> None:
        if self.labels not in (kinds := (*self.label_sources, "none")):
            raise InputError(f"data.labels={self.labels!r} is not known{did_you_mean(self.labels, kinds)}")
        found, class_names = self.find()
        self.class_names = () if self.labels == "none" else tuple(map(harmless, class_names))
        held_out = {"all": {True, False}, "held_out": {True}, "trained_on": {False}}[self.part]
        entries = [one for one in found if is_held_out(one.image) in held_out]
        self.problems: list[FileProblem] = []
        known = []
        for result in _in_parallel(self._inspected, entries, what=f"checking {self.split}"):
            if isinstance(result, FileProblem):
                self.problems.append(result)
            else:
                known.append(result)
        known = self._settled(known)
        _require_objects([one.truth for one in known])
        if self.problems and self.on_error == "stop":
            raise FileProblems(self.problems, len(entries))
        self._known = [one for one in known if one.truth.labels]
        self.notes = self._notes(known)
        if not self._known:
            if self.problems:
                raise FileProblems(self.problems, len(entries))
            of = f"split {self.split!r}" + (f", data.part={self.part}," if self.part != "all" else "")
            raise InputError(f"data: no image of {of} has an object that is asked for")
        parts = [(one.entry.image_id, list(one.truth.labels), one.digest) for one in self._known]
        self._digest = digest([self.class_names, self.labels, parts])

    @abstractmethod
    def find(self) -> tuple[Iterable[Entry], Sequence[str]]:
        """List the split's images, and the names of the classes that their labels count.

        Raises:
            InputError: a folder or a list is missing or wrong.
        """

    def remarks(self) -> Sequence[str]:
        """Return what a format wants to be in the notes, such as how it splits; called after `find`."""
        return ()

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, index: int) -> Sample:
        known = self._known[index]
        entry = known.entry
        image = torch.from_numpy(read_rgb(entry.image, max_pixels=self.max_pixels)).permute(2, 0, 1).contiguous()
        examples = [Example(entry.label)] if entry.truth is None else entry.truth.examples(known.picture.size)
        if self.labels == "none":
            examples = [replace(example, label=-1) for example in examples]
        return Sample(image, entry.image_id, tuple(examples))

    def image_size(self, index: int) -> tuple[int, int]:
        """See `ExampleDataset.image_size`."""
        return self._known[index].picture.size

    def image_labels(self, index: int) -> tuple[int, ...]:
        """See `ExampleDataset.image_labels`."""
        labels = self._known[index].truth.labels
        return tuple(-1 for _ in labels) if self.labels == "none" else labels

    @property
    def digest(self) -> str:
        """Identify names, labels, masks and content."""
        return self._digest

    def files(self) -> dict[bytes, Path]:
        """Return the pictures by a digest of their content: two data sets that share one share a picture."""
        return {one.picture.digest: one.entry.image for one in self._known}

    def _inspected(self, entry: Entry) -> _Known | FileProblem:
        try:
            picture = _picture_facts(entry.image, *_state(entry.image), self.max_pixels)
            truth, state = TruthFacts((entry.label,)), ""
            if entry.truth is not None:
                states = tuple(_state(path) for path in entry.truth.files)
                truth, content = (
                    _unchanged_truth(entry.truth, picture.size, states)
                    if states
                    else _truth_facts(entry.truth, picture.size)
                )
                state = digest([content, entry.truth.depends_on])
        except FileProblem as problem:
            return problem
        return _Known(entry, picture, truth, digest([picture.digest, state]))

    def _settled(self, known: Sequence[_Known]) -> list[_Known]:
        """The entries whose masks are clear beside the data set's other masks."""
        pairs = {one.truth.values for one in known if one.truth.lone is None and len(one.truth.values) > 1}
        clear = set(chain.from_iterable(pairs))
        kept = []
        for one in known:
            if one.truth.lone is None or one.truth.lone in clear:
                kept.append(one)
                continue
            assert one.entry.truth is not None
            what = f"is a mask of the one value {one.truth.lone}: an object that fills the image, or no object"
            hint = f"say which, as in data.mask.object={one.truth.lone} or data.mask.ignore={one.truth.lone}"
            self.problems.append(FileProblem(one.entry.truth.files[0], what, hint))
        return kept

    def _notes(self, known: Sequence[_Known]) -> list[str]:
        """What their owner may not expect, with the number of files and the first of them."""
        told_of: dict[str, list[str]] = {}
        for one in known:
            for note in one.picture.notes:
                told_of.setdefault(f"pictures: {note}", []).append(one.entry.image.name)
            for note in one.truth.notes:
                told_of.setdefault(f"masks: {note}", []).append(one.entry.image.name)
            if not one.truth.labels:
                told_of.setdefault("images without an object that is asked for are left out", []).append(
                    one.entry.image.name
                )
        if self.problems:
            names = [problem.path.name for problem in self.problems]
            told_of[LEFT_OUT] = names
        notes = [*self.remarks(), *(f"{note} ({len(names)}: {some(names)})" for note, names in told_of.items())]
        masked = [one.truth for one in known if one.truth.values]
        if masked and all(one.covers_corners for one in masked):
            dark = "if it is the dark part, say data.mask.object=0"
            notes.append(f"masks: the object covers the corners of every image; {dark}")
        return notes


def _require_objects(truths: Sequence[TruthFacts]) -> None:
    """Check that there is an object in any mask.

    Raises:
        InputError: if all are without, though they are not black.
    """
    values = sorted({str(value) for truth in truths for value in truth.values})
    if truths and all(truth.values and truth.empty for truth in truths) and values != ["0"]:
        raise InputError(f"data.mask: no mask has the object that is asked for; values found: {', '.join(values)}")


class FileProblems(InputError):
    """One or several files of a data set cannot be used; the message names them.

    Attributes:
        problems: all of them.
    """

    def __init__(self, problems: Sequence[FileProblem], files: int) -> None:
        super().__init__(_told(problems, files))
        self.is_list = len(problems) > 1
        self.problems = list(problems)


def _told(problems: Sequence[FileProblem], files: int) -> str:
    if len(problems) == 1:
        return str(problems[0])
    lines = "".join(f"\n  {problem}" for problem in problems[:_NAMED])
    more = f"\n  and {len(problems) - _NAMED} more: data.check=true lists all" if len(problems) > _NAMED else ""
    return f"{len(problems)} of {files} images cannot be used (data.on_error=skip leaves them out):{lines}{more}"


def is_held_out(image: PurePath) -> bool:
    """Tell whether a photograph is of the quarter that no segmenter is trained on, by its name without suffix."""
    return hashlib.blake2b(image.stem.encode(errors="surrogateescape"), digest_size=4).digest()[0] % 4 == 0


def belongs_to(split: str, name: str) -> bool:
    """Tell whether the file ``name`` (relative, with forward slashes) is in ``split``.

    Decided by a digest of the name, the same on every machine: adding files moves none from test to train.
    """
    bucket = (
        int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=4).digest(), "big") % 10
    )
    return bucket in SHARES[split]


def is_hidden(path: Path) -> bool:
    """Tell whether a file or folder is not meant for people, such as ``.ipynb_checkpoints`` or ``__MACOSX``."""
    return path.name.startswith((".", "__", "@")) or path.name in {"Thumbs.db", "desktop.ini"}


def pictures_in(folder: Path, *, key: str, nested: bool = False) -> dict[str, Path]:
    """List the picture files in ``folder``, by their relative path without its ending, sorted.

    Args:
        nested: those in folders inside it as well.

    Raises:
        InputError: the folder does not exist; two pictures differ in their ending only; a picture's ending is not
            read.
    """
    if not folder.is_dir():
        raise InputError(f"{key}: the folder {folder} does not exist")
    found: dict[str, Path] = {}
    for path in _files_in(folder, nested=nested):
        if is_unread_picture(path):
            raise InputError(f"{path}: the ending {path.suffix} is not read; save it as PNG or JPEG")
        if not is_picture(path):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{path} and {found[name].name} have the same name; keep one of them")
        found[name] = path
    return found


def _files_in(folder: Path, *, nested: bool) -> list[Path]:
    """Files that are not hidden, sorted; by folder if nested."""
    paths = []
    for path in sorted(folder.iterdir()):
        if is_hidden(path):
            continue
        if path.is_dir():
            paths += _files_in(path, nested=True) if nested else []
        else:
            paths.append(path)
    return paths


def matched(one: Mapping[str, Path], other: Mapping[str, Path]) -> tuple[dict[str, Path], list[str], list[str]]:
    """Match files by name; capitals and Unicode forms do not matter where the exact name is not there.

    Returns:
        The file of ``other`` for each name of ``one`` that has one; the names of ``one`` that have none; those of
        ``other``.
    """
    plain = {plain_name(name): name for name in other}
    pairs = {name: name if name in other else plain.get(plain_name(name)) for name in one}
    found = {name: other[match] for name, match in pairs.items() if match is not None}
    used = set(pairs.values())
    return found, [name for name in one if name not in found], [name for name in other if name not in used]


def require_same_names(
    one: Mapping[str, Path], one_folder: Path, other: Mapping[str, Path], other_folder: Path
) -> None:
    """Check that two folders hold the same names.

    Raises:
        InputError: naming up to three that are missing, and from where.
    """
    _, lacking, superfluous = matched(one, other)
    for missing, without, with_ in ((lacking, other_folder, one_folder), (superfluous, one_folder, other_folder)):
        if missing:
            what = f"lacks {len(missing)} of the names in {with_}: {some(sorted(missing))}"
            raise InputError(f"{without} {what}")


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError as error:
        raise FileProblem(path, "does not exist or cannot be read", "give another") from error
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=2**18)
def _picture_facts(path: Path, modified: int, size_in_bytes: int, max_pixels: int) -> PictureFacts:
    """Inspect an unchanged file once a process, since each job of a sweep asks again."""
    del modified, size_in_bytes
    return inspect_picture(path, max_pixels=max_pixels)


@lru_cache(maxsize=2**18)
def _unchanged_truth(truth: Truth, size: tuple[int, int], states: tuple[Any, ...]) -> tuple[TruthFacts, list[str]]:
    """Read a truth once a process while its files are unchanged."""
    del states
    return _truth_facts(truth, size)


def _truth_facts(truth: Truth, size: tuple[int, int]) -> tuple[TruthFacts, list[str]]:
    """Read a truth, and digest its files."""
    return truth.facts(size), [
        hashlib.blake2b(read_bytes(path), digest_size=16).hexdigest() for path in truth.files
    ]


def _in_parallel(call: Callable[[Entry], Any], entries: Sequence[Entry], *, what: str) -> list[Any]:
    """Call for every entry, in their order; several at once, since decoders leave Python's lock alone."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(call, entries)
        if len(entries) < _SLOW or not console.is_terminal:
            return list(results)
        return list(track(results, what, len(entries), console=console, transient=True))
