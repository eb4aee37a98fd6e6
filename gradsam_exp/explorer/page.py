"""This module makes the explorer's page: one file with its styles and scripts, which needs no network."""

from __future__ import annotations

from typing import Any

from gradsam_exp.explorer.outcomes import SAMPLE
from gradsam_exp.explorer.views import STRIP, Explorer
from gradsam_exp.reports import colours
from gradsam_exp.reports.templating import filled

_SCRIPTS = (
    "reports/templates/shared.js",
    "reports/templates/drawing.js",
    "explorer/templates/explorer.js",
)
_STYLES = ("reports/templates/report.css", "explorer/templates/explorer.css")


def render(explorer: Explorer, nonce: str) -> str:
    """Make the page; ``nonce`` marks its own scripts and styles as those that may run."""
    content: dict[str, Any] = {
        "heat": colours.heat_table(),
        "images": len(explorer.dataset),
        "sample": min(SAMPLE, len(explorer.dataset)),
        "strip": STRIP,
        "run": None if explorer.run is None else str(explorer.run.folder),
    }
    config = explorer.config
    return filled(
        "explorer/templates/explorer.html",
        content,
        styles=_STYLES,
        scripts=_SCRIPTS,
        nonce=nonce,
        data=f"{config.data['name']} · {config.split} · {len(explorer.dataset)} images",
        model=config.model.get("backbone") or config.model.get("name") or config.model.get("source"),
        sam=explorer.segmenter_name,
        has_run=explorer.run is not None,
    )
