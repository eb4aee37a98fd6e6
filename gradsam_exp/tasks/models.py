"""``task=models`` lists the classifiers and segmenters that can be chosen, and whose weights are here."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.table import Table

from gradsam_exp.config import Config, conf_folder, options_of
from gradsam_exp.console import console
from gradsam_exp.engine.plan import find_classifier_of
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.dry_run import default_frame, dry_run
from gradsam_exp.registry import build_checked
from gradsam_exp.segmenters.checkpoints import OFFICIAL, cache_folder
from gradsam_exp.weights import open_weights

EXTRAS = {
    "hf": ("hf", "transformers"),
    "clip": ("hf", "transformers"),
    "mobile_sam": ("mobile_sam", "mobile_sam"),
    "grabcut": ("grabcut", "cv2"),
}
"""Which extra an option needs, and the package that comes with it."""
TRAINED = ("classifier.safetensors", "compact.safetensors")


def run(config: Config, job: Job) -> None:
    """Print tables of the options, of what is in the caches, and of what was trained below ``output_root``.

    Raises:
        InputError: ``task.layers`` of a classifier that cannot be built.
    """
    build_checked("task", show, config.task, config=config)


def show(config: Config, *, layers: bool = False) -> None:
    """See ``conf/task/models.yaml``."""
    if layers:
        _say_layers(config)
        return
    for group, where in (("model", _where_model), ("sam", _where_sam)):
        table = _table(f"{group}=", "option", "what it is", "its weights")
        for name, option in options_of(group).items():
            node = OmegaConf.to_container(OmegaConf.load(conf_folder() / group / f"{name}.yaml"))
            assert isinstance(node, dict)
            table.add_row(name, option.says, where(name, {str(k): v for k, v in node.items()}))
        console.print(table)
    _say_files("in the caches", cached_weights())
    _say_files(f"trained here, below {config.output_root}", trained_weights(Path(config.output_root)))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _where_model(option: str, node: Mapping[str, Any]) -> str:
    """Say where a classifier's weights are, or come from."""
    if (missing := _missing(option)) is not None:
        return missing
    if option == "imagenet" or str(node.get("checkpoint")).startswith("shipped:"):
        return "here, installed with the package"
    if node.get("source") == "checkpoint":
        return "what task=train leaves"
    return "yours" if option == "module" else "published ones are downloaded on first use"


def _where_sam(option: str, node: Mapping[str, Any]) -> str:
    """Say where a segmenter's weights are, or come from."""
    if (missing := _missing("hf" if "id" in node else option)) is not None:
        return missing
    if option in {"compact", "compact_drawn"}:
        return "here, installed with the package"
    if option in {"grabcut", "none"}:
        return "has none"
    if option in OFFICIAL:
        official = OFFICIAL[option]
        path = cache_folder() / official.file
        return f"here, {path}" if path.is_file() else f"downloaded on first use from {official.url}"
    if "id" not in node:
        return "of the hub's sam.id, downloaded on first use, or a folder"
    here = _in_hub_cache(str(node["id"]))
    return f"here, {here}" if here else f"downloaded on first use from huggingface.co/{node['id']}"


def _missing(option: str) -> str | None:
    extra, package = EXTRAS.get(option, (None, None))
    if package is None or find_spec(package) is not None:
        return None
    return f'pip install "gradsam_exp[{extra}]" first'


def _in_hub_cache(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  (slow to import)

    found = try_to_load_from_cache(repository, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def cached_weights() -> Iterator[tuple[str, int]]:
    """Yield the weights in the caches of this package, of torch and of Hugging Face, with their bytes."""
    from huggingface_hub import CacheNotFound, scan_cache_dir  # noqa: PLC0415

    for folder in (cache_folder(), Path(torch.hub.get_dir()) / "checkpoints"):
        for path in sorted(folder.glob("*.pt*")):
            yield str(path), path.stat().st_size
    try:
        for repository in sorted(scan_cache_dir().repos, key=lambda one: one.repo_id):
            yield f"{repository.repo_id} (Hugging Face)", repository.size_on_disk
    except CacheNotFound:
        return


def trained_weights(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the weights files that trainings have left, with what they are."""
    for path in sorted(path for name in TRAINED for path in root.rglob(name)):
        try:
            header = open_weights(path).header
        except InputError:
            continue
        given = header.get("hyper_parameters", {})
        what = (
            f" ({given['backbone']}, {len(given['class_names'])} classes)" if given else f" ({header.get('kind')})"
        )
        yield f"{path}{what}", path.stat().st_size


def _say_files(title: str, files: Iterator[tuple[str, int]]) -> None:
    lines = [f"  {name}, {size / 1e6:.1f} MB" for name, size in files]
    console.print("\n".join([f"{title}:{'' if lines else ' none'}", *lines]), soft_wrap=True)


def _say_layers(config: Config) -> None:
    """List the layers that give maps, in the order in which they run."""
    source = find_classifier_of(config, ready=False)
    network = source.outline()
    frame = source.size or default_frame(network)
    try:
        seen = dry_run(network, frame)
    except InputError:
        raise
    except Exception:  # of many kinds: it needs values to run
        seen = dry_run(source.load(), frame)
    title = f"layers of {source.backbone} that give maps, for an input of {frame[0]}×{frame[1]} px"
    table = _table(title, "explainer.target_layers", "kind", "channels", "rows×columns")
    for call, (channels, rows, columns), _ in seen.maps():
        if call.name:
            table.add_row(call.name, type(call.module).__name__, str(channels), f"{rows}×{columns}")
    console.print(table)
