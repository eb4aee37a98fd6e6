"""This module reads, downloads and writes the published data set `synthetic_shapes`: images, masks, labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from gradsam_exp.data.base import DATASETS
from gradsam_exp.data.download import fetch_archive
from gradsam_exp.data.files import Entry, FileDataset, is_hidden, pictures_in, require_same_names
from gradsam_exp.data.shapes import SHAPES, Shapes
from gradsam_exp.data.truths import MaskTruth
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.weights.transfer import LIMITS, DownloadLimits

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
        download: when a download is given up.

    Raises:
        InputError: a missing folder, names that do not match, an unknown class name, a broken file.
    """

    root: Path | None = None
    class_names: tuple[str, ...] = SHAPES
    url: str = URL
    sha256: str | None = None
    download: DownloadLimits = LIMITS

    def find(self) -> tuple[list[Entry], Sequence[str]]:
        """See `FileDataset.find`."""
        base = self.root.expanduser() if self.root is not None else download(self.url, self.sha256, self.download)
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


def download(url: str = URL, sha256: str | None = None, limits: DownloadLimits = LIMITS) -> Path:
    """Fetch and unpack the archive once; returns the folder that holds ``images``.

    Raises:
        InputError: as `fetch_archive`, or an archive of another layout.
    """
    unpacked = fetch_archive(url, sha256 and f"sha256:{sha256}", limits=limits)
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
