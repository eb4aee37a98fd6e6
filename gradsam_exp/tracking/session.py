"""This module opens one run of a logger; one of W&B is offline, and uploaded once it is written."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from gradsam_exp.engine.session import Job
from gradsam_exp.errors import harmless
from gradsam_exp.tracking.content import Heading
from gradsam_exp.tracking.settings import LocalRun, LocalSettings, WandbSettings
from gradsam_exp.tracking.upload import Uploads, warn

if TYPE_CHECKING:
    from wandb import Run


def record(
    settings: WandbSettings,
    job: Job,
    heading: Heading,
    fill: Callable[["Run"], None],
    begun: "Run | None" = None,
) -> str | None:
    """Write an offline run into the job's folder and upload it if that is wanted; what goes wrong is a warning.

    Args:
        fill: logs everything.
        begun: the run, if it is open already.

    Returns:
        What to do to see it: an address, or the command that uploads it. None if a warning has said so, if it is
        being uploaded, or if it is one of a sweep, which says at its end how to upload all.
    """
    try:
        run = begun or open_run(settings, job, heading)
        place, ended_well = place_of(run), False
        try:
            fill(run)
            ended_well = True
        finally:
            run.finish(exit_code=None if ended_well else 1)
    except Exception as error:  # a view must not cost the run, whatever happens in it
        warn(f"not used ({type(error).__name__}: {error}); the run's own files are whole")
        return None
    return deliver(settings, job, place)


def record_locally(
    settings: LocalSettings,
    job: Job,
    heading: Heading,
    numbers: Mapping[str, float],
    files: Mapping[str, Path],
    begun: LocalRun | None = None,
) -> str | None:
    """Write a finished run where a local logger keeps it; what goes wrong is a warning.

    Args:
        begun: the run, if it is open already.

    Returns:
        The command that shows it; None if a warning has said so, or if it is one of a sweep.
    """
    try:
        run, ended_well = begun or settings.open(job, heading), False
        try:
            run.conclude(numbers, files)
            ended_well = True
        finally:
            run.close(failed=not ended_well)
    except Exception as error:  # a view must not cost the run, whatever happens in it
        warn(f"not used ({type(error).__name__}: {error}); the run's own files are whole", settings.title)
        return None
    return settings.seen_with(job.folder) if job.sweep is None else None


def open_run(settings: WandbSettings, job: Job, heading: Heading) -> "Run":
    """Begin an offline run in the job's folder; asks no server for anything."""
    # The files of tables and artifacts are staged here; the default is below the home directory.
    os.environ["WANDB_DATA_DIR"] = str(job.folder.resolve() / "wandb")
    # W&B's reports about itself go to the server as well: they keep a process from ending if it hangs.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # noqa: PLC0415  (a second)

    with _harmless_arguments():
        return wandb.init(
            id=token_hex(4) if job.sweep else None,  # WANDB_RUN_ID would be that of all its jobs
            project=settings.project,
            entity=settings.entity,
            dir=job.folder,
            mode="offline",
            name=heading.name,
            group=heading.group,
            job_type=heading.task,
            tags=heading.tags,
            config=dict(heading.described),
            reinit="create_new",
            # Versions and commit are in provenance.json; asking for them again takes longer than all the rest.
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_save_requirements=False),
        )


@contextmanager
def _harmless_arguments() -> Iterator[None]:
    """Let W&B, which keeps the command line, see it as it may be shown."""
    given = sys.argv
    sys.argv = [harmless(argument) for argument in given]
    try:
        yield
    finally:
        sys.argv = given


def place_of(run: "Run") -> Path:
    """Return the folder that ``wandb sync`` and ``wandb leet`` take."""
    return Path(run.dir).parent


def deliver(settings: WandbSettings, job: Job, place: Path) -> str | None:
    """Upload an offline run if that is wanted; see `record`.

    A sweep's runs are linked from ``<sweep>/wandb``, which ``wandb leet`` browses as a whole.
    """
    sweep = job.sweep
    if sweep is not None:
        with suppress(OSError):  # a system without links
            (sweep / "wandb").mkdir(exist_ok=True)
            (sweep / "wandb" / place.name).symlink_to(os.path.relpath(place, sweep / "wandb"))
    if not settings.uploads:
        return f"wandb sync {shlex.quote(str(place))}" if sweep is None else None
    whole = f"{shlex.quote(str(sweep))}/*/wandb/offline-run-*" if sweep else shlex.quote(str(place))
    uploads = job.session.keep("uploads", None, Uploads)
    return uploads.send(settings, place, f"wandb sync {whole}", wait=sweep is None)
