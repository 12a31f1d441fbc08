"""What a release is made of: workflows, addresses, citation, the pages of the site."""

from __future__ import annotations

import importlib.util
import re
import shutil
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


def test_the_source_names_no_package_index():
    """Addresses of indexes are settings of whoever builds."""
    hosts = re.compile(
        r"https?://[\w.]*(?:download\.|pypi\.|pythonhosted|index|registry)[\w.]*", re.I
    )
    files = [ROOT / name for name in ("pyproject.toml", "setup.py", "Makefile", "Dockerfile")]
    files += [*ROOT.glob("*constraints.txt"), *ROOT.glob("*/constraints.txt")]
    workflows = (path for path in (ROOT / ".github").rglob("*") if path.is_file())
    files += [path for path in workflows if path.suffix != ".pyc"]  # of a script's test
    found = {str(file): hosts.findall(file.read_text()) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_variables_reach_the_containers():
    """What a step sets for cibuildwheel is passed on, and the script in the container reads it."""
    [step] = [s for s in steps(ROOT / ".github/workflows/release.yml")
              if "-m cibuildwheel" in s.get("run", "")]  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    passed = project["tool"]["cibuildwheel"]["linux"]["environment-pass"]
    assert set(step["env"]) == set(passed) == {"PIP_EXTRA_INDEX_URL", "CUDA_REPOSITORY"}
    assert "${CUDA_REPOSITORY:?" in (ROOT / ".github/before_wheels.sh").read_text()


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("release", ROOT / ".github/prepare_release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_release_shows_readme_with_absolute_links(release):
    text = (ROOT / "README.md").read_text()
    targets = LINK.findall(release.absolute_links(text, "someone/fork", "v1.2.3"))
    relative = [target for target in targets if "://" not in target]
    assert all(target.startswith("#") for target in relative)
    own = re.compile(r"https://github\.com/someone/fork/(raw|blob)/v1\.2\.3/([^#]+)")
    found = [match for target in targets if (match := own.match(target))]
    assert {match[1] for match in found} == {"raw", "blob"}
    assert all((ROOT / match[2]).exists() for match in found)
    assert all((match[1] == "raw") == match[2].endswith((".png", ".jpg")) for match in found)


def test_a_release_has_urls(release):
    text = (ROOT / "pyproject.toml").read_text()
    before, after = tomllib.loads(text), tomllib.loads(release.with_urls(text, "someone/fork"))
    urls = after["project"].pop("urls")
    assert after == before
    assert urls["Repository"] == "https://github.com/someone/fork"


def test_citation_has_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == denoise_ext.__version__


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("v1.2.0", "1.2.0"),
        ("v1.2.0rc1", "1.2.0rc1"),
        ("main", "1.2.0.dev0"),
        ("vague", "1.2.0.dev0"),
    ],
)
def test_the_tag_is_the_version(release, tag, expected):
    assert release.version_of(tag, "1.2.0.dev0", "## [1.2.0] - 2026-01-02\n") == expected


@pytest.mark.parametrize(
    ("tag", "changelog", "word"),
    [
        ("v1.3.0", "## [1.3.0] - 2026-01-02", "v1.3.0"),
        ("v1.2", "", "v1.2"),
        ("v1.2.0x", "", "v1.2.0x"),
        ("v1.2.0", "## [Unreleased]", "CHANGELOG.md"),
        ("v1.2.0", "## [1.2.0]", "CHANGELOG.md"),
    ],
)
def test_a_wrong_tag_stops_the_release(release, tag, changelog, word):
    with pytest.raises(ValueError, match=re.escape(word)):
        release.version_of(tag, "1.2.0.dev0", changelog)


def test_a_release_is_written_into_the_source(release, tmp_path):
    current = denoise_ext.__version__
    base = current.split(".dev")[0]
    for name in ("README.md", "pyproject.toml", "CITATION.cff", "denoise_ext/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    log = (ROOT / "CHANGELOG.md").read_text()
    dated = log.replace("## [Unreleased]", f"## [{base}] - 2026-01-02", 1)
    (tmp_path / "CHANGELOG.md").write_text(dated)
    release.main(tmp_path, "someone/fork", f"v{base}")
    code = (tmp_path / "denoise_ext/__init__.py").read_text()
    assert f'\n__version__ = "{base}"\n' in code
    assert (
        code.replace(f'"{base}"', f'"{current}"') == (ROOT / "denoise_ext/__init__.py").read_text()
    )
    assert yaml.safe_load((tmp_path / "CITATION.cff").read_text())["version"] == base
    assert "github.com/someone/fork" in (tmp_path / "CHANGELOG.md").read_text()
    assert "OWNER/NAME" not in (tmp_path / "CHANGELOG.md").read_text()


def test_the_changelog_is_in_the_form_of_keep_a_changelog():
    text = (ROOT / "CHANGELOG.md").read_text()
    kinds = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    versions = re.findall(r"^## (.*)$", text, re.M)
    assert versions[0] == "[Unreleased]"
    dated = [
        re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", line) for line in versions[1:]
    ]
    assert all(dated)
    numbers = [tuple(map(int, match[1].split("."))) for match in dated]
    assert numbers == sorted(numbers, reverse=True)
    for section in re.split(r"^## .*$", text, flags=re.M)[1:]:
        headings = re.findall(r"^### (.*)$", section, re.M)
        assert headings == [kind for kind in kinds if kind in headings]
        assert not re.search(r"^#### ", section, re.M)
    links = dict(re.findall(r"^\[([^]]+)\]: (\S+)$", text, re.M))
    assert {line[1 : line.index("]")] for line in versions} <= set(links)
    assert all(link.startswith("https://github.com/OWNER/NAME/") for link in links.values())


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
