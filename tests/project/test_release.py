"""What a release is made of: workflows, addresses, citation, the pages of the site."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import denoise_ext

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="needs the source tree")


def steps(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_exists(workflow):
    """Every make target and every script of a step is in the repository; every job has a limit."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    used = {name for command in commands for name in re.findall(r"\bmake ([a-z-]+)", command)}
    scripts = {
        name for command in commands for name in re.findall(r"[\w./]+\.(?:py|sh)\b", command)
    }
    assert used and used <= targets
    assert [name for name in scripts if not (ROOT / name).is_file()] == []
    document = yaml.safe_load(workflow.read_text())
    assert all("timeout-minutes" in job for job in document["jobs"].values())
    assert document["permissions"] == {"contents": "read"}


def test_an_attacker_cannot_inject_commands():
    """Names of branches and tags reach the shell as variables, not as text of the script."""
    commands = [step["run"] for file in WORKFLOWS for step in steps(file) if "run" in step]
    assert [command for command in commands if "${{" in command] == []


@pytest.fixture(scope="module")
def addresses():
    spec = importlib.util.spec_from_file_location("addresses", ROOT / ".github/set_addresses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_release_shows_readme_with_absolute_links(addresses):
    text = (ROOT / "README.md").read_text()
    targets = LINK.findall(addresses.absolute_links(text, "someone/fork", "v1.2.3"))
    relative = [target for target in targets if "://" not in target]
    assert all(target.startswith("#") for target in relative)
    own = re.compile(r"https://github\.com/someone/fork/(raw|blob)/v1\.2\.3/([^#]+)")
    found = [match for target in targets if (match := own.match(target))]
    assert {match[1] for match in found} == {"raw", "blob"}
    assert all((ROOT / match[2]).exists() for match in found)
    assert all((match[1] == "raw") == match[2].endswith((".png", ".jpg")) for match in found)


def test_a_release_has_urls(addresses):
    text = (ROOT / "pyproject.toml").read_text()
    before, after = tomllib.loads(text), tomllib.loads(addresses.with_urls(text, "someone/fork"))
    urls = after["project"].pop("urls")
    assert after == before
    assert urls["Repository"] == "https://github.com/someone/fork"


def test_citation_has_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == denoise_ext.__version__


# --- the site ---------------------------------------------------------------------------------


def test_every_page_is_in_the_contents():
    """Sphinx would warn, but only where it is installed."""
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (ROOT / "docs/index.md").read_text(), re.S)
    entries = {line for tree in trees for line in tree.splitlines() if line and line[0] != ":"}
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages - entries == set()


def test_every_public_module_has_a_page():
    pages = {page.stem for page in (ROOT / "docs/api").glob("*.md")} - {"index", "denoise_ext"}
    listed = (ROOT / "docs/api/index.md").read_text()
    assert pages == set(denoise_ext._SUBPACKAGES)
    assert all(f"\n{name}\n" in listed for name in pages)


@pytest.mark.skipif(not denoise_ext.info()["native"]["loaded"], reason="native library missing")
def test_the_gallery_makes_its_pictures(tmp_path, monkeypatch):
    page = (ROOT / "docs/gallery.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gallery").mkdir()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(block, "docs/gallery.md", "exec"), names)
    shown = set(re.findall(r"\]\((gallery/.*?)\)", page))
    assert shown == {str(path.relative_to(tmp_path)) for path in tmp_path.glob("gallery/*")}
    assert names["result"].uncertainty is not None
