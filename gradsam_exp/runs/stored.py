"""This module reads images and heatmaps that a run took from the store, without making anything."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gradsam_exp.engine.store import Store, StoreSettings
from gradsam_exp.registry import build_checked
from gradsam_exp.runs.folder import Run
from gradsam_exp.types import Tensors

Picture = tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "height width"] | None]


def readers_store(node: Mapping[str, Any]) -> Store | None:
    """Open the store of whoever looks at runs, from a configuration's ``store``; None if it is switched off.

    It is only read: the folder need not exist.

    Raises:
        InputError: a setting is unknown or out of its range.
    """
    settings = build_checked("store", StoreSettings, node)
    return Store(Path(settings.root).expanduser().resolve()) if settings.enabled else None


def stored_images(run: Run, store: Store, names: Collection[str], *, most_pixels: int) -> dict[str, Picture]:
    """Read images and true masks by the example's name, of those of ``names`` that the store has.

    Args:
        most_pixels: of all chunks that are read; what comes after is left out.

    Raises:
        InputError: the run does not say where they are.
    """
    found: dict[str, Picture] = {}
    for ids, tensors in _chunks(run, store, "images", names):
        images, masks = tensors["images"].permute(0, 2, 3, 1).numpy(), tensors.get("masks")
        for k, (name, image) in enumerate(zip(ids, tensors["image_of"].tolist(), strict=True)):
            if name in names:
                found[name] = images[image], None if masks is None else masks[k].numpy()
        most_pixels -= images[..., 0].size
        if most_pixels < 0:
            break
    return found


def stored_heatmaps(
    run: Run, store: Store, names: Collection[str]
) -> dict[str, Float[np.ndarray, "height width"]]:
    """Read heatmaps in [0, 1] by the example's name, of those of ``names`` that the store has.

    Raises:
        InputError: the run does not say where they are.
    """
    return {
        name: values.numpy()
        for ids, tensors in _chunks(run, store, "heatmaps", names)
        for name, values in zip(ids, tensors["values"], strict=True)
        if name in names
    }


def _chunks(run: Run, store: Store, what: str, names: Collection[str]) -> Iterator[tuple[list[str], Tensors]]:
    """The chunks that hold some of the examples."""
    wanted = set(names)
    for chunk in run.prepared:
        ids = chunk.get("example_ids", [])
        if wanted.isdisjoint(ids) or what not in chunk["stored"]:
            continue
        found = store.peek(chunk["stored"][what])
        tensors: Tensors = {} if found is None else found[0]
        first = tensors.get("values" if what == "heatmaps" else "image_of")
        if first is not None and len(first) == len(ids):  # else it is another's chunk
            yield ids, tensors
