"""``task=doctor`` says what this installation has and lacks, and tries the chosen chain on a few images."""

import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from packaging.requirements import Requirement
from pydantic import Field

from gradsam_exp import __version__
from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.digest import library_versions
from gradsam_exp.engine.plan import plan
from gradsam_exp.engine.session import Job
from gradsam_exp.engine.store import STAGES
from gradsam_exp.errors import InputError, first_line, harmless, keep_traceback
from gradsam_exp.registry import build_checked
from gradsam_exp.runs.provenance import git_state
from gradsam_exp.segmenters.checkpoints import cache_folder
from gradsam_exp.tasks.models import cached_weights, trained_weights

TIGHT_GB = 2.0  # of a disk or of memory: less than this is said as a problem
LIMITING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "WANDB_MODE", "HF_HUB_OFFLINE")
"""Environment variables whose values are shown."""
SECRET = ("WANDB_API_KEY", "HF_TOKEN")
"""Environment variables of which it is only said whether they are set."""


def run(config: Config, job: Job) -> None:
    """Print what is here, what is missing and how the self-test went; the same is in ``doctor.md``.

    Raises:
        InputError: the self-test has failed, after everything else was said.
    """
    build_checked("task", examine, config.task, config=config, job=job)


def examine(config: Config, job: Job, *, images: Annotated[int, Field(ge=0, le=10000)] = 8) -> None:
    """See ``conf/task/doctor.yaml``."""
    report = _Report(job.folder / "doctor.md")
    report.add("versions", _versions())
    report.add("machine", _machine())
    report.add("environment", _environment())
    report.add("folders", _folders(config))
    report.add("weights", _weights(config))
    report.add("missing", _missing(config))
    failure = None
    if images:
        lines, failure = _self_test(config, job, images)
        report.add("self-test", lines)
    console.print(f"{report.path}: paste it into a bug report", soft_wrap=True)
    if failure is not None:
        raise InputError(failure)


class _Report:
    """Prints sections of facts, and keeps them in a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, ""

    def add(self, title: str, facts: Mapping[str, object]) -> None:
        """Print a section, and write all that there are so far."""
        lines = [f"- {name}: {value}" for name, value in facts.items()] or ["- nothing"]
        section = harmless(_without_home("\n".join([f"## {title}", *lines])), lines=True)
        console.print(section, soft_wrap=True)
        self.text += section + "\n"
        self.path.write_text(self.text, encoding="utf-8")


def _without_home(text: str) -> str:
    """The home folder is ``~``: it holds the user's name."""
    home = str(Path.home())
    return text if home == "/" else text.replace(home, "~")


def _versions() -> dict[str, object]:
    git = git_state()
    state = "" if git is None else f", commit {git['commit'][:12]}{', with changes' if git['dirty'] else ''}"
    return {
        "gradsam_exp": f"{__version__}{state}",
        "python": f"{platform.python_version()} on {platform.platform()}",
        "libraries": ", ".join(f"{name} {number}" for name, number in library_versions().items()),
        "CUDA of torch": torch.version.cuda or "none",
    }


def _machine() -> dict[str, object]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, object] = {
        "cores": f"{cores} for this process of {os.cpu_count()}; torch uses {torch.get_num_threads()} threads",
    }
    with suppress(ValueError, OSError, AttributeError):  # not on every system
        free, total = _memory()
        facts["memory"] = f"{free:.1f} GB free of {total:.1f} GB"
    for k in range(torch.cuda.device_count()):
        free_bytes, all_bytes = torch.cuda.mem_get_info(k)
        name = torch.cuda.get_device_name(k)
        facts[f"cuda:{k}"] = f"{name}, {free_bytes / 1e9:.1f} GB free of {all_bytes / 1e9:.1f} GB"
    if not torch.cuda.device_count():
        facts["GPU"] = "none that torch can use"
    return facts


def _memory() -> tuple[float, float]:
    """Free and all memory in GB."""
    page = os.sysconf("SC_PAGE_SIZE") / 1e9
    return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page


def _environment() -> dict[str, object]:
    shown = {name: os.environ[name] for name in LIMITING if name in os.environ}
    return {**shown, **{name: "set" if os.environ.get(name) else "not set" for name in SECRET}}


def _folders(config: Config) -> dict[str, object]:
    """Sizes of the store and the caches, and how much room is left beside them."""
    store = Path(str(config.store.get("root")))
    facts: dict[str, object] = {f"store {store}": _size(store)}
    for stage in STAGES:
        if (store / stage).is_dir():
            facts[f"store, {stage}"] = _size(store / stage)
    facts[f"cache {cache_folder()}"] = _size(cache_folder())
    for folder in _places(config):
        facts[f"disk of {folder}"] = f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free"
    return facts


def _size(folder: Path) -> str:
    sizes = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if path.is_file() and path.suffix != ".lock":
                sizes.append(path.stat().st_size)
    return f"{len(sizes)} files, {sum(sizes) / 1e9:.2f} GB" if folder.is_dir() else "not there"


def _places(config: Config) -> list[Path]:
    """The folders that are written to, as far as they exist."""
    wanted = (Path(config.output_root), Path(str(config.store.get("root"))), cache_folder())
    found = (next((one for one in (path, *path.parents) if one.is_dir()), Path()) for path in map(_whole, wanted))
    return list(dict.fromkeys(found))


def _whole(path: Path) -> Path:
    return path.expanduser().absolute()


def _weights(config: Config) -> dict[str, object]:
    found = [*cached_weights(), *trained_weights(Path(config.output_root))]
    return {name: f"{size / 1e6:.1f} MB" for name, size in found}


def _missing(config: Config) -> dict[str, object]:
    """What is not installed, and what is nearly full or cannot be written."""
    facts: dict[str, object] = {}
    for extra, absent in _extras().items():
        if absent:
            facts[f"extra {extra}"] = f"{', '.join(absent)}: pip install 'gradsam_exp[{extra}]'"
    for folder in _places(config):
        if not os.access(folder, os.W_OK):
            facts[f"folder {folder}"] = "cannot be written to"
        elif shutil.disk_usage(folder).free < TIGHT_GB * 1e9:
            facts[f"disk of {folder}"] = f"less than {TIGHT_GB:g} GB free"
    return facts


def _extras() -> dict[str, list[str]]:
    """Of each extra the packages that are not installed; ``dev`` is for whoever works on this package."""
    about = metadata("gradsam_exp")
    absent: dict[str, list[str]] = {extra: [] for extra in about.get_all("Provides-Extra") or [] if extra != "dev"}
    for requirement in map(Requirement, about.get_all("Requires-Dist") or []):
        for extra, names in absent.items():
            marker = requirement.marker
            if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
                try:
                    version(requirement.name)
                except PackageNotFoundError:
                    names.append(requirement.name)
    return absent


def _self_test(config: Config, job: Job, images: int) -> tuple[dict[str, object], str | None]:
    """Run the chosen chain twice without the store, the second time in batches of another size."""
    small = replace(config, limit=min(images, config.limit or images), devices=1, store={"enabled": False})
    started = time.perf_counter()
    try:
        planned = plan(small, job)
        experiment = planned.experiment()
        tables = []
        for size in (images, max(1, images // 3)):
            experiment.stopwatch.seconds.clear()
            tables.append(experiment.run(planned.dataset, batch_size=size))
    except InputError as error:
        return {"failed": error}, f"the self-test has failed: {error}"
    except Exception as error:  # what a bug report is about
        where = keep_traceback(job.folder, error)
        said = f"{type(error).__name__}: {first_line(error)}"
        return {"failed": f"{said} ({where})"}, f"the self-test has failed, {said} ({where})"
    table = tables[0].per_image
    apart = max(_differences(*(_numbers(one.per_image) for one in tables)))
    facts: dict[str, object] = {
        "chain": f"{planned.classifier.backbone}, {config.explainer['name']}, {config.pipeline['name']}, "
        f"{planned.segmenter_name}, {config.data['name']}/{config.split} on {planned.device}",
        "seconds": f"{time.perf_counter() - started:.1f} for {len(table)} examples, twice; the second time "
        + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in tables[1].seconds.items()),
        "mIoU": f"{table['iou'].mean():.4f}",
        "largest difference of a number with another batch size": f"{apart:.1e}",
    }
    return facts, None


def _numbers(table: pd.DataFrame) -> np.ndarray:
    return table.select_dtypes("number").to_numpy("float64", na_value=np.nan)


def _differences(one: np.ndarray, other: np.ndarray) -> Iterator[float]:
    yield 0.0
    yield from np.nan_to_num(np.abs(one - other)[~(np.isnan(one) & np.isnan(other))], nan=np.inf)
