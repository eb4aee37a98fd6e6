"""This module makes the site's pages that list what the program has, from its registries and configuration."""

import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradsam_exp as gs
from gradsam_exp.config import conf_folder
from gradsam_exp.engine.pipeline import PipelineResult
from gradsam_exp.engine.plan import plan
from gradsam_exp.engine.preparation import Prepared
from gradsam_exp.errors import InputError
from gradsam_exp.refiners.base import REFINERS
from gradsam_exp.registry import Registry
from gradsam_exp.reports.figures import figure1
from gradsam_exp.reports.gallery import Gallery

GALLERIES: dict[str, tuple[str, Registry[Any], str]] = {
    "pipeline": (
        "Gallery of prompt strategies",
        gs.STRATEGIES,
        "How a heatmap becomes points, boxes and mask prompts",
    ),
    "explainer": ("Gallery of explainers", gs.EXPLAINERS, "How a classifier's attention becomes a heatmap"),
    "refine": ("Gallery of refiners", REFINERS, "How heatmaps are made to follow the image's edges"),
    "selector": ("Selectors", gs.SELECTORS, "Which of the segmenter's masks is kept"),
}
DRAWN = {"pipeline", "explainer", "refine"}
IMAGES = 2  # of each option's picture
_SECTIONS = re.compile(r"\n\s*\n(?:Args|Attributes|Raises|Returns):\n.*", re.DOTALL)


def write_pages(folder: Path, *, pictures: bool = True) -> None:
    """Write one Markdown page for each group of options, one of all configuration files, and one of the API.

    Args:
        folder: of the pages; what is in it is replaced.
        pictures: draw what strategies, explainers and refiners do; two minutes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    session = gs.Session()
    for group, (title, registry, what) in GALLERIES.items():
        parts = [f"# {title}", f"{what}: `{group}=NAME`. Made from the program's own texts.\n"]
        for name in _options(group):
            parts += [f"## {name}", _described(registry, group, name)]
            if pictures and group in DRAWN and _draw(group, name, folder / f"{group}-{name}.png", session):
                parts.append(f"![{group}={name} on {IMAGES} test images]({group}-{name}.png)")
            parts.append(_yaml(group, name))
        (folder / f"{group}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    (folder / "metrics.md").write_text(_metrics(), encoding="utf-8")
    (folder / "configuration.md").write_text(_configuration(), encoding="utf-8")
    (folder / "api.md").write_text(_api(), encoding="utf-8")


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def _described(registry: Registry[Any], group: str, name: str) -> str:
    """Take the docstring's text; without its sections, which the API has."""
    if name not in registry.names():  # refine=none
        return _first_line(group, name)
    return _SECTIONS.sub("", inspect.getdoc(registry.get(name)) or "")


def _first_line(group: str, name: str) -> str:
    return (conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _yaml(group: str, name: str) -> str:
    """Show an option's file, with those it starts from."""
    folder = conf_folder() / group
    own = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    bases = [folder / f"{base}.yaml" for base in re.findall(r"- (base/\w+)@_here_", own)]
    texts = [own, *(f"# {path.relative_to(folder)}\n{path.read_text(encoding='utf-8')}" for path in bases)]
    return "```yaml\n" + "\n".join(text.strip() + "\n" for text in texts) + "```"


def _draw(group: str, name: str, path: Path, session: gs.Session) -> bool:
    """Draw two test images with an option; False if it cannot be had here, or not with the default model."""
    overrides = ["store.enabled=false", f"limit={IMAGES}", "logger=none", f"{group}={name}"]
    try:
        config = gs.compose(overrides)
        planned = plan(config, gs.Job(path.parent, overrides, session=session))
    except InputError:
        return False
    gallery = Gallery(planned.classifier.class_names, first=IMAGES, worst=0)

    def on_batch(item: Prepared, result: PipelineResult) -> None:
        gallery(item, result)

    planned.experiment().run(planned.dataset, batch_size=IMAGES, on_batch=on_batch)
    figure1(gallery.first_examples(), path)
    return True


def _metrics() -> str:
    parts = ["# Metrics", "What is measured on every image. `metrics=NAME` takes one of these sets:\n"]
    parts += [f"- `{name}`: {_first_line('metrics', name)}" for name in _options("metrics")]
    for name in gs.METRICS.names():
        metric = gs.METRICS.get(name)
        parts += [f"\n## {name}\n", _SECTIONS.sub("", inspect.getdoc(metric) or "")]
    return "\n".join(parts) + "\n"


def _configuration() -> str:
    """Show every file of the configuration, by group."""
    root = conf_folder()
    parts = [
        "# Configuration",
        "Every group, option and knob with its default. `--cfg job` shows what a command composes.",
    ]
    parts += ["## config.yaml", f"```yaml\n{(root / 'config.yaml').read_text(encoding='utf-8')}```"]
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name != "hydra"):
        parts.append(f"## {folder.name}")
        for path in sorted(folder.glob("*.yaml")):
            parts += [
                f"### {folder.name}={path.stem}",
                f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```",
            ]
    return "\n\n".join(parts) + "\n"


def _api() -> str:
    """List what `gradsam_exp` offers to programs, in the order of its interface file."""
    parts = ["# API", "What `import gradsam_exp as gs` offers.\n"]
    for name in _public():
        what = getattr(gs, name)
        kind = "class" if inspect.isclass(what) else "data" if isinstance(what, Registry) else "function"
        members = "\n   :members:" if kind == "class" else ""
        parts.append(f"```{{eval-rst}}\n.. auto{kind}:: gradsam_exp.{name}{members}\n```")
    return "\n\n".join(parts) + "\n"


def _public() -> Iterator[str]:
    text = (Path(gs.__file__).parent / "__init__.pyi").read_text(encoding="utf-8")
    yield from sorted(re.findall(r"import \w+ as (\w+)", text))
