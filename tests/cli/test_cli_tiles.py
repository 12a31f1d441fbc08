"""The command line: --tile, --max-memory, --alpha, --precision; a network that allows no tiles."""

from __future__ import annotations

import argparse
import io as streams
import subprocess
import sys

import command_line
import numpy as np
import pytest
from command_line import BACKEND, GRAY, HAVE_NATIVE, RGB, denoise, files, json_lines, run
from zoo import tiny

from denoise_ext import io
from denoise_ext.cli.common import size_type, tile_type
from denoise_ext.models import save_model
from denoise_ext.tasks import Denoiser, image_run

checkpoints, folder = command_line.checkpoints, command_line.folder  # fixtures
RGBA = np.dstack([RGB, GRAY])
needs_native = pytest.mark.skipif(not HAVE_NATIVE, reason="native library missing")


@pytest.fixture
def options(checkpoints) -> list[str]:
    return ["--sigma", "20", "--model", checkpoints["colour"], "--precision", "strict"]


@pytest.fixture
def grids(monkeypatch) -> list[int]:
    """Fills with the number of tiles of each image that is computed."""
    counts, cut = [], image_run.cut

    def counted(*arguments):
        grid, at_once = cut(*arguments)
        counts.append(len(grid))
        return grid, at_once

    monkeypatch.setattr(image_run, "cut", counted)
    return counts


@pytest.mark.parametrize(
    "text, size",
    [("1.5GB", 1_500_000_000), ("1.5gb", 1_500_000_000), ("512MiB", 2**29), ("512 MiB", 2**29),
     ("2TB", 2 * 10**12), ("3kB", 3000), ("0.5KiB", 512), ("7B", 7), (".5GB", 5 * 10**8),
     ("1" + "0" * 400 + "GB", 10**409)],
)  # fmt: skip
def test_sizes(text, size):
    assert size_type(text) == size


@pytest.mark.parametrize("text", ["", "GB", "1500", "1.5", "2G", "-1GB", "1e9B", "nanB", "1,5GB",
                                  "1.5.0GB", "5iB", "5XB", "٣GB"])  # fmt: skip
def test_what_is_no_size(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"a number and a unit, as 1\.5GB.*got"):
        size_type(text)
    with pytest.raises(argparse.ArgumentTypeError, match=r"1 byte at least, got .0\.1B"):
        size_type("0.1B")


def test_sides_of_tiles():
    assert [tile_type(text) for text in ("auto", "none", "1", "640")] == ["auto", None, 1, 640]
    for text in ("0", "-1", "1.5", "", "all", "None", "1e3", "²"):
        with pytest.raises(argparse.ArgumentTypeError, match="auto, none"):
            tile_type(text)


def test_wrong_ones_are_one_line(folder, options, capsys):
    for wrong, message in (
        (["--max-memory", "2G"], "argument --max-memory: must be a number and a unit"),
        (["--tile", "0"], "argument --tile: must be auto, none or a side in pixels"),
        (["--alpha", "drop"], "argument --alpha: invalid choice: 'drop'"),
    ):
        code, _, err = denoise(capsys, "in", "-o", "out", *options, *wrong)
        assert code == 2 and message in err.splitlines()[-1]
    assert not (folder / "out").exists()
    # what fits no image is said for each
    code, _, err = denoise(capsys, "in", "-o", "out", *options, "--max-memory", "2KB")
    assert code == 3 and err.count("--max-memory of 2 KiB is not enough: the smallest tile") == 2


@needs_native
@pytest.mark.parametrize("how", [["--tile", "18"], ["--max-memory", "50KB"]])
def test_tiles_change_nothing(folder, options, capsys, grids, how):
    assert denoise(capsys, "in", "-o", "whole", *options, "--tile", "none")[0] == 0
    assert grids == [1, 1]
    assert denoise(capsys, "in", "-o", "tiled", *options, *how)[0] == 0
    assert len(grids) == 4 and min(grids[2:]) > 1
    for name in ("a.png", "b.png"):
        assert (folder / "tiled" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    before = grids[2:]
    grids.clear()  # 50 KB for two at a time is half of it for each
    assert denoise(capsys, "in", "-o", "two", *options, *how, "--workers", "2")[0] == 0
    assert sorted(grids) == [8, 8] if "--tile" in how else min(grids) > max(before)


@needs_native
def test_less_memory_is_no_other_result(folder, options, capsys):
    assert denoise(capsys, "in", "-o", "out", *options)[0] == 0
    for how in (["--max-memory", "50KB"], ["--tile", "none"], []):
        code, out, _ = denoise(capsys, "in", "-o", "out", "--resume", "--json", *options, *how)
        assert code == 0 and json_lines(out)[-1]["skipped"] == 2
    code, out, _ = denoise(
        capsys, "in", "-o", "out", "--resume", "--json", *options, "--alpha", "denoise"
    )
    assert code == 3 and "with other options" in json_lines(out)[0]["reason"]


def test_alpha(folder, options, capsys):
    io.write_image("in/sub/c.png", RGBA, overwrite=True)
    for alpha in ("keep", "denoise"):
        code, _, err = denoise(capsys, "in/sub", "-o", alpha, *options, "--alpha", alpha)
        assert (code, err) == (0, "")
        how = {"precision": "strict", "backend": BACKEND[1], "alpha": alpha}
        expected = Denoiser(options[3], sigma=20, **how)(RGBA)
        np.testing.assert_array_equal(io.read_image(f"{alpha}/c.png"), expected)
    assert denoise(capsys, "in/sub", "-o", "default", *options)[0] == 0
    kept = io.read_image("default/c.png")
    np.testing.assert_array_equal(kept[..., 3], GRAY)
    assert (io.read_image("denoise/c.png")[..., 3] != GRAY).any()


@needs_native
def test_of_a_stream(folder, options, capsys, grids, monkeypatch):
    content = io.write_image("rgba.png", RGBA) or (folder / "rgba.png").read_bytes()
    stdin = type("Stdin", (), {"buffer": streams.BytesIO(content)})
    monkeypatch.setattr(sys, "stdin", stdin)
    how = ["--tile", "18", "--alpha", "denoise"]
    code, _, err = denoise(capsys, "-", "-o", "out.png", *options, *how)
    assert code == 0 and grids == [8, 8], err  # colour and alpha
    expected = Denoiser(options[3], sigma=20, precision="strict", alpha="denoise")(RGBA)
    np.testing.assert_array_equal(io.read_image("out.png"), expected)


@needs_native
def test_on_a_cluster(folder, options, capsys, grids, monkeypatch):
    """The options reach the actors: their workers are made here."""
    from denoise_ext.jobs import ray

    def run_jobs(jobs, output, make_worker, **_):
        (folder / "out").mkdir()
        worker = make_worker()
        yield from (worker.process(job) for job in jobs)

    monkeypatch.setattr(ray, "run_jobs", run_jobs)
    io.write_image("in/sub/c.png", RGBA, overwrite=True)
    how = ["--tile", "18", "--alpha", "denoise", "--max-memory", "1GB"]
    code, _, err = denoise(capsys, "in/sub", "-o", "out", "--engine", "ray", *options, *how)
    assert code == 0 and grids == [8, 8], err
    grids.clear()
    assert denoise(capsys, "in/sub", "-o", "here", *options, *how)[0] == 0
    assert (folder / "out" / "c.png").read_bytes() == (folder / "here" / "c.png").read_bytes()


@needs_native
def test_of_a_film(folder, checkpoints, capsys, grids):
    pytest.importorskip("av")
    from video_files import make_video

    make_video("in.mkv", frames=2, size=(40, 32), audio=False)
    model = ["--sigma", "20", "--model", checkpoints["colour"]]
    for target, how in (("whole.mkv", []), ("t.mkv", ["--tile", "30"])):
        assert run(capsys, "video", "in.mkv", target, *model, *how)[0] == 0
    code, _, err = run(capsys, "video", "in.mkv", "m.mkv", *model, "--max-memory", "2KB")
    assert code == 2 and "--max-memory of 2 KiB is not enough" in err and err.count("\n") == 1
    assert grids[:2] == [1, 1] and min(grids[2:4]) > 1


def test_precisions(folder, options, capsys):
    options = options[:-1]  # --precision
    for precision in ("strict", "float16"):
        assert denoise(capsys, "in/b.png", "-o", f"{precision}.png", *options, precision)[0] == 0
    strict, half = (io.read_image(f"{name}.png").astype(int) for name in ("strict", "float16"))
    assert np.abs(strict - half).max() <= 1  # 11 bits, rounded to 8
    code, _, err = denoise(capsys, "in", "-o", "out", *options, "half")
    assert code == 2 and "invalid choice: 'half'" in err


@needs_native
def test_a_network_that_sees_the_whole_image_stops_no_other(folder, capsys):
    save_model(tiny("nafnet_gray"), "nafnet.safetensors")
    io.write_image("in/small.png", GRAY[:16, :16])
    model = ["--model", "nafnet.safetensors"]
    code, out, err = denoise(capsys, "in", "-o", "out", *model, "--tile", "16")
    assert code == 3 and "1 image denoised" in out and files(folder / "out") == ["small.png"]
    first, *others = err.splitlines()
    assert "2 of 3 files failed" in first and len(others) == 2
    for line in others:
        assert "--tile" in line and "`denoise-ext models`" in line
    assert denoise(capsys, "in", "-o", "out", *model, "--overwrite")[0] == 0  # whole


def test_help_shows_them():
    command = [sys.executable, "-m", "denoise_ext.cli", "denoise", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--max-memory 1.5GB" in text.partition("examples:")[2]
