"""This module reads your own data: class folders of images and, if there are any, a parallel tree of masks."""

from pathlib import Path

from gradsam_exp.data.base import DATASETS
from gradsam_exp.data.files import SHARES, Entry, FileDataset, belongs_to, pictures_in
from gradsam_exp.errors import InputError


@DATASETS.register("folder")
def folder(split: str, *, root: str | Path, images: str = "images", masks: str = "masks") -> FileDataset:
    """Read a split of ``<root>/<images>/[<split>/]<class>/*``, masks under ``<root>/<masks>/`` in the same tree.

    Images may differ in size and format; a mask shares its image's name, not necessarily its ending.
    Without split folders, files are split 80/10/10 by a digest of their name.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: the data set's folder.
        images, masks: names of the two trees. Without a tree of masks there is no truth to score
            against; with one, every image needs its mask.

    Raises:
        InputError: a missing folder, no images, an image without mask or a mask without image, a broken file.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise InputError(f"data.root={base} does not exist; give the folder that holds {images!r}")
    tree, mask_tree = base / images, base / masks
    if not tree.is_dir():
        raise InputError(f"data.root={base} lacks the folder {images!r}, which holds a folder for each class")
    has_splits = any((tree / name).is_dir() for name in SHARES)
    if has_splits:
        tree, mask_tree = tree / split, mask_tree / split
        if not tree.is_dir():
            raise InputError(f"data.root: the folder {tree} does not exist, though other splits have one")
    class_names = tuple(sorted(path.name for path in tree.iterdir() if path.is_dir()))
    if not class_names:
        raise InputError(f"data.root: {tree} holds no class folders")
    entries = []
    for label, name in enumerate(class_names):
        pictures = pictures_in(tree / name, key="data.root")
        truths = pictures_in(mask_tree / name, key="data.root") if mask_tree.is_dir() else None
        for stem in truths or {}:
            if stem not in pictures:
                raise InputError(f"{(truths or {})[stem]} is a mask without an image in {tree / name}")
        for stem, path in pictures.items():
            if truths is not None and stem not in truths:
                raise InputError(f"{path} has no mask in {mask_tree / name}")
            image_id = f"{name}/{stem}"
            if has_splits or belongs_to(split, image_id):
                entries.append(Entry(image_id, path, truths[stem] if truths is not None else None, label))
    if not entries:
        raise InputError(f"data.root: no image of split {split!r} below {tree}")
    return FileDataset(entries, class_names)
