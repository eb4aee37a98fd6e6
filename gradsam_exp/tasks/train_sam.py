"""``task=train_sam``: train ``sam=compact`` from scratch on endless random scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gradsam_exp.data.backgrounds import BACKGROUNDS
from gradsam_exp.data.photos import photographs
from gradsam_exp.data.scenes import SceneGenerator, SceneStream
from gradsam_exp.segmenters.compact import INPUT_SIZE, build_compact
from gradsam_exp.segmenters.training import PromptableTraining, SceneBatch
from gradsam_exp.weights import save_weights

LOW = INPUT_SIZE // 4


def collate_scenes(items: Sequence[tuple[np.ndarray, Tensor]]) -> SceneBatch:
    """Resize pictures to SAM's input frame (as `ResizeLongestSide` does), pad, and stack with their masks."""
    images = torch.zeros(len(items), 3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8)
    inside = torch.zeros(len(items), INPUT_SIZE, INPUT_SIZE, dtype=torch.bool)
    masks = torch.zeros(len(items), len(items[0][1]), LOW, LOW, dtype=torch.bool)
    for k, (picture, own) in enumerate(items):
        scale = INPUT_SIZE / max(picture.shape[:2])
        height, width = (int(side * scale + 0.5) for side in picture.shape[:2])
        resized = Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BILINEAR)
        images[k, :, :height, :width] = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        inside[k, :height, :width] = True
        masks[k, :, : own.shape[1], : own.shape[2]] = own
    return SceneBatch(images, inside, masks)


class _FirstScenes(Dataset[tuple[np.ndarray, Tensor]]):
    """A fixed list of scenes, drawn once."""

    def __init__(self, stream: SceneStream, length: int) -> None:
        scenes = iter(stream)
        self.items = [next(scenes) for _ in range(length)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Tensor]:
        return self.items[index]


def train(
    *,
    pictures: dict[str, Any] | None,
    out: Path,
    steps: int = 12_000,
    batch_size: int = 24,
    targets: int = 4,
    learning_rate: float = 1e-3,
    seed: int = 0,
    steps_per_epoch: int = 250,
    plain_share: float = 0.15,
    precision: str = "bf16-mixed",
    resume: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train and write ``<out>/compact.safetensors``.

    Args:
        pictures: config node of a background whose pictures join the bundled photographs, or None.
        out: gets ``last.ckpt`` after every epoch, and the weights at the end.
        steps, batch_size, targets: optimizer steps, scenes per step, masks per scene.
        plain_share: share of the training over which plain scenes are phased out.
        resume: continue from this checkpoint; ``steps`` may differ from the first time.

    Returns:
        The weights file.
    """
    pl.seed_everything(seed)
    epochs = steps // steps_per_epoch
    model = PromptableTraining(build_compact(), steps=epochs * steps_per_epoch, learning_rate=learning_rate)
    done = 0
    if resume is not None:
        done = int(torch.load(resume, map_location="cpu", weights_only=False)["epoch"]) + 1
    generators = {
        split: SceneGenerator(
            photographs(split), BACKGROUNDS.build(pictures, split=split) if pictures is not None else None
        )
        for split in ("train", "val")
    }
    scenes = SceneStream(
        generators["train"],
        targets=targets,
        seed=seed,
        plain_until=int(plain_share * steps * batch_size),
        start=done * steps_per_epoch * batch_size,
    )
    held_out = _FirstScenes(SceneStream(generators["val"], targets=targets, seed=seed + 1), 96)
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        precision=precision,
        max_epochs=epochs,
        limit_train_batches=steps_per_epoch,
        log_every_n_steps=25,
        logger=pl.loggers.CSVLogger(str(out), name="", version="log"),
        callbacks=[
            ModelCheckpoint(dirpath=out, filename="last", save_top_k=1, enable_version_counter=False),
            LearningRateMonitor("epoch"),
            RichProgressBar(leave=True),
            *callbacks,
        ],
    )
    trainer.fit(
        model,
        DataLoader(scenes, batch_size, num_workers=1, collate_fn=collate_scenes, prefetch_factor=4),
        DataLoader(held_out, 24, collate_fn=collate_scenes),
        ckpt_path=resume,
        weights_only=False,
    )
    header = {"kind": "compact", "steps": steps, "batch_size": batch_size, "targets": targets, "seed": seed}
    return save_weights(out / "compact.safetensors", model.averaged.module.state_dict(), header)
