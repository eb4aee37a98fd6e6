"""``task=train_sam`` trains ``sam=compact`` on endless random scenes, drawn ones and those of photographs."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from pytorch_lightning.callbacks import LearningRateMonitor, RichProgressBar
from segment_anything.modeling import Sam

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.backgrounds import BACKGROUNDS, Background
from gradsam_exp.data.photos import photographs
from gradsam_exp.engine.session import Job
from gradsam_exp.registry import build_checked
from gradsam_exp.runs.provenance import write_provenance
from gradsam_exp.segmenters.checkpoints import compact_architecture, compact_weights
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.compact_lite import build_compact_lite
from gradsam_exp.training.fitting import (
    NOTHING_KEPT,
    KeptEpochs,
    SeededEpochs,
    build_trainer,
    check_same_network,
    fit,
    read_checkpoint,
    save_answering,
)
from gradsam_exp.training.photographs import PhotographScenes, read_photographs
from gradsam_exp.training.promptable import PromptableTraining
from gradsam_exp.training.scene_loader import SceneModule, SceneStream, collate_scenes
from gradsam_exp.training.scenes import SceneGenerator
from gradsam_exp.weights import WeightsFile, save_weights

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class TrainSamSettings:
    """Holds the settings of ``conf/task/train_sam.yaml``, where their defaults are.

    Attributes:
        steps: length of the training, rounded to whole epochs.
        batch_size: scenes a step.
        targets: segments asked for in each scene.
        learning_rate: its peak.
        decay_share: share of the training over which the rate falls to zero.
        box_share, click_share, pretrained_rate: see `PromptableTraining`.
        seed: of the initial weights, the scenes and the prompts.
        steps_per_epoch: between one checkpoint and validation and the next.
        plain_share: share of the training over which simple scenes are phased out.
        architecture: ``lite0``, whose encoder starts from ImageNet weights, or ``vit``, from random ones; None is
            that of ``start``, and ``lite0`` without.
        start: weights to begin with: ``shipped``, ``shipped:compact_drawn``, or a file of an earlier training;
            those of another architecture give their prompt encoder and mask decoder. None starts anew.
        average_decay: of the weights' moving average, which is what is kept.
        frozen_encoder, idle_background, idle_foreground, tight_clusters: see `PromptableTraining`.
        pictures: config node of a background whose pictures join the bundled ones.
        photographs: a folder or zip file of outlined photographs, see `read_photographs`; None: all scenes are
            drawn.
        drawn_share: share of the scenes that are drawn, where there are photographs.
        workers: processes that make scenes.
        resume: a ``last.ckpt`` of an interrupted training.
    """

    steps: Positive
    batch_size: Annotated[int, Field(ge=1, le=2**16)]
    targets: Annotated[int, Field(ge=1, le=2**10)]
    learning_rate: Annotated[float, Field(gt=0)]
    pretrained_rate: Share
    decay_share: Share
    click_share: Share
    box_share: Share
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    steps_per_epoch: Positive
    plain_share: Share
    architecture: Literal["lite0", "vit"] | None
    start: str | None
    average_decay: Annotated[float, Field(ge=0, lt=1)]
    frozen_encoder: bool
    idle_background: Share
    idle_foreground: Share
    tight_clusters: Share
    pictures: dict[str, Any] | None
    photographs: str | None
    drawn_share: Share
    workers: Positive
    resume: str | None


def run(config: Config, job: Job) -> None:
    """Train, or go on with ``task.resume``; leaves ``last.ckpt`` after every epoch and the weights at the end.

    Raises:
        InputError: before the training starts, if something given is wrong.
    """
    settings, folder = build_checked("task", TrainSamSettings, config.task), job.folder
    checkpoint = read_checkpoint(settings.resume)
    start = None if settings.start is None else compact_weights(settings.start, key="task.start")
    backgrounds = {
        split: None if settings.pictures is None else BACKGROUNDS.build(settings.pictures, split=split)
        for split in ("train", "val")
    }
    outlined = {split: _photographs(settings, split) for split in ("train", "val")}
    sources = {split: (backgrounds[split], outlined[split]) for split in backgrounds}
    pl.seed_everything(settings.seed, verbose=False)
    epochs = max(1, round(settings.steps / settings.steps_per_epoch))
    before = "lite0" if start is None else start.header.get("architecture", "vit")
    architecture = settings.architecture or before
    sam = _started(architecture, start)
    model = PromptableTraining(
        sam,
        steps=epochs * settings.steps_per_epoch,
        learning_rate=settings.learning_rate,
        pretrained_rate=settings.pretrained_rate,
        decay_share=settings.decay_share,
        click_share=settings.click_share,
        box_share=settings.box_share,
        average_decay=settings.average_decay,
        frozen_encoder=settings.frozen_encoder,
        idle_background=settings.idle_background,
        idle_foreground=settings.idle_foreground,
        tight_clusters=settings.tight_clusters,
    )
    if checkpoint is not None:
        assert settings.resume is not None
        check_same_network(checkpoint, model, settings.resume)
    kept = KeptEpochs(folder)
    trainer = build_trainer(
        config.trainer,
        max_epochs=epochs,
        limit_train_batches=settings.steps_per_epoch,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=25,
        logger=pl.loggers.CSVLogger(str(folder), name="", version="log", flush_logs_every_n_steps=25),
        callbacks=[
            kept,
            SeededEpochs(settings.seed),
            LearningRateMonitor("epoch"),
            RichProgressBar(leave=True),
        ],
        enable_model_summary=False,
    )
    fit(
        trainer,
        model,
        resume=settings.resume,
        last=kept.last,
        say=partial(console.print, soft_wrap=True),
        datamodule=SceneModule(
            partial(_stream, settings, sources),
            batch_size=settings.batch_size,
            scenes_per_epoch=settings.steps_per_epoch * settings.batch_size,
            workers=settings.workers,
        ),
    )
    if config.trainer.get("fast_dev_run"):
        console.print(NOTHING_KEPT, soft_wrap=True)
        return
    facts = {key: value for key, value in config.task.items() if key not in {"name", "resume"}}
    header = {"kind": "compact", **facts, "architecture": architecture}
    path = folder / "compact.safetensors"
    scenes = collate_scenes(list(islice(_stream(settings, sources, "val", 0), 8)))
    save_answering(
        trained := model.averaged.module.cpu(),
        lambda exact: save_weights(path, trained.state_dict(), header, exact=exact),
        lambda: _loaded(path),
        lambda one: model.one_click(one, scenes)[0],
        classes=False,
    )
    write_provenance(
        folder,
        config=asdict(config),
        digests={s: b.digest for s, b in backgrounds.items() if b is not None},
        seeds={"task.seed": settings.seed},
        device=str(trainer.strategy.root_device),
    )
    console.print(f"{folder}\nuse it: python run.py sam.checkpoint={path}", soft_wrap=True)


def _loaded(path: Path) -> Sam:
    file = compact_weights(path, key="sam.checkpoint")
    sam = compact_architecture(file)()
    sam.load_state_dict(file.tensors())
    return sam


def _started(architecture: str, start: WeightsFile | None) -> Sam:
    """Build an architecture with the weights it begins with."""
    sam = (
        build_compact_lite(pretrained=start is None or start.header.get("architecture", "vit") != "lite0")
        if architecture == "lite0"
        else build_compact()
    )
    if start is None:
        return sam
    weights = start.tensors()
    if start.header.get("architecture", "vit") != architecture:
        weights = {name: value for name, value in weights.items() if not name.startswith("image_encoder.")}
        weights |= {f"image_encoder.{name}": value for name, value in sam.image_encoder.state_dict().items()}
    sam.load_state_dict(weights)
    return sam


def _photographs(settings: TrainSamSettings, split: str) -> PhotographScenes | None:
    """Read the photographs of a split, and say how many they are."""
    if settings.photographs is None:
        return None
    sets = read_photographs(settings.photographs, held_out=split != "train", key="task.photographs")
    counts = ", ".join(f"{len(own)} of {name}" for name, own in sets.items())
    what = "trains on" if split == "train" else "holds out a quarter, by a digest of the names:"
    console.print(f"task.photographs {what} {counts}", soft_wrap=True)
    return PhotographScenes(sets)


def _stream(
    settings: TrainSamSettings,
    sources: Mapping[str, tuple[Background | None, PhotographScenes | None]],
    split: str,
    start: int,
) -> SceneStream:
    """The scenes of a split from number ``start`` on; simple ones are phased out of the training's."""
    training = split == "train"
    background, photographed = sources[split]
    return SceneStream(
        SceneGenerator(photographs(split), background),
        targets=settings.targets,
        seed=settings.seed if training else settings.seed + 1,
        plain_until=int(settings.plain_share * settings.steps * settings.batch_size) if training else 0,
        start=start,
        photographs=photographed,
        drawn_share=settings.drawn_share,
    )
