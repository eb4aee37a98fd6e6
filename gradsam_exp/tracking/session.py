"""One W&B run, written offline."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsam_exp.tracking.settings import WandbSettings
from gradsam_exp.tracking.upload import UPLOADS, warn

if TYPE_CHECKING:
    from wandb import Run


@dataclass(frozen=True)
class Heading:
    """What stands above a run.

    Attributes:
        sweep: the sweep's folder, whose name is the run's group; None for a single run.
        config: flat, by the names that people sweep.
    """

    name: str
    job_type: str
    sweep: Path | None
    tags: Sequence[str]
    config: Mapping[str, Any]


def record(settings: WandbSettings, folder: Path, heading: Heading, fill: Callable[[Run], None]) -> str | None:
    """Write an offline run into ``folder/wandb`` and upload it if that is wanted.

    Whatever goes wrong is a warning.

    Args:
        fill: logs everything.

    Returns:
        What to do to see it: an address, or the command that uploads it. None if a warning has said so, if it is
        being uploaded, or if it is one of a sweep, which says at its end how to upload all.
    """
    try:
        with recording(settings, folder, heading) as run:
            fill(run)
            place = place_of(run)
    except Exception as error:  # a view must not cost the run, whatever happens in it
        warn(f"not used ({type(error).__name__}: {error}); the run's own files are whole")
        return None
    return deliver(settings, place, heading.sweep)


@contextmanager
def recording(settings: WandbSettings, folder: Path, heading: Heading) -> Iterator[Run]:
    """An offline run that is open as long as the block."""
    run = open_run(settings, folder, heading)
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def open_run(settings: WandbSettings, folder: Path, heading: Heading) -> Run:
    """Begin an offline run; asks no server for anything."""
    # The files of tables and artifacts are staged here; the default is below the home directory.
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve() / "wandb")
    # W&B's reports about itself go to the server as well: they keep a process from ending if it hangs.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # noqa: PLC0415  (a second)

    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        dir=folder,
        mode="offline",
        name=heading.name,
        group=heading.sweep.name if heading.sweep else None,
        job_type=heading.job_type,
        tags=list(heading.tags),
        config=dict(heading.config),
        reinit="create_new",
        # Versions and commit are in provenance.json; asking for them again takes longer than all the rest.
        settings=wandb.Settings(silent=True, console="off", disable_git=True, x_save_requirements=False),
    )


def place_of(run: Run) -> Path:
    """The folder that ``wandb sync`` and ``wandb leet`` take."""
    return Path(run.dir).parent


def deliver(settings: WandbSettings, place: Path, sweep: Path | None) -> str | None:
    """Upload an offline run if that is wanted; see `record`.

    A sweep's runs are linked from ``<sweep>/wandb``, which ``wandb leet`` browses as a whole.
    """
    if sweep is not None:
        with suppress(OSError):  # a system without links
            (sweep / "wandb").mkdir(exist_ok=True)
            (sweep / "wandb" / place.name).symlink_to(os.path.relpath(place, sweep / "wandb"))
    if not settings.uploads:
        return f"wandb sync {shlex.quote(str(place))}" if sweep is None else None
    whole = f"{shlex.quote(str(sweep))}/*/wandb/offline-run-*" if sweep else shlex.quote(str(place))
    return UPLOADS.send(settings, place, f"wandb sync {whole}", wait=sweep is None)
