"""Sphinx's configuration: the site is made of the repository's own pages and of lists made from the registries."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "site")]

from pages import write_pages  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

FOLDER = ROOT / "docs" / "site" / "generated"

project = "gradsam_exp"
root_doc = "docs/site/index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/**.md",
    "benchmarks/*.md",
    "examples/plugin/README.md",
    "gradsam_exp/weights/*.md",
    "studies/*/README.md",
]
default_role = "literal"  # `Name` in docstrings
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
html_theme = "furo"
html_title = "gradsam_exp"
html_copy_source = False
html_show_copyright = False
copybutton_prompt_text = "$ "


def setup(app: Sphinx) -> None:
    """Make the pages that are made from the program before Sphinx looks for them; ``-D pictures=0`` draws none."""
    app.add_config_value("pictures", True, "env", bool)
    app.connect("builder-inited", lambda app: write_pages(FOLDER, pictures=bool(int(app.config.pictures))))
