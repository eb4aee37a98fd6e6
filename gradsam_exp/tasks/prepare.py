"""``task=prepare`` fills the store with the heatmaps and embeddings of one data set, shared out over jobs."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.base import ExampleDataset
from gradsam_exp.engine.plan import plan
from gradsam_exp.engine.preparation import Preparation
from gradsam_exp.engine.progress import StageBars
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.registry import build_checked, check_value

MOST = 100_000  # shards


def run(config: Config, job: Job) -> None:
    """Make what the store lacks and no other job has in hand; says how much that was.

    Raises:
        InputError: something given is wrong, or the store is off or too small for all images.
    """
    build_checked("task", prepare, config.task, config=config, job=job)


def prepare(config: Config, job: Job) -> None:
    """See ``conf/task/prepare.yaml``."""
    shard = check_value("shard", Annotated[int, Field(ge=0, lt=MOST)], config.shard or 0)
    planned = plan(config, job)
    if planned.store.root is None:
        raise InputError("task=prepare fills the store, but store.enabled=false: leave it on")
    experiment, dataset = planned.experiment(), planned.dataset
    preparation = experiment.prepare
    missing = preparation.missing(dataset)
    turns = in_turn(preparation, dataset, missing, shard)
    made = 0
    with StageBars(f"shard {shard} of {config.split}", sum(map(len, missing)), experiment.stopwatch):
        for item in preparation(dataset, batch_size=config.batch_size, chunks=turns):
            if made == 0:
                _check_room(planned.settings.max_gb, preparation, dataset, missing)
            made += len(item.batch.images)
    left = sum(map(len, preparation.missing(dataset, missing)))
    there = len(dataset) - sum(map(len, missing))
    others = len(dataset) - there - made - left
    console.print(
        f"{made} images prepared, {there} were there, {others} came from others meanwhile, "
        f"{left} are in others' hands: {planned.store.root}",
        soft_wrap=True,
    )


def in_turn(
    preparation: Preparation, dataset: ExampleDataset, missing: list[list[int]], shard: int
) -> Iterator[list[int]]:
    """Yield chunks that nobody else has made or has in hand; each shard begins elsewhere.

    How many shards there are need not be known: they begin at 0, 1/2, 1/4, 3/4, 1/8, … of the chunks (van der
    Corput's sequence), and one that comes to what others have done goes on behind it. So a job that starts late,
    is slow or dies costs the others nothing but its share.
    """
    begin = int(radical_inverse(shard) * len(missing))
    for indices in missing[begin:] + missing[:begin]:
        with preparation.claimed(dataset, indices) as free:
            if free and preparation.missing(dataset, [indices]):
                yield indices


def radical_inverse(number: int) -> float:
    """Mirror a number's binary digits at the point: 0, 1/2, 1/4, 3/4, 1/8, …"""
    found, place = 0.0, 0.5
    while number:
        found += place * (number & 1)
        number, place = number >> 1, place / 2
    return found


def _check_room(
    max_gb: float, preparation: Preparation, dataset: ExampleDataset, missing: list[list[int]]
) -> None:
    """Refuse to go on where what is made first would be deleted before the last is made."""
    first = next(indices for indices in missing if not preparation.missing(dataset, [indices]))
    needed = preparation.stored_bytes(dataset, first) / len(first) * len(dataset)
    if needed > max_gb * 2**30:
        raise InputError(
            f"store.max_gb={max_gb:g} is too little: {len(dataset)} images need {needed / 2**30:.3g}, "
            "and the first would be deleted before the last are made; give more, or store.half=true"
        )
