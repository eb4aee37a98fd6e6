"""This module reads and writes the reference data set: ``images``, ``masks``, ``labels``, a folder per split."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from gradsam_exp.data.base import DATASETS
from gradsam_exp.data.files import Entry, FileDataset, MaskTruth, is_hidden, pictures_in, require_same_names
from gradsam_exp.data.shapes import SHAPES, Shapes
from gradsam_exp.errors import InputError, did_you_mean

URL = "https://www.mimuw.edu.pl/~mwrochna/upload/synthetic_shapes.zip"


@DATASETS.register("synthetic_shapes")
@dataclass(kw_only=True, eq=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class SyntheticShapes(FileDataset):
    """The reference data set is ``images/<split>/*.png``, ``masks/<split>/*.png``, ``labels/<split>/*.txt``.

    Attributes:
        root: where the three folders are, of which only the split's own need to exist; None downloads the
            published archive into the user cache.
        class_names: what a label file, which holds one class name, may say.
        url, sha256: the archive to download, and its digest if known.

    Raises:
        InputError: a missing folder, names that do not match, an unknown class name, a broken file.
    """

    root: Path | None = None
    class_names: tuple[str, ...] = SHAPES
    url: str = URL
    sha256: str | None = None

    def find(self) -> tuple[list[Entry], Sequence[str]]:
        """See `FileDataset.find`."""
        base = self.root.expanduser() if self.root is not None else download(self.url, self.sha256)
        if not base.is_dir():
            raise InputError(f"data.root={base} does not exist; give the folder with images, masks and labels")
        folders = {kind: base / kind / self.split for kind in ("images", "masks", "labels")}
        images = pictures_in(folders["images"], key="data.root")
        masks = pictures_in(folders["masks"], key="data.root")
        if not folders["labels"].is_dir():
            raise InputError(f"data.root: the folder {folders['labels']} does not exist")
        labels = {path.stem: path for path in sorted(folders["labels"].glob("*.txt")) if not is_hidden(path)}
        if not images:
            raise InputError(f"data.root: {folders['images']} holds no picture")
        require_same_names(images, folders["images"], masks, folders["masks"])
        require_same_names(images, folders["images"], labels, folders["labels"])
        entries = [
            Entry(f"{self.split}/{stem}", path, MaskTruth(masks[stem], _class_id(labels[stem], self.class_names)))
            for stem, path in images.items()
        ]
        return entries, self.class_names


def _class_id(path: Path, class_names: tuple[str, ...]) -> int:
    name = path.read_text(encoding="utf-8", errors="replace").strip()
    if name not in class_names:
        raise InputError(f"{path} names the class {name!r}, which is not known{did_you_mean(name, class_names)}")
    return class_names.index(name)


def download(url: str = URL, sha256: str | None = None) -> Path:
    """Fetch and unpack the archive once; returns the folder that holds ``images``.

    A partial or damaged download is removed and never used: the transfer goes to a temporary name, the
    digest (if known) and every member's CRC are checked before anything is unpacked.

    Raises:
        InputError: no network, or an archive that is damaged or of another layout.
    """
    import pooch  # noqa: PLC0415  (only who downloads needs it)

    try:
        known, cache = sha256 and f"sha256:{sha256}", pooch.os_cache("gradsam_exp")
        archive = Path(pooch.retrieve(url, known, fname="synthetic_shapes.zip", path=cache, progressbar=True))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the data set could not be fetched from {url} ({error}); fetch it elsewhere and give data.root=PATH"
        ) from error
    unpacked = archive.with_suffix("")
    if not unpacked.is_dir():
        partial = archive.with_suffix(".partial")
        try:
            with zipfile.ZipFile(archive) as members:
                broken = members.testzip()
                if broken is not None:
                    raise zipfile.BadZipFile(f"{broken} is damaged")  # noqa: TRY301
                members.extractall(partial)
        except zipfile.BadZipFile as error:
            archive.unlink()
            raise InputError(f"the download from {url} is not a whole zip archive ({error}); try again") from error
        partial.rename(unpacked)
    found = next((p.parent for p in sorted(unpacked.rglob("images")) if p.is_dir()), None)
    if found is None:
        raise InputError(f"the archive from {url} holds no folder 'images'; give data.root=PATH")
    return found


def export(dataset: Shapes, root: Path) -> Path:
    """Write a built-in split in this layout.

    Args:
        dataset: images ``0 … len − 1`` are written, named by their number.
        root: gets ``images/<split>``, ``masks/<split>`` and ``labels/<split>``.
    """
    for kind in ("images", "masks", "labels"):
        (root / kind / dataset.split).mkdir(parents=True, exist_ok=True)
    for index in range(len(dataset)):
        drawing = dataset.draw(index)
        name = f"{index:05d}"
        Image.fromarray(drawing.image).save(root / "images" / dataset.split / f"{name}.png")
        Image.fromarray(drawing.mask).convert("L").save(root / "masks" / dataset.split / f"{name}.png")
        (root / "labels" / dataset.split / f"{name}.txt").write_text(f"{drawing.shape}\n", encoding="utf-8")
    return root
