"""This module makes training scenes from photographs whose segments or objects people have outlined.

It reads folders and zip files in the layouts of BSDS500 (``images/<split>/``, ``segments/<split>/NAME.K.png`` of
person K, ``salient/<split>/``), of plain label maps (``images/``, ``labels/``; 0 is none), such as Clothing
Co-Parsing's and MSRC's, and of COCO (``annotations/*.json``). A quarter of each, by a digest of the names, is held
out. A scene is a crop with what is outlined in it at every level: segments, unions of neighbours, whole objects.
Now and then objects of other photographs are pasted onto it, whose masks are then exact.
"""

import io
import json
import math
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, UInt8, UInt16
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter
from skimage.measure import label

from gradsam_exp.data.files import is_held_out
from gradsam_exp.errors import InputError

LONGER_SIDE = 384  # px, to which photographs are made smaller
SMALLEST = 14  # cells of a target
WHOLE, UNION = 3.0, 0.4  # how much more often a whole object or a union is asked for than a segment
PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
Read = Callable[[], bytes]
Files = Mapping[str, Read]
Mask = Bool[np.ndarray, "height width"]
Cells = Bool[np.ndarray, "rows columns"]
Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph has segmentations, which number segments from 1 (0: none), and masks of whole objects.

    Attributes:
        name: its file's, in its set.
        image: RGB.
        segmentations: numbers of segments, from 1; 0 is none.
        objects: masks of whole objects; they may overlap.
        kind: what these are: ``salient``, ``labelled`` (all that a label map labels) or ``instances``.
    """

    name: str
    image: Picture
    segmentations: tuple[UInt16[np.ndarray, "height width"], ...]
    objects: tuple[Mask, ...]
    kind: str


def read_photographs(source: str | Path, *, held_out: bool, key: str) -> dict[str, list[Photograph]]:
    """Read one part of all photographs below a folder, or in a zip file, at no more than 384 px.

    Args:
        source: a folder, whose zip files are looked into as well, or one zip file.
        held_out: the quarter that is not trained on, or all others.
        key: the configuration's, for errors.

    Returns:
        The photographs by the name of their set (the folder or zip file that has ``images/``), in a fixed order.

    Raises:
        InputError: no such path, nothing in any of the layouts, or a damaged file.
    """
    files = _files(Path(source).expanduser(), key)
    found: dict[str, list[Photograph]] = {}
    for root, readers in sorted(_sets(files).items()):
        own = {name: read for name, read in readers.items() if is_held_out(PurePosixPath(name)) is held_out}
        try:
            found[root] = [read() for _, read in sorted(own.items())]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{key}={source}: a file of {root} cannot be used ({error})") from error
    found = {root: kept for root, photographs in found.items() if (kept := [p for p in photographs if _any(p)])}
    if not found:
        raise InputError(
            f"{key}={source} has no outlined photographs: give a folder or zip file with images/ beside segments/ "
            "or labels/, or with annotations/*.json"
        )
    return found


def _any(photograph: Photograph) -> bool:
    return bool(photograph.segmentations or photograph.objects)


def _files(source: Path, key: str) -> Files:
    """List all files below a folder and in its zip files, by name, with a function that reads each."""
    if not source.exists():
        raise InputError(f"{key}={source} does not exist; give a folder or a zip file of outlined photographs")
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    files: dict[str, Read] = {}
    for path in paths:
        if path.suffix.lower() == ".zip":
            archive = zipfile.ZipFile(path)
            inside = [name for name in archive.namelist() if not name.endswith("/")]
            files |= {f"{path.stem}/{name}": partial(archive.read, name) for name in inside}
        elif path != source:
            files[f"{source.name}/{path.relative_to(source).as_posix()}"] = path.read_bytes
    return files


def _sets(files: Files) -> dict[str, dict[str, Callable[[], Photograph]]]:
    """Find the sets of photographs by their layouts; each photograph's name with what reads it."""
    sets: dict[str, dict[str, Callable[[], Photograph]]] = defaultdict(dict)
    maps: dict[str, list[str]] = defaultdict(list)  # of persons, by root/split/name
    for name in sorted(files):
        root, _, inside = name.rpartition("/segments/")
        if root:
            maps[f"{root}/images/{inside.rpartition('.')[0].rpartition('.')[0]}"].append(name)
    for name in files:
        root, _, inside = name.rpartition("/images/")
        plain, _, suffix = name.rpartition(".")
        if not root or f".{suffix.lower()}" not in PICTURES:
            continue
        if plain in maps:
            salient = f"{root}/salient/{inside.rpartition('.')[0]}.png"
            own = [files[segments] for segments in maps[plain]]
            sets[root][inside] = partial(_with_segments, inside, files[name], own, files.get(salient))
        elif (labels := f"{root}/labels/{inside.rpartition('.')[0]}.png") in files:
            sets[root][inside] = partial(_with_labels, inside, files[name], files[labels])
    for name in files:
        root, _, inside = name.rpartition("/annotations/")
        if root and inside.endswith(".json"):
            sets[root] |= _coco(root, json.loads(files[name]()), files)
    return sets


def _with_segments(
    name: str,
    image: Read,
    segments: Sequence[Read],
    salient: Read | None,
) -> Photograph:
    pixels = _small(_opened(image).convert("RGB"))
    maps = tuple(_numbers(one, pixels) for one in segments)
    objects = () if salient is None else (_numbers(salient, pixels) > 0,)
    return Photograph(name, pixels, maps, tuple(one for one in objects if one.any()), "salient")


def _with_labels(name: str, image: Read, labels: Read) -> Photograph:
    """Take label maps as they are and by connected parts; all that is labelled, if the picture's rim is not."""
    pixels = _small(_opened(image).convert("RGB"))
    numbers = _numbers(labels, pixels)
    parts = label(numbers, background=0, connectivity=1).astype(np.uint16)
    rim = np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]]) > 0
    return Photograph(name, pixels, (numbers, parts), (numbers > 0,) if rim.mean() < 0.5 else (), "labelled")


def _coco(root: str, content: Mapping[str, list[dict]], files: Files) -> dict[str, Callable[[], Photograph]]:  # type: ignore[type-arg]
    outlines = defaultdict(list)
    for one in content["annotations"]:
        if not one.get("iscrowd") and isinstance(one["segmentation"], list):
            outlines[one["image_id"]].append(one["segmentation"])
    pictures = {PurePosixPath(name).name: name for name in files if name.startswith(f"{root}/")}
    return {
        one["file_name"]: partial(
            _with_outlines, one["file_name"], files[pictures[one["file_name"]]], outlines[one["id"]]
        )
        for one in content["images"]
        if one["file_name"] in pictures
    }


def _with_outlines(name: str, image: Read, outlines: Sequence[Sequence[Sequence[float | int]]]) -> Photograph:
    picture = _opened(image).convert("RGB")
    pixels = _small(picture)
    scale = pixels.shape[1] / picture.width
    objects = []
    for parts in outlines:
        pad = Image.new("1", (pixels.shape[1], pixels.shape[0]))
        for part in parts:
            ImageDraw.Draw(pad).polygon([value * scale for value in part], fill=1)
        objects.append(np.asarray(pad).copy())
    return Photograph(name, pixels, (), tuple(one for one in objects if one.mean() > 0.004), "instances")


def _opened(read: Read) -> Image.Image:
    return Image.open(io.BytesIO(read()))


def _small(picture: Image.Image) -> Picture:
    scale = min(1.0, LONGER_SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.array(picture.resize(size, Image.Resampling.BOX))


def _numbers(read: Read, pixels: Picture) -> UInt16[np.ndarray, "height width"]:
    """Read a label map at the size of ``pixels``."""
    values = np.asarray(_opened(read)).astype(np.uint16)
    values = values if values.ndim == 2 else values[..., 0]
    return values[_places(values.shape[0], pixels.shape[0])][:, _places(values.shape[1], pixels.shape[1])]


def _places(of: int, into: int, start: int = 0) -> np.ndarray:
    """Find the nearest pixel of each of ``into`` cells over ``of`` pixels from ``start``."""
    return (start + (np.arange(into) + 0.5) * of / into).astype(int)


@dataclass(frozen=True, eq=False)
class PhotographScenes:
    """Photograph scenes are crops of photographs with masks of what is outlined in them.

    Sets are drawn in proportion to the root of the number of their outlined maps.

    Attributes:
        sets: the photographs of each set.
        size: longer side of a scene, in pixels.
        cell: pixels of the picture that a cell of a mask spans.
        pasted_share: share of the scenes onto which one or two objects are pasted.
    """

    sets: Mapping[str, Sequence[Photograph]]
    size: int = 256
    cell: int = 4
    pasted_share: float = 0.35

    def draw(self, rng: Generator, targets: int) -> tuple[Picture, list[Cells]] | None:
        """Draw one scene and ``targets`` masks, some twice if need be; None where nothing outlined is in the crop.

        The last half of the masks are things, if there are any: no unions of neighbours, which are mostly parts of
        nothing, and at most one border is touched.
        """
        photograph = self._any_photograph(rng)
        image, masks, weights = self._crop(rng, photograph)
        pasted: list[Mask] = []
        if rng.random() < self.pasted_share:
            for _ in range(int(rng.integers(1, 3))):
                image, new = self._paste(rng, image)
                if new is not None:
                    masks, pasted = [one & ~new for one in masks], [*(one & ~new for one in pasted), new]
        image = _coloured(rng, image)
        cells = [_on_cells(one, self.cell) for one in [*pasted, *masks]]
        chances = np.array([WHOLE] * len(pasted) + weights)
        areas = np.array([one.sum() for one in cells])
        whole = cells[0].size if cells else 0
        usable = np.flatnonzero((areas >= SMALLEST) & (areas < 0.97 * whole)) if cells else np.zeros(0, int)
        if not len(usable):
            return None
        things = [k for k in usable if chances[k] > UNION and _borders(cells[k]) <= 1]
        chance = chances[usable] * np.sqrt(areas[usable])
        chosen = _drawn(rng, usable, chance, targets)
        if things:
            own = np.array(things)
            chosen[targets // 2 :] = _drawn(rng, own, chances[own], targets - targets // 2)
        return image, [cells[k] for k in chosen]

    def _any_photograph(self, rng: Generator) -> Photograph:
        sets = list(self.sets.values())
        maps = [sum(len(p.segmentations) + len(p.objects) for p in one) for one in sets]
        chance = np.sqrt(maps) / np.sqrt(maps).sum()
        own = sets[int(rng.choice(len(sets), p=chance))]
        return own[int(rng.integers(len(own)))]

    def _crop(self, rng: Generator, photograph: Photograph) -> tuple[Picture, list[Mask], list[float]]:
        """Cut out 45 to 100 % of a photograph, perhaps mirrored; also the masks, and how often to ask for each."""
        height, width = photograph.image.shape[:2]
        part = rng.uniform(0.45, 1)
        h, w = (min(side, max(48, int(side * part * rng.uniform(0.85, 1.2)))) for side in (height, width))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        rows, columns = (self.cell * max(1, round(side * self.size / max(h, w) / self.cell)) for side in (h, w))
        picture = Image.fromarray(photograph.image).resize(
            (columns, rows), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h)
        )
        at_y, at_x = _places(h, rows, y), _places(w, columns, x)
        image = np.asarray(picture)
        if rng.random() < 0.5:
            image, at_x = image[:, ::-1], at_x[::-1]
        places = np.ix_(at_y, at_x)
        masks = [one[places] for one in photograph.objects]
        weights = [WHOLE] * len(masks)
        if photograph.segmentations:
            numbers = photograph.segmentations[int(rng.integers(len(photograph.segmentations)))][places]
            segments, unions = _segments(rng, numbers)
            masks = [*masks, *segments, *unions]
            weights += [1.0] * len(segments) + [UNION] * len(unions)
        return image, masks, weights

    def _paste(self, rng: Generator, image: Picture) -> tuple[Picture, Mask | None]:
        """Paste an object of another photograph, with a soft border, its colours drawn towards what it hides."""
        found = self._object(rng)
        if found is None:
            return image, None
        pixels, mask = found
        (height, width), longer = image.shape[:2], rng.uniform(0.2, 0.75) * self.size
        scale = longer / max(mask.shape)
        w, h = (max(8, int(side * scale)) for side in (mask.shape[1], mask.shape[0]))
        thing = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BILINEAR))
        matte = Image.fromarray(mask.astype(np.uint8) * 255).resize((w, h), Image.Resampling.BILINEAR)
        soft = np.asarray(matte.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.2))), np.float32) / 255
        if rng.random() < 0.5:
            thing, soft = thing[:, ::-1], soft[:, ::-1]
        y, x = (
            int(rng.integers(-(h // 4), max(1, height - h // 2))),
            int(rng.integers(-(w // 4), max(1, width - w // 2))),
        )
        top, left, bottom, right = max(0, y), max(0, x), min(height, y + h), min(width, x + w)
        here, there = np.s_[top:bottom, left:right], np.s_[top - y : bottom - y, left - x : right - x]
        solid = soft[there] > 0.5
        if min(bottom - top, right - left) < 6 or not solid.any():
            return image, None
        alpha, own, under = soft[there][..., None], thing[there].astype(np.float32), image[here].astype(np.float32)
        own = own + rng.uniform(0, 0.6) * (under.mean((0, 1)) - own[solid].mean(0))
        image = image.copy()
        image[here] = (under + alpha * (own - under)).clip(0, 255).astype(np.uint8)
        new = np.zeros(image.shape[:2], dtype=bool)
        new[here] = solid
        return image, new

    def _object(self, rng: Generator) -> tuple[Picture, Mask] | None:
        """Cut out an object or a segment of 2 to 60 % of a photograph."""
        for _ in range(8):
            photograph = self._any_photograph(rng)
            masks = list(photograph.objects)
            if photograph.segmentations:
                numbers = photograph.segmentations[int(rng.integers(len(photograph.segmentations)))]
                values = np.unique(numbers[numbers > 0])
                if len(values):
                    masks.append(numbers == rng.choice(values))
            if not masks:
                continue
            mask = masks[int(rng.integers(len(masks)))]
            if 0.02 < mask.mean() < 0.6:
                ys, xs = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
                inside = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
                return np.ascontiguousarray(photograph.image[inside]), np.ascontiguousarray(mask[inside])
        return None


def _segments(rng: Generator, numbers: np.ndarray) -> tuple[list[Mask], list[Mask]]:
    """List all segments, and up to three unions of one with one to three of its neighbours."""
    present = [int(value) for value in np.unique(numbers) if value]
    segments, unions = [numbers == value for value in present], []
    if len(present) < 3:
        return segments, []
    coarse = numbers[2::4, 2::4]
    beside = defaultdict(set)
    for one, other in ((coarse[:-2], coarse[2:]), (coarse[:, :-2], coarse[:, 2:])):
        for a, b in np.unique(np.stack([one[one != other], other[one != other]], 1), axis=0).tolist():
            beside[a].add(b)
            beside[b].add(a)
    for _ in range(3):
        first = present[int(rng.integers(len(present)))]
        near = sorted(beside[first] - {0})
        if near:
            joined = rng.choice(near, min(len(near), int(rng.integers(1, 4))), replace=False)
            unions.append(np.isin(numbers, [first, *joined.tolist()]))
    return segments, unions


def _drawn(rng: Generator, among: np.ndarray, chance: np.ndarray, count: int) -> np.ndarray:
    """Draw ``count`` of some numbers, none twice before all are drawn once."""
    rounds = math.ceil(count / len(among))
    share = chance / chance.sum()
    return np.concatenate([rng.choice(among, len(among), replace=False, p=share) for _ in range(rounds)])[:count]


def _borders(mask: Cells) -> int:
    return sum(bool(line.any()) for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def _on_cells(mask: Mask, cell: int) -> Cells:
    """Set the cells that are covered by half or more."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).reduce(cell)) >= 128


def _coloured(rng: Generator, image: Picture) -> Picture:
    """Change light, saturation and tint of four in five pictures; make one in twelve grey."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.8:
        pixels = pixels * np.float32(rng.uniform(0.7, 1.3)) + np.float32(rng.uniform(-25, 25))
        grey = pixels.mean(2, keepdims=True)
        pixels = (
            grey + (pixels - grey) * np.float32(rng.uniform(0.5, 1.4)) + rng.normal(0, 6, 3).astype(np.float32)
        )
    if rng.random() < 0.08:
        pixels = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
    return pixels.clip(0, 255).astype(np.uint8)
