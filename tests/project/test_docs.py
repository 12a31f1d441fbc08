"""The commands of docs/photos.md and docs/cluster.md work as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import files
from docs_blocks import blocks

from denoise_ext import io
from denoise_ext._loader import native_error

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
]


def commands(page: str) -> list[tuple[str, int]]:
    """(command, exit code that its comment says) of every line of the page's bash blocks."""
    found = []
    for block in blocks(ROOT / "docs" / page, "bash"):
        for line in block.splitlines():
            command, _, comment = line.partition("#")
            code = re.search(r"exit code (\d)", comment)
            found.append((command.strip(), int(code[1]) if code else 0))
    return found


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with what the pages speak of."""
    rng = np.random.default_rng(0)
    for name in (
        "noisy.png", "photos/a.png", "photos/summer/b.jpg", "photos/summer/b.png",
        "photos_with_a_broken_one/a.png", "photo.jpg",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        io.write_image(tmp_path / name, rng.integers(0, 256, (16, 24, 3), dtype=np.uint8))
    io.write_image(tmp_path / "sprite.png", rng.integers(0, 256, (9, 8, 4), dtype=np.uint8))
    (tmp_path / "photos_with_a_broken_one" / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "list.txt").write_text("noisy.png\nphotos/summer\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_all(page: str, capsys) -> list[str]:
    """Run every command, in this process where it needs no shell; what they printed."""
    from denoise_ext.cli import main

    printed = []
    for command, expected in commands(page):
        program, *arguments = shlex.split(command)
        assert program == "denoise-ext", command
        if "<" in arguments:
            line = command.replace("denoise-ext", f"{sys.executable} -m denoise_ext.cli")
            code = subprocess.run(line, shell=True, capture_output=True).returncode
        else:
            code = main(arguments)
        captured = capsys.readouterr()
        assert code == expected, (command, captured.err)
        printed.append(captured.out)
    return printed


def test_photos(place, capsys):
    printed = run_all("photos.md", capsys)
    everything = ["a.png", "summer/b.jpg", "summer/b.png"]
    for folder in ("clean", "clean_for_script", "clean_in_tiles"):
        assert files(place / folder) == everything
    assert files(place / "from_pattern") == ["a.png"]
    assert files(place / "from_list") == ["b.jpg", "b.png", "noisy.png"]
    assert files(place / "as_tiff") == ["a.tif", "summer/b.jpg.tif", "summer/b.png.tif"]
    assert files(place / "clean_others") == ["a.png"]
    assert not (place / "clean_again").exists()
    assert any("3 done before" in text for text in printed)
    assert io.read_image(place / "piped.png").shape == (16, 24, 3)


@pytest.mark.rotates(turn=2)
def test_adapt(place, capsys, monkeypatch):
    """With pictures of 144 x 192 pixels, and no more training than there must be."""
    from denoise_ext.cli import main

    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    rng = np.random.default_rng(1)
    clean = np.add.outer(np.arange(144), np.arange(192)) % 256 // 64 * 50.0 + 40
    for folder, first, second in (
        ("photos", "", None), ("my_pairs", "noisy/{}", "clean/{}"), ("my_takes", "{}_1", "{}_2")
    ):  # fmt: skip
        for i in range(4):
            for name, noise in ((first, 20), (second, 20 * (folder == "my_takes"))):
                if name is None:
                    continue
                path = place / folder / f"{(name or '{}').format(i)}.png"
                path.parent.mkdir(exist_ok=True, parents=True)
                noisy = clean + noise * rng.normal(size=clean.shape)
                io.write_image(path, noisy.clip(0, 255).astype(np.uint8))
    (place / "photos/a.png").unlink()
    for command, _ in commands("adapt.md"):
        _, *arguments = shlex.split(command)
        if arguments[0] == "adapt":
            code = main([*arguments, "--minutes", "0.001"])
            output = Path(arguments[arguments.index("-o") + 1])
            assert code == (0 if output.exists() else 4), capsys.readouterr().err
        elif Path("my_net.safetensors").exists():
            assert main(arguments) == 0
    [block] = blocks(ROOT / "docs/adapt.md", "python")
    Path("my_net.safetensors").unlink(missing_ok=True)
    exec(compile(block.replace("minutes=10", "minutes=0.001"), "adapt.md", "exec"), {})
    assert "True" in capsys.readouterr().out or not Path("my_net.safetensors").exists()


def test_cluster(place, capsys):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for name in ("a.png", "sub/b.png"):
        store.pipe_file(f"/scans/raw/{name}", (place / "noisy.png").read_bytes())
    try:
        printed = run_all("cluster.md", capsys)
    finally:
        store.store.clear()
    assert files(place / "clean") == ["a.png", "summer/b.jpg", "summer/b.png"]
    assert "3 done before" in printed[3]
    assert "memory://scans/clean/sub/b.png" in printed[-1]
    assert not (place / "clean_by_ray").exists()


def test_results_have_titles():
    """The site lists them by these, and its build fails for a page without one."""
    pages = sorted((ROOT / "benchmarks/results").glob("*.md"))
    assert pages
    assert [page.name for page in pages if not page.read_text("utf-8").startswith("# ")] == []
