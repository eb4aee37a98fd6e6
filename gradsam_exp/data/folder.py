"""This module reads your own data: folders of images and, if there are any, masks; or a table that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pandas as pd
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from gradsam_exp.data.base import DATASETS, plain_name
from gradsam_exp.data.files import (
    SHARES,
    Entry,
    FileDataset,
    belongs_to,
    is_hidden,
    matched,
    pictures_in,
)
from gradsam_exp.data.lists import read_lines
from gradsam_exp.data.masks import MaskValues
from gradsam_exp.data.pictures import is_picture
from gradsam_exp.data.truths import MaskTruth
from gradsam_exp.errors import InputError, did_you_mean

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_COLUMNS = ("image", "mask", "label", "split")


@DATASETS.register("folder")
@dataclass(kw_only=True, eq=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Folder(FileDataset):
    """A folder is ``<root>/<images>/[<split>/]<class>/**``, with masks under ``<root>/<masks>/`` in the same tree.

    Images may differ in size and kind; a mask has its image's name, not necessarily its ending. Hidden files are
    left out. Splits are folders (``train``; ``val``, ``valid`` or ``validation``; ``test``), lists of names, or a
    column of the table; without any of these, files are split 80/10/10 by a digest of their name.

    Attributes:
        root: the data set's folder.
        images, masks: names of the two trees. Without a tree of masks there is no truth to score against; with
            one, every image needs its mask. They may be one tree if masks have a suffix.
        labels: ``folders`` names classes after the folders inside ``images``; ``none`` has no classes, so that
            masks are scored, and accuracy is not.
        mask: what the values in mask files mean.
        class_list: a file with a class name on each line; for ``mask.object=classes``, line n names value n.
        table: a CSV file below ``root`` with the columns ``image`` and, if known, ``mask``, ``label``, ``split``;
            paths are relative to it. The trees are then not looked at.
        lists: files below ``root`` that list a split's images, one on each line: a pattern such as
            ``splits/{split}.txt``.

    Raises:
        InputError: a missing folder, no images, an image without mask or a mask without image, files that cannot
            be used.
    """

    root: Path
    images: str = "images"
    masks: str = "masks"
    label_sources: ClassVar[tuple[str, ...]] = ("folders",)
    labels: str = "folders"
    mask: MaskValues = field(default_factory=MaskValues)
    class_list: Path | None = None
    table: Path | None = None
    lists: str | None = None

    def find(self) -> tuple[Iterable[Entry], Sequence[str]]:
        """See `FileDataset.find`."""
        base = self.base
        if not base.is_dir():
            raise InputError(f"data.root={base} does not exist; give the folder that holds {self.images!r}")
        return self._from_table(base / self.table) if self.table is not None else self._from_trees(base)

    @property
    def base(self) -> Path:
        """Return the data set's folder."""
        return self.root.expanduser()

    def _from_trees(self, base: Path) -> tuple[list[Entry], Sequence[str]]:
        tree, mask_tree = base / self.images, base / self.masks
        if not tree.is_dir():
            raise InputError(
                f"data.root={base} lacks the folder {self.images!r}, which holds a folder for each class"
            )
        has_masks, listed = mask_tree.is_dir(), self._listed(base)
        has_splits = listed is None and any(_split_folder(tree, name) is not None for name in SHARES)
        if has_splits:
            tree, mask_tree = self._split_tree(tree), (self._split_tree(mask_tree) if has_masks else mask_tree)
        folders = self._class_folders(tree)
        class_names = tuple(name for name in folders if name)
        entries: list[Entry] = []
        for label, (name, folder) in enumerate(folders.items()):
            entries += self._of_class(name, label, folder, mask_tree if has_masks else None)
        if not entries:
            raise InputError(f"data.root: {tree} holds no picture")
        if listed is not None:
            entries = _chosen(entries, *listed)
        elif not has_splits:
            entries = [one for one in entries if belongs_to(self.split, one.image_id)]
        if not entries:
            raise InputError(f"data.root: no image of split {self.split!r} below {tree}")
        return entries, self._classes[0] if self.mask.object == "classes" else class_names

    def _class_folders(self, tree: Path) -> dict[str, Path]:
        """The folder of each class, by name; the whole tree under an empty name where there are no classes."""
        if self.labels == "none" or self.mask.object == "classes":
            return {"": tree}
        folders = {path.name: path for path in sorted(tree.iterdir()) if path.is_dir() and not is_hidden(path)}
        if not folders:
            raise InputError(
                f"data.root: {tree} holds no class folders; data.labels=none reads images that have no classes"
            )
        lone = [path for path in sorted(tree.iterdir()) if is_picture(path) and not is_hidden(path)]
        if lone:
            raise InputError(
                f"{lone[0]} and {len(lone) - 1} more lie beside the class folders; move them into one"
            )
        return folders

    def _of_class(self, name: str, label: int, folder: Path, mask_tree: Path | None) -> Iterator[Entry]:
        """The images of one class; its masks lie under the same relative path."""
        label = label if name else -1
        pictures, suffix = pictures_in(folder, key="data.root", nested=True), self.mask.suffix
        truths: dict[str, Path] = {}
        mask_folder = None if mask_tree is None else _same_folder(mask_tree, name)
        if mask_folder is not None:
            found = pictures_in(mask_folder, key="data.root", nested=True)
            if suffix and mask_folder == folder:
                pictures = {stem: path for stem, path in pictures.items() if not stem.endswith(suffix)}
            truths = {stem.removesuffix(suffix): path for stem, path in found.items() if stem.endswith(suffix)}
            truths, lacking, superfluous = matched(pictures, truths)
            if lacking:
                hint = "" if suffix else _suffix_hint(lacking[0], found)
                raise InputError(f"{pictures[lacking[0]]} has no mask in {mask_folder}{hint}")
            if superfluous:
                raise InputError(f"{found[superfluous[0] + suffix]} is a mask without an image in {folder}")
        for stem, path in pictures.items():
            image_id = f"{name}/{stem}" if name else stem
            truth = self._truth(truths[stem], label) if mask_folder is not None else None
            yield Entry(image_id, path, truth, label)

    def _truth(self, path: Path, label: int) -> MaskTruth:
        classes = self._classes[1] if self.mask.object == "classes" else {}
        return MaskTruth(path, label, self.mask, classes, max_pixels=self.max_pixels)

    @cached_property
    def _classes(self) -> tuple[tuple[str, ...], Mapping[int | str, tuple[str, int]]]:
        """The names in ``class_list``, and the name and class id of each mask value: line n names value n."""
        if self.class_list is None:
            raise InputError(
                "data.mask.object=classes needs the classes' names: data.class_list=FILE, line n for value n"
            )
        path = self.base / self.class_list
        names = tuple(read_lines(path, "data.class_list"))
        return names, {value: (name, value - 1) for value, name in enumerate(names, 1)}

    def _split_tree(self, tree: Path) -> Path:
        found = _split_folder(tree, self.split)
        if found is None:
            raise InputError(
                f"data.root: the folder {tree / self.split} does not exist, though other splits have one"
            )
        return found

    def _listed(self, base: Path) -> tuple[Path, list[str]] | None:
        """The names that the split's list gives, if there are lists."""
        if self.lists is None:
            return None
        tried = [base / self.lists.replace("{split}", name) for name in SPLIT_NAMES[self.split]]
        path = next((one for one in tried if one.is_file()), None)
        if path is None or "{split}" not in self.lists:
            raise InputError(
                f"data.lists={self.lists}: there is no file {tried[0]}; write {{split}} for the split"
            )
        lines = [line.split() for line in read_lines(path, "data.lists")]
        return path, [parts[0] for parts in lines if parts and not parts[0].startswith("#")]

    def _from_table(self, path: Path) -> tuple[list[Entry], Sequence[str]]:
        """The entries of a CSV file."""
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise InputError(
                f"data.table={path} cannot be read as CSV ({type(error).__name__}: {error})"
            ) from error
        unknown = sorted(set(map(str, table)) - {*_COLUMNS, "group"})
        if "image" not in table or unknown:
            wrong = (
                f"column {unknown[0]!r} is not known{did_you_mean(unknown[0], _COLUMNS)}"
                if unknown
                else "image is missing"
            )
            raise InputError(f"data.table={path}: {wrong}")
        names = sorted(set(table["label"]) - {""}) if "label" in table and self.labels != "none" else []
        if "split" in table:
            known = [name for names_of in SPLIT_NAMES.values() for name in names_of]
            for given in sorted(set(table["split"])):
                if given.lower() not in known:
                    raise InputError(
                        f"data.table={path}: split {given!r} is not known{did_you_mean(given, SPLIT_NAMES)}"
                    )
            table = table[table["split"].str.lower().isin(SPLIT_NAMES[self.split])]
        entries = []
        for row in table.to_dict("records"):
            name = str(row["image"])
            label = names.index(row["label"]) if row.get("label") in names else -1
            truth = self._truth(path.parent / row["mask"], label) if row.get("mask") else None
            image_id = Path(name).with_suffix("").as_posix()
            if "split" in row or belongs_to(self.split, image_id):
                entries.append(Entry(image_id, path.parent / name, truth, label))
        twice = pd.Series([one.image_id for one in entries]).duplicated()
        if twice.any():
            raise InputError(f"data.table={path}: {entries[int(twice.argmax())].image_id} stands in two rows")
        if not entries:
            raise InputError(f"data.table={path}: no row of split {self.split!r}")
        lacking = [one.image for one in entries if one.truth is None]
        if 0 < len(lacking) < len(entries):
            raise InputError(
                f"data.table={path}: {len(lacking)} of {len(entries)} images of split {self.split!r} have no "
                f"mask, such as {lacking[0]}; give a mask for each, or for none"
            )
        return entries, self._classes[0] if self.mask.object == "classes" else tuple(names)


def _split_folder(tree: Path, split: str) -> Path | None:
    """The folder of a split, by any of its names.

    Raises:
        InputError: there are two.
    """
    found = [tree / name for name in SPLIT_NAMES[split] if (tree / name).is_dir()]
    if len(found) > 1:
        raise InputError(f"data.root: {found[0]} and {found[1]} are one split; keep one of them")
    return found[0] if found else None


def _same_folder(tree: Path, name: str) -> Path:
    """The folder of a class in another tree; capitals and Unicode forms aside."""
    if not name or (tree / name).is_dir() or not tree.is_dir():
        return tree / name
    alike = [path for path in tree.iterdir() if path.is_dir() and plain_name(path.name) == plain_name(name)]
    return alike[0] if len(alike) == 1 else tree / name


def _suffix_hint(lacking: str, masks: Mapping[str, Path]) -> str:
    """What to say if masks have something behind their images' names."""
    longer = next((stem for stem in masks if stem.startswith(lacking) and stem != lacking), None)
    return (
        "" if longer is None else f"; if {masks[longer].name} is it, say data.mask.suffix={longer[len(lacking) :]}"
    )


def _chosen(entries: Sequence[Entry], path: Path, names: Sequence[str]) -> list[Entry]:
    """The entries that a list names: by id, with or without ending, or by the last part of it.

    Raises:
        InputError: a name that no image has.
    """
    by_name: dict[str, Entry] = {}
    for entry in entries:
        for name in (
            Path(entry.image_id).name,
            entry.image.name,
            entry.image_id,
            entry.image_id + entry.image.suffix,
        ):
            by_name[plain_name(name)] = entry
    missing = [name for name in names if plain_name(name) not in by_name]
    if missing:
        raise InputError(f"{path} lists {len(missing)} images that are not there: {', '.join(missing[:3])}")
    chosen = {id(by_name[plain_name(name)]) for name in names}
    return [entry for entry in entries if id(entry) in chosen]
