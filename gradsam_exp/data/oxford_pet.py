"""This module reads the Oxford-IIIT Pet data set: cats and dogs of 37 breeds, each with a trimap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from gradsam_exp.data.base import DATASETS, Example
from gradsam_exp.data.download import fetch_archive
from gradsam_exp.data.files import Entry, FileDataset
from gradsam_exp.data.lists import NO_OFFICIAL_VAL, in_split, number_in, read_rows
from gradsam_exp.data.masks import MaskValues
from gradsam_exp.data.pictures import FileProblem
from gradsam_exp.data.truths import FileTruth, mask_tensor
from gradsam_exp.errors import InputError
from gradsam_exp.weights.transfer import LIMITS, DownloadLimits

URL = "https://thor.robots.ox.ac.uk/~vgg/data/pets"
MD5: Mapping[str, str | None] = {
    "images": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
    "annotations": "95a8c909bbe2e81eed6a22bccdf3f68f",
}
"""Of ``images.tar.gz`` and ``annotations.tar.gz``, as torchvision has them."""
SPECIES = ("cat", "dog")
_COLUMNS = ("image", "class-id", "species", "breed-id")
_OBJECT, _BACKGROUND, _UNCLEAR = 1, 2, 3


@plain_dataclass(frozen=True)
class Trimap(FileTruth):
    """A trimap is a grey picture of 1 (the animal), 2 (background) and 3 (not clear which, so not counted).

    Attributes:
        label: class id of the animal.
    """

    label: int

    @property
    def depends_on(self) -> Any:
        """The class."""
        return ["trimap", self.label]

    def examples(self, size: tuple[int, int]) -> list[Example]:
        """See `Truth.examples`."""
        mask = self.read(size, MaskValues(object=_OBJECT, ignore=_UNCLEAR))
        strange = [value for value in mask.values if value not in (_OBJECT, _BACKGROUND, _UNCLEAR)]
        if strange:
            what = f"has the value {strange[0]}, but a trimap has 1 (object), 2 (background) and 3 (not counted)"
            raise FileProblem(self.path, what)
        region = mask.regions[0].mask
        if not region.any():
            return []
        return [Example(self.label, mask_tensor(region), mask_tensor(mask.counted))]


@DATASETS.register("oxford_pet")
@dataclass(kw_only=True, eq=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class OxfordPet(FileDataset):
    """Oxford-IIIT Pet is ``images/*.jpg`` and ``annotations/{trimaps/*.png,list.txt,trainval.txt,test.txt}``.

    Parkhi et al., Cats and Dogs, CVPR 2012; https://www.robots.ox.ac.uk/~vgg/data/pets. Only images that the lists
    name are looked at: other files in the official archives, such as ``._*`` or ``*.mat``, do not matter. The
    official split has no ``val``: a tenth of ``trainval``, see `in_split`.

    Attributes:
        root: the folder that holds ``images`` and ``annotations``; None downloads them into the user cache.
        by: classes are the breeds, named as the files are, with blanks for underscores; or cat and dog.
        url: where ``images.tar.gz`` and ``annotations.tar.gz`` are.
        md5: their digests.
        download: when a download is given up.

    Raises:
        InputError: no network, a missing folder or list, a line that is not as it should be, files that cannot be
            used.
    """

    root: Path | None = None
    by: Literal["breed", "species"] = "breed"
    url: str = URL
    md5: Mapping[str, str | None] = field(default_factory=lambda: dict(MD5))
    download: DownloadLimits = LIMITS

    def find(self) -> tuple[list[Entry], Sequence[str]]:
        """See `FileDataset.find`."""
        images, annotations = self._folder("images"), self._folder("annotations")
        names = _breeds(annotations / "list.txt")
        ids = {number: label for label, number in enumerate(names)}
        listed = annotations / ("test.txt" if self.split == "test" else "trainval.txt")
        entries = []
        for name, class_id, species, _ in read_rows(listed, _COLUMNS):
            if not in_split(self.split, name, training=self.split != "test"):
                continue
            breed = number_in(class_id, ids, listed, "class id of list.txt")
            kind = number_in(species, (1, 2), listed, "species; 1 is cat, 2 is dog")
            truth = Trimap(
                annotations / "trimaps" / f"{name}.png",
                ids[breed] if self.by == "breed" else kind - 1,
                max_pixels=self.max_pixels,
            )
            entries.append(Entry(name, images / f"{name}.jpg", truth, truth.label))
        if not entries:
            raise InputError(f"data.root: {listed} lists no image of split {self.split!r}")
        return entries, tuple(names.values()) if self.by == "breed" else SPECIES

    def remarks(self) -> Sequence[str]:
        """See `FileDataset.remarks`."""
        return () if self.split == "test" else (NO_OFFICIAL_VAL,)

    def _folder(self, name: str) -> Path:
        """One of the two folders that are an archive each."""
        if self.root is None:
            md5, url = self.md5.get(name), f"{self.url.rstrip('/')}/{name}.tar.gz"
            folder = fetch_archive(url, md5 and f"md5:{md5}", limits=self.download) / name
            if not folder.is_dir():
                raise InputError(f"the archive from {url} holds no folder {name!r}; give data.root=PATH")
            return folder
        base = self.root.expanduser()
        if not base.is_dir():
            raise InputError(f"data.root={base} does not exist; give the folder with images and annotations")
        if not (base / name).is_dir():
            inner = base / "oxford-iiit-pet"  # which torchvision makes
            hint = f"; did you mean data.root={inner}?" if inner.is_dir() else ""
            raise InputError(f"data.root={base} lacks the folder {name!r}{hint}")
        return base / name


def _breeds(path: Path) -> dict[int, str]:
    """The name of each class id in ``list.txt``, in the order of the ids.

    Raises:
        InputError: an id has two names, or a name two ids.
    """
    names: dict[int, str] = {}
    for image, class_id, *_ in read_rows(path, _COLUMNS):
        number = number_in(class_id, range(1, 10_000), path, "class id")
        name = image.rpartition("_")[0].replace("_", " ")
        if names.setdefault(number, name) != name or not name:
            raise InputError(f"{path}: the class id {number} is {names[number]!r} and, by {image}, {name!r}")
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise InputError(f"{path}: the breed {twice[0]!r} has two class ids")
    return dict(sorted(names.items()))
