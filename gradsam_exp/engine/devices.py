"""Several devices prepare the images of one run: each fills the store with its share of the chunks.

A Lightning predict loop with one process per device. Chunks are dealt out by hand: DistributedSampler would
pad with repeated ones. ``ddp_spawn`` it is, since the children of ``ddp`` repeat the command line, under ``-m``
the whole sweep.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException
from torch.utils.data import DataLoader

from gradsam_exp.config import Config
from gradsam_exp.engine.plan import Plan, plan
from gradsam_exp.engine.preparation import Preparation, Stopwatch
from gradsam_exp.engine.session import Job, Session
from gradsam_exp.errors import InputError
from gradsam_exp.reports.stages import StageBars

# Here, so that it holds in the processes as well: they read this module before Lightning speaks.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*LeafSpec.* is deprecated.*")
POLL_S = 2.0
GRACE_S = 3.0  # for the processes to end by themselves after Ctrl-C


class ChunkFiller(pl.LightningModule):
    """Prepares its process's share of the chunks; everything it makes is in the store.

    Args:
        config, job: of the run; made into a plan anew in each process, as networks do not travel well.
        chunks: indices of images; all that are to be prepared.
    """

    def __init__(self, config: Config, job: Job, chunks: list[list[int]]) -> None:
        super().__init__()
        self.job = job
        self.config, self.chunks = config, chunks
        self.planned: Plan | None = None
        self.preparation: Preparation | None = None

    def setup(self, stage: str) -> None:
        """Read the models onto this process's device."""
        del stage
        self.planned = plan(replace(self.config, device=str(self.device), devices=1), self.job)
        self.preparation = self.planned.experiment().prepare

    @property
    def share(self) -> list[list[int]]:
        """The chunks of this process: none twice, none left out."""
        return self.chunks[self.trainer.global_rank :: self.trainer.world_size]

    def predict_dataloader(self) -> DataLoader[list[int]]:
        """One chunk at a time."""
        return DataLoader(self.share, batch_size=None, collate_fn=list)  # type: ignore[arg-type]

    def predict_step(self, chunk: list[int], batch_idx: int) -> int:
        """Fill the store with one chunk; returns the number of its images."""
        del batch_idx
        assert self.planned is not None
        assert self.preparation is not None
        dataset, size = self.planned.dataset, self.config.batch_size
        with suppress(InputError):  # said by the run itself, which will meet it as well
            for _ in self.preparation(dataset, batch_size=size, chunks=[chunk]):
                pass
        return len(chunk)


def prepare_on_devices(planned: Plan, preparation: Preparation) -> None:
    """Fill the store with what the preparation lacks, on ``devices`` devices, if it is enough for two.

    Args:
        planned: the run.
        preparation: its own; says what is missing.

    Raises:
        InputError: a process was killed, or its models could not be read.
    """
    config = planned.config
    if config.devices == 1:
        return
    chunks = preparation.missing(planned.dataset)
    processes = min(config.devices, len(chunks))
    if processes < 2:  # the run does it itself
        return
    trainer = pl.Trainer(
        accelerator="gpu" if planned.device.type == "cuda" else "cpu",
        devices=processes,
        # By name, as Slurm's variables would make Lightning expect Slurm to have started the processes.
        plugins=[LightningEnvironment()],
        strategy=DDPStrategy(start_method="spawn"),
        use_distributed_sampler=False,
        inference_mode=False,  # Grad-CAM needs gradients
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with _as_interrupt(trainer), _own_environment(), _progress(preparation, planned, chunks):
        try:
            trainer.predict(
                ChunkFiller(config, replace(planned.job, session=Session()), chunks),
                return_predictions=False,
            )
        except ProcessExitedException as error:
            raise InputError(
                f"devices={config.devices}: {error}; if memory ran out, use fewer devices or a smaller batch_size"
            ) from error
        except ProcessException as error:  # the child's traceback, whose last line says it
            raise InputError(f"devices={config.devices}: {str(error).strip().splitlines()[-1]}") from error


@contextmanager
def _progress(preparation: Preparation, planned: Plan, chunks: list[list[int]]) -> Iterator[None]:
    """Show how much of it has come into the store."""
    total, start = sum(map(len, chunks)), time.monotonic()
    stopwatch, ended = Stopwatch(), threading.Event()

    def watch() -> None:
        open_chunks = chunks
        while not ended.wait(POLL_S):
            open_chunks = preparation.missing(planned.dataset, open_chunks)
            stopwatch.seconds["prepare"] = time.monotonic() - start
            stopwatch.images["prepare"] = total - sum(map(len, open_chunks))
            stopwatch.on_change()

    thread = threading.Thread(target=watch, daemon=True)
    title = f"{planned.config.devices} devices on {planned.config.split}"
    with StageBars(title, total, stopwatch, last="prepare"):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def _as_interrupt(trainer: pl.Trainer) -> Iterator[None]:
    """Ctrl-C stays a `KeyboardInterrupt`, and no process goes on alone."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        # Lightning answers Ctrl-C with exit code 1 and leaves the signal ignored.
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        launcher: Any = trainer.strategy.launcher
        for process in launcher.procs:
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in launcher.procs:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
        raise KeyboardInterrupt from end


@contextmanager
def _own_environment() -> Iterator[None]:
    """Lightning leaves its port and ranks in the environment, where the next run would find them."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
