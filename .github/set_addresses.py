"""Writes the addresses of a release into README.md and pyproject.toml, before it is built.

    python .github/set_addresses.py OWNER/NAME v1.2.3

A package index shows README.md away from the repository, so relative links become absolute ones.
The repository's own copy keeps relative links: they also work in a fork and in a checkout.
"""

import re
import sys
from pathlib import Path

PICTURES = {".png", ".jpg", ".svg"}


def absolute_links(text: str, repository: str, tag: str) -> str:
    """Markdown whose relative links lead to the tag's files; pictures to their bytes."""

    def address(match: re.Match) -> str:
        target = match[1]
        if "://" in target or target.startswith("#"):
            return match[0]
        kind = "raw" if Path(target).suffix in PICTURES else "blob"
        return f"](https://github.com/{repository}/{kind}/{tag}/{target})"

    return re.sub(r"\]\(([^)\s]+)\)", address, text)


def with_urls(text: str, repository: str) -> str:
    """pyproject.toml with [project.urls]."""
    home = f"https://github.com/{repository}"
    owner, name = repository.split("/")
    urls = {
        "Repository": home,
        "Documentation": f"https://{owner}.github.io/{name}/",
        "Changelog": f"{home}/blob/main/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    table = "".join(f'{key} = "{value}"\n' for key, value in urls.items())
    return text.replace("[project.scripts]", f"[project.urls]\n{table}\n[project.scripts]", 1)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not re.fullmatch(r"[\w.-]+/[\w.-]+", sys.argv[1]):
        sys.exit("usage: python .github/set_addresses.py OWNER/NAME TAG")
    root = Path(__file__).resolve().parents[1]
    readme, project = root / "README.md", root / "pyproject.toml"
    readme.write_text(absolute_links(readme.read_text(), *sys.argv[1:]))
    project.write_text(with_urls(project.read_text(), sys.argv[1]))
