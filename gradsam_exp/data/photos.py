"""This module finds the photographs inside the installed scikit-image, scikit-learn and matplotlib.

They are the only natural images a machine without network is sure to have. There are only a handful,
so whole *scenes* are held out: no pixel of a validation or test scene is ever trained on. Grey ones, of which the
shipped weights have seen none, are cut into parts: the left half to train, the right one to validate and test.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# scene -> (package, file inside it). Only pictures a person would call a colour photograph.
_SCENES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}

GREY = ("brick", "camera", "cell", "clock_motion", "coins", "grass", "gravel", "moon")

SCENES_OF_SPLIT = {
    "train": ("astronaut", "coffee", "motorcycle", "retina", "hubble", "china", "hopper"),
    "val": ("rocket", "ihc"),
    "test": ("chelsea", "flower"),
}


@cache
def photographs(split: str) -> tuple[UInt8[np.ndarray, "height width 3"], ...]:
    """Read the photographs of one split, RGB, each at its own size.

    Raises:
        FileNotFoundError: if an installed package no longer ships its picture.
    """
    return tuple(_load(scene) for scene in SCENES_OF_SPLIT[split])


@cache
def grey_photographs(split: str) -> tuple[UInt8[np.ndarray, "height width 3"], ...]:
    """Read the parts of `GREY` that are for one split, RGB: the left half, the upper or the lower right quarter.

    Raises:
        FileNotFoundError: as `photographs`.
    """
    return tuple(_part(_load(scene), split) for scene in GREY)


def _part(photo: np.ndarray, split: str) -> np.ndarray:
    middle, centre = photo.shape[0] // 2, photo.shape[1] // 2
    if split == "train":
        return photo[:, :centre]
    return photo[:middle, centre:] if split == "val" else photo[middle:, centre:]


def _load(scene: str) -> np.ndarray:
    package, inside = _SCENES.get(scene, ("skimage", f"data/{scene}.png"))
    spec = find_spec(package)  # locates the package without importing it: scikit-learn takes a second
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"the photograph {scene!r} should come with package {package!r}, but {path or package} is missing; "
            "reinstall the packages of requirements.lock, or choose background=noise, cifar10 or folder"
        )
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
