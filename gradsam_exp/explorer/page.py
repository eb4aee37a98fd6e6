"""This module makes the explorer's page: one file with its styles and scripts, which needs no network."""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from gradsam_exp.explorer.views import SAMPLE, STRIP, Explorer
from gradsam_exp.reports import colours

_SCRIPTS = (
    "reports/templates/shared.js",
    "reports/templates/drawing.js",
    "explorer/templates/explorer.js",
)
_STYLES = ("reports/templates/report.css", "explorer/templates/explorer.css")


def render(explorer: Explorer, nonce: str) -> str:
    """Make the page; ``nonce`` marks its own scripts and styles as those that may run."""
    loader = jinja2.PackageLoader("gradsam_exp", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)

    def source(name: str) -> Markup:
        return Markup(loader.get_source(environment, name)[0])

    content: dict[str, Any] = {
        "heat": colours.heat_table(),
        "images": len(explorer.dataset),
        "sample": min(SAMPLE, len(explorer.dataset)),
        "strip": STRIP,
        "run": None if explorer.run is None else str(explorer.run.folder),
    }
    config = explorer.config
    return environment.get_template("explorer/templates/explorer.html").render(
        nonce=nonce,
        colours=colours,
        content_json=htmlsafe_json_dumps(content, separators=(",", ":"), allow_nan=False),
        scripts=[source(name) for name in _SCRIPTS],
        styles=[source(name) for name in _STYLES],
        data=f"{config.data['name']} · {config.split} · {len(explorer.dataset)} images",
        model=config.model.get("backbone") or config.model.get("name") or config.model.get("source"),
        sam=explorer.segmenter_name,
        has_run=explorer.run is not None,
    )
