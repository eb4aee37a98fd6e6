"""``task=train_sam``: train ``sam=compact`` from scratch on endless random scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pydantic import Field
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.backgrounds import BACKGROUNDS
from gradsam_exp.data.photos import photographs
from gradsam_exp.engine.session import Job
from gradsam_exp.registry import build_checked
from gradsam_exp.runs.folder import provenance, write_json
from gradsam_exp.segmenters.checkpoints import compact_weights
from gradsam_exp.segmenters.compact import INPUT_SIZE, build_compact
from gradsam_exp.training.fitting import check_resume, fit
from gradsam_exp.training.promptable import PromptableTraining, SceneBatch
from gradsam_exp.training.scenes import SceneGenerator, SceneStream
from gradsam_exp.weights import save_weights

LOW = INPUT_SIZE // 4
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


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


class Scenes(pl.LightningDataModule):
    """Scenes for training, new ones in every epoch, and a fixed set from held-out pictures.

    Args:
        streams: makes the stream of a split from its first scene's number.
    """

    def __init__(
        self, stream: Callable[[str, int], SceneStream], *, batch_size: int, scenes_per_epoch: int, val_scenes: int
    ) -> None:
        super().__init__()
        self.stream, self.batch_size = stream, batch_size
        self.scenes_per_epoch, self.val_scenes = scenes_per_epoch, val_scenes

    def train_dataloader(self) -> DataLoader[Any]:
        """Called anew for every epoch; a resumed training goes on with the scenes that come next."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        stream = self.stream("train", epoch * self.scenes_per_epoch)
        return DataLoader(stream, self.batch_size, num_workers=1, collate_fn=collate_scenes, prefetch_factor=4)

    def val_dataloader(self) -> DataLoader[Any]:
        """The same scenes every time."""
        scenes = _FirstScenes(self.stream("val", 0), self.val_scenes)
        return DataLoader(scenes, self.batch_size, collate_fn=collate_scenes)


def run(config: Config, job: Job) -> None:
    """Train, or go on with ``task.resume``; leaves ``last.ckpt`` after every epoch and the weights at the end."""
    build_checked("task", train, config.task, config=config, job=job)


def train(
    config: Config,
    job: Job,
    *,
    steps: Positive = 12_000,
    batch_size: Positive = 24,
    targets: Positive = 4,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3,
    seed: int = 0,
    steps_per_epoch: Positive = 250,
    plain_share: Share = 0.15,
    start: str | None = None,
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
    frozen_encoder: bool = False,
    idle_background: Share = 0.0,
    tight_clusters: Share = 0.0,
    pictures: dict[str, Any] | None = None,
    resume: str | None = None,
) -> None:
    """See ``conf/task/train_sam.yaml``."""
    folder = job.folder
    check_resume(resume)
    beginning = None if start is None else compact_weights(start, key="task.start")
    backgrounds = {
        split: BACKGROUNDS.build(pictures, split=split) if pictures is not None else None
        for split in ("train", "val")
    }
    generators = {split: SceneGenerator(photographs(split), backgrounds[split]) for split in backgrounds}

    def stream(split: str, start: int) -> SceneStream:
        plain_until = int(plain_share * steps * batch_size) if split == "train" else 0
        return SceneStream(
            generators[split],
            targets=targets,
            seed=seed if split == "train" else seed + 1,
            plain_until=plain_until,
            start=start,
        )

    pl.seed_everything(seed, verbose=False)
    epochs = max(1, round(steps / steps_per_epoch))
    sam = build_compact()
    if beginning is not None:
        sam.load_state_dict(beginning.tensors())
    model = PromptableTraining(
        sam,
        steps=epochs * steps_per_epoch,
        learning_rate=learning_rate,
        average_decay=average_decay,
        frozen_encoder=frozen_encoder,
        idle_background=idle_background,
        tight_clusters=tight_clusters,
    )
    trainer = pl.Trainer(
        **config.trainer,
        max_epochs=epochs,
        limit_train_batches=steps_per_epoch,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=25,
        logger=pl.loggers.CSVLogger(str(folder), name="", version="log", flush_logs_every_n_steps=25),
        callbacks=[
            ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False),
            LearningRateMonitor("epoch"),
            RichProgressBar(leave=True),
        ],
        enable_model_summary=False,
    )
    scenes = Scenes(stream, batch_size=batch_size, scenes_per_epoch=steps_per_epoch * batch_size, val_scenes=192)
    fit(trainer, model, folder / "last.ckpt", datamodule=scenes, ckpt_path=resume)
    facts = {key: value for key, value in config.task.items() if key not in {"name", "resume"}}
    save_weights(folder / "compact.safetensors", model.averaged.module.state_dict(), {"kind": "compact", **facts})
    write_json(
        folder / "provenance.json",
        provenance(
            config=asdict(config),
            digests={s: b.fingerprint for s, b in backgrounds.items() if b is not None},
            seeds={"task.seed": seed},
            device=str(trainer.strategy.root_device),
        ),
    )
    console.print(
        f"{folder}\nuse it: python run.py sam.checkpoint={folder / 'compact.safetensors'}", soft_wrap=True
    )
