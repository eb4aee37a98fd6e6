"""This module makes batches of random scenes: new ones for training, the same ones for validation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gradsam_exp.segmenters.compact import INPUT_SIZE
from gradsam_exp.training.photographs import PhotographScenes
from gradsam_exp.training.queries import PIXELS_PER_CELL, SceneBatch
from gradsam_exp.training.scenes import Scene, SceneGenerator

VALIDATION_SCENES = 192


@dataclass(eq=False)
class SceneStream(IterableDataset[tuple[np.ndarray, Tensor]]):
    """A scene stream yields ``(picture, masks)`` for ever, with ``targets`` masks each, some twice if need be.

    Scene ``i`` is a pure function of ``(seed, i)``, so a training can be resumed at any scene.

    Attributes:
        generator: draws the scenes.
        targets: masks per scene.
        seed: which scenes.
        object_share: chance that a target is a drawn object rather than a region behind them.
        plain_until: up to this scene, plain scenes and object targets are mixed in, at first only these,
            then fewer and fewer: a model that has yet to learn what a click means learns it from them.
        start: first scene.
        photographs: scenes of photographs, beside the drawn ones; None: all are drawn.
        drawn_share: chance that a scene is drawn, where there are photographs.
    """

    generator: SceneGenerator
    _: KW_ONLY
    targets: int
    seed: int
    object_share: float = 0.65
    plain_until: int = 0
    start: int = 0
    photographs: PhotographScenes | None = None
    drawn_share: float = 1 / 3

    def __iter__(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in count(self.start + first, stride):
            rng = np.random.default_rng([self.seed, number])
            if self.photographs is not None and rng.random() >= self.drawn_share:
                if found := self.photographs.draw(rng, self.targets):
                    yield found[0], torch.from_numpy(np.stack(found[1]))
                continue
            plain = rng.random() < 1 - number / max(1, self.plain_until)
            scene = self.generator.draw(rng, plain=plain)
            if scene.objects or scene.region_ids:
                share = 1.0 if plain else self.object_share
                yield scene.image, torch.from_numpy(np.stack(self._choose(rng, scene, share)))

    def _choose(self, rng: Generator, scene: Scene, object_share: float) -> list[np.ndarray]:
        counts = {True: len(scene.objects), False: len(scene.region_ids)}
        pools: dict[bool, list[int]] = {True: [], False: []}
        # A click on a picture falls on its larger regions more often.
        area = np.sqrt(np.bincount(scene.regions.ravel())[scene.region_ids])
        chances = {True: None, False: area / area.sum() if len(area) else None}
        chosen: list[np.ndarray] = []
        while len(chosen) < self.targets:
            drawn = bool(rng.random() < object_share)
            drawn = drawn if counts[drawn] else not drawn
            if not pools[drawn]:
                order = rng.choice(counts[drawn], counts[drawn], replace=False, p=chances[drawn])
                pools[drawn] = order.tolist()[::-1]
            pick = pools[drawn].pop()
            chosen.append(scene.objects[pick] if drawn else scene.regions == scene.region_ids[pick])
        return chosen


class SceneModule(pl.LightningDataModule):
    """SceneModule serves scenes for training, new ones in every epoch, and a fixed set for validation.

    Args:
        stream: makes the endless stream of a split (``train`` or ``val``) from its first scene's number.
        batch_size: scenes in a batch.
        scenes_per_epoch: how far the training stream moves on from one epoch to the next.
        workers: processes that make scenes; their number decides which scenes are in a batch together.
    """

    def __init__(
        self,
        stream: Callable[[str, int], SceneStream],
        *,
        batch_size: int,
        scenes_per_epoch: int,
        workers: int = 1,
    ) -> None:
        super().__init__()
        self.workers = workers
        self.stream, self.batch_size, self.scenes_per_epoch = stream, batch_size, scenes_per_epoch

    def train_dataloader(self) -> DataLoader[Any]:
        """Start at this epoch's first scene, so that a resumed training goes on with the scenes that come next."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        stream = self.stream("train", epoch * self.scenes_per_epoch)
        return DataLoader(
            stream, self.batch_size, num_workers=self.workers, collate_fn=collate_scenes, prefetch_factor=4
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Draw the first 192 scenes of the validation stream once; they are the same in every epoch."""
        scenes: Any = list(islice(self.stream("val", 0), VALIDATION_SCENES))
        return DataLoader(scenes, self.batch_size, collate_fn=collate_scenes)


def collate_scenes(items: Sequence[tuple[np.ndarray, Tensor]]) -> SceneBatch:
    """Resize pictures to SAM's input frame (as `ResizeLongestSide` does), pad, and stack with their masks."""
    low = INPUT_SIZE // PIXELS_PER_CELL
    images = torch.zeros(len(items), 3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8)
    inside = torch.zeros(len(items), INPUT_SIZE, INPUT_SIZE, dtype=torch.bool)
    masks = torch.zeros(len(items), len(items[0][1]), low, low, dtype=torch.bool)
    for k, (picture, own) in enumerate(items):
        scale = INPUT_SIZE / max(picture.shape[:2])
        height, width = (int(side * scale + 0.5) for side in picture.shape[:2])
        resized = Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BILINEAR)
        images[k, :, :height, :width] = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        inside[k, :height, :width] = True
        masks[k, :, : own.shape[1], : own.shape[2]] = own
    return SceneBatch(images, inside, masks)
