"""Writes what a release knows and a checkout does not, before it is built: addresses and version.

    python .github/prepare_release.py OWNER/NAME v1.2.3

A package index shows README.md away from the repository, so relative links become absolute ones.
The repository's own copy keeps relative links: they also work in a fork and in a checkout. A tag
such as v1.2.3 or v1.2.3rc1 sets the version. A branch in its place leaves the version as it is.
"""

import re
import sys
from pathlib import Path

PICTURES = {".png", ".jpg", ".svg"}
PLACEHOLDER = "OWNER/NAME"  # in CHANGELOG.md
VERSION_TAG = r"v(\d+\.\d+\.\d+)((?:a|b|rc)\d+)?"


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


def version_of(tag: str, current: str, changelog: str) -> str:
    """The version that a tag names; the current one for a branch.

    Raises ValueError for a tag that is not of the release that the source prepares, and for a
    release without a dated section in the changelog.
    """
    match = re.fullmatch(VERSION_TAG, tag)
    if match is None:
        if tag.startswith("v") and tag[1:2].isdigit():
            raise ValueError(f"tag must be like v1.2.3 or v1.2.3rc1, got {tag!r}")
        return current
    release = match[1]
    if current.split(".dev")[0] != release:
        raise ValueError(f"tag {tag!r} is not of {current}, the version in denoise_ext/__init__.py")
    heading = rf"^## \[{re.escape(release)}\] - \d{{4}}-\d\d-\d\d$"
    if not match[2] and not re.search(heading, changelog, re.M):
        raise ValueError(f"CHANGELOG.md has no section [{release}] with a date")
    return release + (match[2] or "")


def main(root: Path, repository: str, tag: str) -> None:
    """Rewrite the files below `root`."""
    code, citation, log = (
        root / "denoise_ext/__init__.py", root / "CITATION.cff", root / "CHANGELOG.md",
    )  # fmt: skip
    line = re.compile(r'^__version__ = "(.*)"$', re.M)
    current = line.search(code.read_text())[1]
    version = version_of(tag, current, log.read_text())
    for file, pattern, new in (
        (code, line, f'__version__ = "{version}"'),
        (citation, re.compile(r"^version: .*$", re.M), f"version: {version}"),
    ):
        file.write_text(pattern.sub(new, file.read_text()))
    log.write_text(log.read_text().replace(PLACEHOLDER, repository))
    readme, project = root / "README.md", root / "pyproject.toml"
    readme.write_text(absolute_links(readme.read_text(), repository, tag))
    project.write_text(with_urls(project.read_text(), repository))


if __name__ == "__main__":
    if len(sys.argv) != 3 or not re.fullmatch(r"[\w.-]+/[\w.-]+", sys.argv[1]):
        sys.exit("usage: python .github/prepare_release.py OWNER/NAME TAG")
    try:
        main(Path(__file__).resolve().parents[1], *sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
