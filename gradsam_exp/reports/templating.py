"""This module fills page templates: one file of HTML with its styles, scripts and values inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from gradsam_exp.reports import colours
from gradsam_exp.reports.tables import shown


def filled(
    template: str,
    content: Mapping[str, Any],
    *,
    styles: Sequence[str],
    scripts: Sequence[str | Markup],
    **values: Any,
) -> str:
    """Return the page that ``template`` makes; all names are of files below the package.

    Every value is escaped, but for the styles and scripts, which are the project's own.

    Args:
        content: what the scripts read: JSON that cannot end the element it stands in. NaN is refused.
        scripts: names, or scripts of other libraries as they are.
        values: what the template itself shows.
    """
    loader = jinja2.PackageLoader("gradsam_exp", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = shown

    def source(name: str) -> Markup:
        return name if isinstance(name, Markup) else Markup(loader.get_source(environment, name)[0])

    return environment.get_template(template).render(
        **values,
        colours=colours,
        content_json=htmlsafe_json_dumps(content, separators=(",", ":"), allow_nan=False),
        styles=[source(name) for name in styles],
        scripts=[source(name) for name in scripts],
    )
