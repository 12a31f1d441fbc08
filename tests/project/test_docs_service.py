"""What docs/service.md says: the commands work, the tables are those of the service."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from docs_blocks import blocks
from live_service import file_of, live_service, noisy_image

from denoise_ext import io
from denoise_ext._loader import native_error

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("uvicorn", reason="needs the extra web")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "service.md"
pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
]


def lines(start: str) -> list[str]:
    found = "".join(blocks(PAGE, "bash")).splitlines()
    return [line for line in found if line.startswith(start)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_of_clients(tmp_path):
    (tmp_path / "noisy.png").write_bytes(file_of(noisy_image(40, 50)))
    (tmp_path / "scan.tif").write_bytes(file_of(noisy_image(40, 50, dtype="uint16"), "TIFF"))
    commands = lines("curl")
    assert len(commands) == 4
    with live_service("--token", "7f3a...") as running:
        for command in commands:
            command = re.sub(r"http://[\w.]+:8000/", running.url, command)
            words = [*shlex.split(command), "--fail", "--silent", "--show-error"]
            if "Bearer" not in command:
                words += ["-H", "Authorization: Bearer 7f3a..."]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, (command, done.stderr)
            if "analyse" in command:
                assert '"treatment"' in done.stdout
    assert io.read_image(tmp_path / "clean.png").shape == (40, 50, 3)
    assert io.read_image(tmp_path / "clean.tif").dtype == "uint16"


def test_the_tables_are_those_of_the_service(capsys):
    from denoise_ext.cli import main
    from denoise_ext.service.app import Service
    from denoise_ext.service.openapi import description
    from denoise_ext.service.options import ServiceOptions
    from denoise_ext.service.parameters import DENOISE

    text = PAGE.read_text()
    paths = set(re.findall(r"^\| `[A-Z]+ ([^`]+)` \|", text, re.M))
    served = {route.path for route in Service(ServiceOptions()).routes()}
    assert paths == {p for p in served if p != "/" and not p.startswith("/page/")}
    document = description(ServiceOptions())
    described = {
        int(status)
        for item in document["paths"].values()
        for operation in item.values()
        for status in operation["responses"]
    }
    rows = re.findall(r"^\| ((?:\d{3}(?:, )?)+) \|", text, re.M)
    stated = {int(status) for row in rows for status in row.split(", ")}
    assert stated == {status for status in described if status >= 400}
    named = re.search(r"`/v1/denoise` takes (.*?) in the query", text, re.S)[1]
    assert set(re.findall(r"`(\w+)`", named)) == {parameter.name for parameter in DENOISE}
    assert main(["serve", "--help"]) == 0
    known = capsys.readouterr().out
    for option in re.findall(r"`(--[a-z-]+)", text):
        assert option in known or option in ("--host",), option
    options = ServiceOptions()
    assert (options.max_upload, options.body_memory) == (256 << 20, 1 << 30)
    assert (options.max_pixels, options.max_requests) == (50_000_000, 64)
    assert (options.kept_memory, options.kept_seconds, options.time_limit) == (512 << 20, 1800, 120)


def test_the_server_commands_are_known():
    commands = [shlex.split(line, comments=True) for line in lines("denoise-ext")]
    behind = ["denoise-ext", "serve", "--name", "pictures.example.org"]
    assert commands == [["denoise-ext", "serve"], behind]
    [line] = lines("DENOISE_EXT_TOKEN")
    assert shlex.split(line)[1:] == ["denoise-ext", "serve", "--host", "0.0.0.0"]


def test_the_image_installs_what_the_extras_name():
    """The Dockerfile lists the packages: a change of the source does not install them anew."""
    import tomllib

    from packaging.requirements import Requirement

    root = PAGE.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in ("io", "raw", "medical", "web"):
        wanted += project["project"]["optional-dependencies"][extra]
    text = (root / "Dockerfile").read_text()
    for requirement in map(Requirement, wanted):
        assert re.search(rf"\s{requirement.name}\s", text, re.I), requirement.name
