"""Sphinx's configuration of the documentation site; ``make docs`` builds it from the pages of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lightning_ood.ops.version import VERSION
from tools.notebooks import executed

ROOT = Path(__file__).parents[2]

project = "lightning_ood"
author = "lightning_ood contributors"
release = VERSION
html_title = f"lightning_ood {VERSION}"
root_doc = "docs/site/index"

extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/site/*.md",
    "experiments/*.md",
    "experiments/**/*.md",
    "notebooks/*.ipynb",
]
suppress_warnings = ["toc.not_included"]  # tables of results: reached by links
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
nb_execution_mode = "off"  # tools.notebooks executes them
nb_output_stderr = "remove"  # Lightning's notices
linkcheck_timeout = 20
linkcheck_anchors = False
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_use_rtype = False


def prepare(app: Any, name: str, source: list[str]) -> None:
    """Adapts a page to the site.

    A notebook gets its outputs, a table of results a title, a folder has no page to link to, and the page of detectors
    lists every file.
    """
    here = (ROOT / name).parent
    if here.name == "notebooks":
        source[0] = executed(ROOT / f"{name}.ipynb")
        return

    if here.name == "results" and not source[0].startswith("# "):
        source[0] = f"# {here.parent.name}: {Path(name).name}\n\n{source[0]}"

    def text(link: re.Match[str]) -> str:
        return link[1] if (here / link[2]).is_dir() else link[0]

    source[0] = re.sub(r"\[([^\]]+)\]\(([^)#:\s]+)\)", text, source[0])
    if name == "docs/site/detectors":
        folder = ROOT / "lightning_ood" / "detectors"
        files = (file.relative_to(ROOT).with_suffix("") for file in sorted(folder.rglob("[a-z]*.py")))
        for parts in (file.parts for file in files):
            source[0] += f"\n## {parts[-1]}\n\n```{{eval-rst}}\n.. automodule:: {'.'.join(parts)}\n```\n"


def setup(app: Any) -> None:
    """Registers what this file adds to Sphinx."""
    app.connect("source-read", prepare)
