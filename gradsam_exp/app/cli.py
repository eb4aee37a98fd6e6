"""This module is the program ``gradsam-exp``: it starts a task, and says in one line whatever goes wrong.

Imports nothing heavy, so that ``--help`` and a mistyped override answer at once.
"""

import errno
import gc
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradsam_exp import __version__
from gradsam_exp.app import process
from gradsam_exp.app.alone import let_go
from gradsam_exp.app.arguments import as_meant
from gradsam_exp.app.callbacks import RESUMED, conclude, end_watch, sweep_under_way
from gradsam_exp.app.composing import HYDRA, prepare_hydra
from gradsam_exp.app.ending import Terminated, end_with_leader, ending_in_order, leading
from gradsam_exp.app.launchers import is_parallel
from gradsam_exp.app.messages import no_choice, one_line
from gradsam_exp.app.refusals import check_dry_run
from gradsam_exp.app.renamed import refuse_renamed
from gradsam_exp.app.startup import compose_once, leave, load_task, share_store
from gradsam_exp.app.targets import check_before_calling
from gradsam_exp.config import check
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError, OutOfMemory, first_line, harmless, keep_traceback, say
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.folder import LOG, Run
from gradsam_exp.runs.saved_config import calls_a_resolver

log = logging.getLogger("gradsam_exp")
LEAST_HIDDEN = 4  # characters
_INTERPOLATION = r"\$\{(?:[^${}]|\$\{[^${}]*\})*\}"  # one may stand in another

_SAID_IN_ONE_LINE = (InputError, OmegaConfBaseException)
_job_began = threading.Event()
_input_errors: list[Exception] = []  # of a single run: what passes through Hydra comes out with a banner


def main() -> NoReturn:
    """Do what the command line asks for and end the program; ``gradsam-exp`` and ``run.py`` start here."""
    if "--version" in sys.argv[1:]:
        print(f"gradsam_exp {__version__}")
        sys.exit(0)
    logging.raiseExceptions = False  # a log on a full disk must not fill the terminal
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors reach us: we say them in one line
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads without work sleep: others may need the cores
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large tensors on huge pages: memory fragments less
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    sys.argv[1:] = as_meant(sys.argv[1:])
    share_store()
    compose_once()
    check_before_calling()
    end_with_leader()
    with ending_in_order(), leading():
        leave(run_program(_run_hydra))


def _run_hydra() -> None:
    """Let Hydra compose what was given on the command line and run the job, or each of a sweep's."""
    hydra.main(version_base=HYDRA, config_path=str(prepare_hydra()), config_name="config")(run_job)()


def run_program(job: Callable[[], Any]) -> int:
    """Run Hydra's main function; the exit code is 0, 1 for an error, 130 for Ctrl-C, 143 for SIGTERM.

    A sweep that ends early, by Ctrl-C, by a signal or because its launcher fails, is summarised all the same.
    """
    _input_errors.clear()
    _job_began.clear()
    try:
        refuse_renamed(sys.argv[1:])
        job()
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except (InputError, HydraException, OmegaConfBaseException) as error:
        _input_errors.append(_used_up(error) or error)
    except BrokenPipeError:  # whoever read has seen enough, as ``| head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        known = _known(error)
        if known is None and sweep_under_way() is None:
            raise
        _input_errors.append(known or InputError(_end_early(error)))
    finally:
        end_watch()
        let_go()
        gc.unfreeze()
    for problem in _input_errors:
        say(one_line(problem))
    return 1 if _input_errors else 0


def run_job(cfg: DictConfig) -> float | None:
    """Check the configuration and run its task.

    In a sweep an error becomes a failure record in the job's folder and the sweep goes on (an exception
    would keep Hydra from running the jobs that follow and from writing the summary). A single run that is
    refused before it has left anything leaves no folder either.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    _job_began.set()
    end_with_leader()
    run, refused = Run(folder), False
    run.begin()
    hidden = hidden_values(cfg)
    handler = _log_to(folder, hidden)
    os.chdir(hydra_config.runtime.cwd)  # with hydra.job.chdir, too, paths are those of where the command was given
    try:
        settings = check(cfg)
        if sweeping and is_parallel(DictConfig(hydra_config.launcher)):
            from gradsam_exp.console import console  # noqa: PLC0415  (rich takes its time)

            console.quiet = True  # jobs that run at once would print over one another
        check_dry_run(settings)
        task = load_task(str(settings.task["name"]))
        # Not resolved: what ``${oc.env:KEY}`` gives may be a secret, and overrides are shown.
        overrides = OmegaConf.to_container(DictConfig(hydra_config.overrides), resolve=False)
        assert isinstance(overrides, dict)
        sweep = Path(hydra_config.sweep.dir) if sweeping else None
        searched = "direction" in hydra_config.sweeper
        value = task.run(
            settings, Job(folder, tuple(map(str, overrides["task"])), sweep, process.SESSION, searched)
        )
    except KeyboardInterrupt as error:
        run.fail(error)
        if not sweeping and cfg.task.name == RESUMED and cfg.store.enabled:
            error.add_note("the same command goes on with what is in the store")
        raise
    except Exception as error:
        hide(error, hidden)
        said = _used_up(error) or error
        run.fail(said)
        if not isinstance(said, _SAID_IN_ONE_LINE):
            if not sweeping:
                raise
            log.exception("job failed")
        elif not sweeping:  # of a job, the sweep says it
            _input_errors.append(said)
            refused = isinstance(error, _SAID_IN_ONE_LINE) and not run.has_begun
    else:
        if sweeping and not run.has_ended and not settings.dry_run:  # a task without metrics of its own
            run.finish_without_metrics()
        return value
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):  # of a full disk
            handler.close()
        if refused or (cfg.dry_run and not sweeping):
            run.discard()
    return None


def hidden_values(cfg: DictConfig) -> dict[str, str]:
    """Map each value that a resolver (``${oc.env:KEY}``) returned to its ``${…}`` text; it may be a secret.

    Strings that call one, and of each string the parts that came from a call. Values of fewer than
    `LEAST_HIDDEN` characters are no secrets, and stand in many a text.
    """
    found: dict[str, str] = {}

    def look(written: Any, resolved: Any) -> None:
        if isinstance(written, dict) and isinstance(resolved, dict):
            for key in written.keys() & resolved.keys():
                look(written[key], resolved[key])
        elif isinstance(written, list) and isinstance(resolved, list):
            for one, other in zip(written, resolved, strict=False):
                look(one, other)
        elif isinstance(written, str) and isinstance(resolved, str) and calls_a_resolver(written):
            found[resolved] = written
            parts = re.split(_INTERPOLATION, written)
            pattern = "(.*)".join(map(re.escape, parts))
            values = re.fullmatch(pattern, resolved, re.DOTALL)
            if values is not None:
                found.update(zip(values.groups(), re.findall(_INTERPOLATION, written), strict=True))

    given = OmegaConf.to_container(cfg, resolve=False)
    if not calls_a_resolver(str(given)):
        return {}
    with suppress(OmegaConfBaseException):  # said by the check
        look(given, OmegaConf.to_container(cfg, resolve=True))
    return {value: text for value, text in found.items() if len(value) >= LEAST_HIDDEN and calls_a_resolver(text)}


def without_values(text: str, hidden: Mapping[str, str]) -> str:
    """Replace the possibly secret values in a text by the ``${…}`` expressions that they came from."""
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, hidden[value])
    return text


def hide(error: BaseException | None, hidden: Mapping[str, str]) -> None:
    """Take `hidden_values` out of an error's message and out of those of its causes."""
    while error is not None and hidden:
        error.args = tuple(without_values(a, hidden) if isinstance(a, str) else a for a in error.args)
        error = error.__cause__ or error.__context__


def _known(error: Exception) -> InputError | None:
    """Say what to do about a plugin without its package, a folder that cannot be made, or a group that is null."""
    if isinstance(error, ImportError) and "IS THE PLUGIN INSTALLED?" in str(error):
        return InputError(f"{first_line(error)}; its extra brings it: pip install -e '.[sweep]' or '.[ray]'")
    if (used_up := _used_up(error)) is not None:
        return used_up
    if isinstance(error, OSError) and not _job_began.is_set():
        return InputError(
            f"{error.filename}: {error.strerror}; give output_root=… a folder that can be written to"
        )
    return no_choice(error)


def _used_up(error: Exception) -> InputError | None:
    """Say that the disk is full or memory used up, if that is it; also where another error followed from it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" for {error.filename}" if error.filename else ""
        return InputError(
            f"there is no space left on the disk{place}: free some, or give output_root=… and store.root=… "
            "another place; with resume=true what was finished is taken from there"
        )
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    used_up = [one for one in causes if _no_memory(one)]
    if not used_up or any(isinstance(one, OutOfMemory) for one in causes):
        return None
    return OutOfMemory(
        f"there is no memory left ({first_line(used_up[-1])}): use smaller images, a smaller network or fewer "
        "jobs at once; with resume=true what was finished is taken from there"
    )


def _no_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:  # a refusal does not wait for it
        return isinstance(error, MemoryError)
    from gradsam_exp.batching import out_of_memory  # noqa: PLC0415

    return isinstance(error, Exception) and out_of_memory(error)


def _interrupted(error: KeyboardInterrupt) -> int:
    """Summarise the sweep, if there is one, and say how to go on; returns the exit code."""
    watch, hints = sweep_under_way(), getattr(error, "__notes__", [])
    if watch is not None and watch.resumes:
        hints = ["the same command with resume=true goes on"]
    with suppress(KeyboardInterrupt):  # pressed again: the tables are not waited for
        _end_early()
    if not isinstance(error, Terminated):
        say("interrupted; what was finished is kept")
        return 130
    if (uploads := process.SESSION.kept("uploads")) is not None:
        uploads.stop()  # whoever sends signals does not wait for them
    say(": ".join([f"ended by {error}; what was finished is kept", *hints[:1]]))
    return error.code


def _end_early(error: Exception | None = None) -> str:
    """Summarise the sweep that Hydra left without calling its callbacks, if any; returns what ended it."""
    watch = sweep_under_way()
    if watch is None:
        return ""
    folder = watch.folder
    end_watch()
    if Runs(folder).jobs:
        conclude(folder, watch.store)
    if error is None:
        return ""
    with suppress(OSError):
        keep_traceback(folder, error)
    said = {job.outcome.error for job in map(Runs(folder).__getitem__, Runs(folder).jobs) if job.has_ended}
    if len(said) == 1 and "" not in said:  # what ended the sweep follows from it
        return f"every job has failed: {said.pop()}"
    return f"the sweep ended early, {type(error).__name__}: {first_line(error)} ({folder / 'error.txt'})"


class _Hiding(logging.Formatter):
    """Formats lines without `hidden_values`, and each message as one line."""

    def __init__(self, hidden: Mapping[str, str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.hidden = hidden

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without a traceback."""
        return harmless(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with its traceback if it has one."""
        return harmless(without_values(super().format(record), self.hidden), lines=True)


def _log_to(folder: Path, hidden: Mapping[str, str]) -> logging.Handler:
    """Send log lines to ``run.log`` as long as the job runs."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    handler.addFilter(lambda record: record.name.startswith("gradsam_exp") or record.levelno >= logging.WARNING)
    handler.setFormatter(_Hiding(hidden))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    return handler
