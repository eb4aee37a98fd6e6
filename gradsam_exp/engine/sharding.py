"""This module lets several devices prepare one run's images: a process on each stores its share of the chunks."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from gradsam_exp.config import Config
from gradsam_exp.engine.plan import Plan, plan
from gradsam_exp.engine.preparation import Preparation, Stopwatch
from gradsam_exp.engine.session import Job, Session
from gradsam_exp.errors import InputError

POLL_S = 2.0
STAGE = "prepare"


def share_out(planned: Plan, preparation: Preparation, chunks: Sequence[list[int]], stopwatch: Stopwatch) -> None:
    """Fill the store with some chunks, on as many of the run's devices as there are chunks for.

    Args:
        chunks: see `Preparation.missing`; none is prepared twice or left out.
        stopwatch: counts the images that have come into the store, as the stage ``prepare``.

    Raises:
        InputError: a process was killed, or its models could not be read.
    """
    config, start = planned.config, time.perf_counter()
    count = min(config.devices, len(chunks))
    alone = replace(planned.job, session=Session())  # what is shared here does not travel
    shares = [list(chunks[number::count]) for number in range(count)]
    threads = max(1, torch.get_num_threads() // count)
    devices = [f"cuda:{k}" if planned.device.type == "cuda" else "cpu" for k in range(count)]
    arguments = (config, alone, devices, shares, threads)
    processes = start_processes(_fill, arguments, count, join=False, daemon=True, start_method="spawn")
    try:
        while not processes.join(timeout=POLL_S):
            left = sum(map(len, preparation.missing(planned.dataset, chunks)))
            stopwatch.seconds[STAGE] = time.perf_counter() - start
            stopwatch.images[STAGE] = sum(map(len, chunks)) - left
            stopwatch.on_change()
    except ProcessExitedException as error:
        raise InputError(
            f"devices={config.devices}: {error}; if memory ran out, use fewer devices or a smaller batch_size"
        ) from error
    except ProcessRaisedException as error:  # the process's traceback, whose last line says it
        raise InputError(f"devices={config.devices}: {str(error).strip().splitlines()[-1]}") from error
    finally:  # on Ctrl-C, or if one of them failed, none goes on alone
        for process in processes.processes:
            process.kill()


def _fill(
    rank: int, config: Config, job: Job, devices: Sequence[str], shares: Sequence[list[list[int]]], threads: int
) -> None:
    """Prepare one process's share; everything it makes is in the store."""
    torch.set_num_threads(threads)
    planned = plan(replace(config, device=devices[rank], devices=1), job)
    preparation = planned.experiment().prepare
    with suppress(InputError):  # said by the run itself, which will meet it as well
        for _ in preparation(planned.dataset, batch_size=config.batch_size, chunks=shares[rank]):
            pass
