"""``task=list`` says what each option of each group does, and of one group which knobs its options have."""

from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from rich.table import Table

from gradsam_exp.config import GROUPS, Config, Option, conf_folder, options_of
from gradsam_exp.console import console
from gradsam_exp.data.backgrounds import BACKGROUNDS
from gradsam_exp.data.base import DATASETS
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.explainers.base import EXPLAINERS
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.refiners.base import REFINERS
from gradsam_exp.registry import Registry, annotations_of, build_checked
from gradsam_exp.segmenters.base import SEGMENTERS
from gradsam_exp.selectors.base import SELECTORS

REGISTRIES: dict[str, Registry[Any]] = {
    one.key: one for one in (STRATEGIES, EXPLAINERS, REFINERS, SELECTORS, SEGMENTERS, DATASETS, BACKGROUNDS)
}
"""Where the ranges of an option's knobs are written, by group."""
PICTURED = {"pipeline", "explainer", "refine"}
"""Groups whose options the site's gallery draws."""


def run(config: Config, job: Job) -> None:
    """Print the lists.

    Raises:
        InputError: there is no such group.
    """
    build_checked("task", show, config.task)


def show(*, group: str | None = None) -> None:
    """See ``conf/task/list.yaml``."""
    groups = [*GROUPS, "experiment"]
    known = {name: options for name in groups if (options := options_of(name))}
    if group is not None and group not in known:
        raise InputError(f"task.group={group!r} is not known{did_you_mean(group, known)}")
    for name in known if group is None else [group]:
        table = _table(f"{name}=")
        for option, found in known[name].items():
            table.add_row(option, found.says)
            if group is not None:
                _add_knobs(table, name, option, found)
        console.print(table)
    site = conf_folder().parent / "docs" / "site"  # in a checkout
    if group in PICTURED and (site / "pages.py").is_file():
        page = site / "html" / "docs" / "site" / "generated" / f"{group}.html"
        console.print(
            f"with a picture of each: {'' if page.is_file() else 'make docs makes '}{page}", soft_wrap=True
        )


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column("option", overflow="fold")
    table.add_column("what it does", overflow="fold")
    return table


def _add_knobs(table: Table, group: str, name: str, option: Option) -> None:
    ranges = _ranges(group, name)
    for knob, (default, comment) in option.knobs.items():
        said = ", ".join(filter(None, [f"now {default}" if default else "", ranges.get(knob, "")]))
        table.add_row(f"  {knob}", ": ".join(filter(None, [said, comment])))


def _ranges(group: str, name: str) -> dict[str, str]:
    """What each knob of an option may be, from its plug-in's fields; nothing where that is not said."""
    registry = REGISTRIES.get(group)
    try:
        hints = {} if registry is None else annotations_of(registry.get(name))
    except InputError:  # a file of another name than its plug-in, or a package that is not installed
        return {}
    return {knob: range_of(hint) for knob, hint in hints.items()}


def range_of(hint: Any) -> str:
    """Write the values that an annotation allows: ``a | b``, ``≥ 0, < 1``; nothing if it does not say."""
    try:
        schema = TypeAdapter(hint).json_schema()
    except (PydanticUserError, NameError):  # of a type that is no plain value
        return ""
    parts = []
    for one in schema.get("anyOf", [schema]):
        if "enum" in one:
            parts.append(" | ".join(map(str, one["enum"])))
        signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        ends = [f"{sign} {one[key]:g}" for key, sign in signs.items() if key in one]
        parts += [", ".join(ends)] if ends else []
    return " | ".join(parts)
