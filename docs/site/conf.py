"""How Sphinx makes the site of docs/: `make docs`. It reads the repository's Markdown where it
stands, so that links work here, in an editor and on the site; nothing on the site is fetched from
another place.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from sphinx.application import Sphinx  # noqa: E402 - found beside this, after the path is set

from docs.site import generated  # noqa: E402 - as above

project = "Acordo"
author = "the Acordo authors"
copyright = "the Acordo authors, MIT licence"
version = release = generated.version()
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README*.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "CLOUD/README.md",
    "CLOUD/README.pt-BR.md",
    "deploy/**/README.md",
    "load-tests/*.md",
    *(f"{package}/**DESIGN.md" for package in generated.PACKAGES),
]
exclude_patterns = [".*", "build", "data", "out", "stubs", "tests", "**/__pycache__", "docs/site"]

myst_enable_extensions = ["attrs_block"]
myst_heading_anchors = 4
myst_ref_domains: list[str] = []
suppress_warnings = [
    "myst.header",  # a page may begin a part anew, and the changelog skips a level
    "toc.not_included",  # what is reached from a page's text needs no place in the menu
    "misc.highlighting_failure",  # code that leaves out what does not matter, with an ellipsis
]
nitpicky = False
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
highlight_language = "text"

html_theme = "furo"
html_title = f"Acordo {version}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_static_path: list[str] = []


def setup(app: Sphinx) -> None:
    """Have the parts of pages made that are not written by hand."""
    app.connect("env-get-outdated", generated.outdated)
    app.connect("source-read", generated.fill)
    app.connect("build-finished", generated.front_door)
