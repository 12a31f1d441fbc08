"""The documentation site, by Sphinx: `make docs` writes it to build/docs.

Sphinx reads from the root of the repository, so that links between its Markdown files need no
second form.  Only the files below are pages.
"""

import contextlib
import re
import tomllib
from pathlib import Path

import denoise_ext

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = PROJECT["name"]
version = release = denoise_ext.__version__
copyright = f"the authors of {project}, {PROJECT['license']}"

root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/**",
    "csrc/README.md",
    "recipes/README.md",
    "recipes/*/README.md",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
]
exclude_patterns = [".*", "build", "dist", "denoise_ext", "tests", "runs", "out", "**/.*"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_heading_anchors = 4
default_role = "code"  # what docstrings write between single backticks
autodoc_typehints = "none"  # docstrings give types with their constraints
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_custom_sections = [("Keys", "params_style"), ("Shape", "notes_style")]

html_theme = "furo"
html_title = f"{project} {release}"
html_extra_path = ["site"]


def make_gallery(app: object) -> None:
    """Run the Python blocks of the gallery, which write its pictures."""
    page = ROOT / "docs/gallery.md"
    pictures = ROOT / "docs/gallery"
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("*.png"):
        old.unlink()
    names: dict[str, object] = {}
    with contextlib.chdir(page.parent):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
            exec(compile(block, str(page), "exec"), names)


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", make_gallery)
