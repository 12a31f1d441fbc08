"""What the command line says of mistakes, and while it works: options, close matches, progress."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from datetime import timedelta
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import GRAY, denoise, files, run

from denoise_ext import io
from denoise_ext.cli import COMMANDS, _parser, _progress
from denoise_ext.cli._progress import ProgressLines
from denoise_ext.cli.common import in_options
from denoise_ext.io.codecs import raw

checkpoints, folder = command_line.checkpoints, command_line.folder  # fixtures


@pytest.fixture
def options(checkpoints) -> list[str]:
    return ["--sigma", "20", "--model", checkpoints["gray"]]


# --- usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message, shown",
    [
        ('give axes="ZYX" (slices) or axes="YXC"', "give --axes ZYX (slices) or --axes YXC"),
        ('give axes, such as axes="ZYX"', "give --axes, such as --axes ZYX"),
        ("value_range=(black, white) states", "--value-range BLACK WHITE states"),
    ],
)
def test_values_of_parameters_are_those_of_options(message, shown):
    assert in_options(message) == shown
    assert in_options(shown) == shown


def test_without_a_command_help_is_printed(capsys):
    code, out, err = run(capsys)
    assert code == 2 and err == ""
    assert all(command in out for command in COMMANDS) and "exit codes" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_every_help_are_valid(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    parser, subparsers = _parser()
    importlib.import_module(f"denoise_ext.cli.{command}").add_arguments(subparsers[command])
    examples = out.rpartition("example")[2].splitlines()[1:]
    assert code == 0 and examples
    for example in examples:
        program, *arguments = shlex.split(re.split(" [<>|] ", example)[0])
        assert program == "denoise-ext" and parser.parse_args(arguments).command == command


@pytest.mark.parametrize(
    "arguments, short",
    [(("denoise", "in", "-o", "out", "--sigm", "3"), "--sigm"),
     (("denoise", "in", "-o", "out", "--over"), "--over"),
     (("evaluate", "in", "--sig", "25"), "--sig"), (("models", "--train"), "--train"),
     (("info", "--js"), "--js"), (("video", "a", "b", "--qual", "3"), "--qual"),
     (("train", "a.toml", "--accept"), "--accept"), (("info", "--vers"), "--vers")],
)  # fmt: skip
def test_options_are_not_abbreviated(folder, capsys, arguments, short):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and f"unrecognized arguments: {short}" in err
    assert files(folder) == ["in/a.png", "in/b.png", "in/sub/c.png"]


@pytest.mark.parametrize(
    "arguments, meant",
    [(("denois", "in"), "denoise"), (("modles",), "models"),
     (("denoise", "in", "-o", "out", "--sgima", "3"), "--sigma"),
     (("denoise", "in", "-o", "out", "--overwrit"), "--overwrite"),
     (("denoise", "in", "-o", "out", "--max-pixel=9"), "--max-pixels"),
     (("denoise", "in", "-o", "out", "--precision", "fats"), "fast"),
     (("denoise", "in", "-o", "out", "--backend", "nativ"), "native"),
     (("denoise", "in", "-o", "out", "--format", "tfif"), "tif"),
     (("denoise", "in", "-o", "out", "--model", "dnxet_s"), "dxnet_s"),
     (("export", "dxnet_s_grey", "-o", "a.onnx"), "dxnet_s_gray"),
     (("models", "dncn_gray"), "dncnn_gray"), (("bench", "kernel"), "kernels")],
)  # fmt: skip
def test_close_matches(folder, capsys, arguments, meant):
    code, _, err = run(capsys, *arguments)
    assert code == 2 and meant in err.rpartition("did you mean")[2].replace("?", "").split()


def test_no_match_is_close(capsys):
    code, _, err = run(capsys, "zzzz")
    assert code == 2 and "did you mean" not in err


# --- options, not parameters ---------------------------------------------------------------------


def test_an_output_that_exists(folder, options, capsys):
    Path("out").mkdir()
    io.write_image("out/b.png", GRAY)
    for target in ("out/b.png", "out"):
        code, _, err = denoise(capsys, "in/b.png", "-o", target, *options)
        assert code == 3 and "out/b.png" in err and "--overwrite" in err
    code, out, _ = denoise(capsys, "in/b.png", "-o", "out", *options, "--dry-run")
    assert "--overwrite" in out
    code, out, _ = denoise(capsys, "in/b.png", "-o", "out", *options, "--json")
    assert "--overwrite" in json.loads(out.splitlines()[0])["reason"]
    # made by another run, with other options
    assert denoise(capsys, "in", "-o", "again", *options)[0] == 0
    code, _, err = denoise(capsys, "in", "-o", "again", *options, "--strength", "0.5", "--resume")
    assert code == 3 and err.count("--overwrite") == 2


def test_an_image_with_too_many_pixels(folder, options, capsys):
    limit = ["--max-pixels", str(GRAY.size - 1)]
    code, _, err = denoise(capsys, "in/b.png", "-o", "out/", *options, *limit)
    assert code == 3 and str(GRAY.size) in err and "(--max-pixels)" in err
    code, _, err = run(capsys, "evaluate", "in/b.png", *options, *limit, *command_line.BACKEND)
    assert code == 3 and "(--max-pixels)" in err
    assert "max_pixels" not in err


def test_a_folder_of_folders(folder, options, capsys):
    Path("in/a.png").unlink()
    Path("in/b.png").unlink()
    code, _, err = denoise(capsys, "in", "-o", "out", *options)
    assert code == 2 and "--recursive" in err and "recursive=" not in err


def test_other_parameters(folder, options, capsys):
    code, _, err = denoise(capsys, "in/b.png", "-o", "out/", *options, "--max-memory", "1KB")
    assert code == 3 and "--max-memory" in err
    code, _, err = denoise(capsys, "in/b.png", "-o", "out/", "--device", "gpu")
    assert code == 2 and "--device" in err and "'gpu'" in err and "cpu" in err


def test_names_of_files_stay_as_they_are():
    message = (
        "'max_pixels overwrite=True.png' states 9 pixels, more than the limit of 8 (max_pixels)"
    )
    assert in_options(message).startswith("'max_pixels overwrite=True.png' states")
    assert in_options(message).endswith("(--max-pixels)")
    assert in_options(in_options(message)) == in_options(message)


def test_sigma_of_the_scale_from_0_to_1(folder, checkpoints, capsys):
    model = ["--model", checkpoints["gray"], "--sigma", "0.1"]
    code, _, err = denoise(capsys, "in", "-o", "out", *model)
    assert code == 0 and "--sigma=0.1" in err and "0-255" in err and err.count("\n") == 1
    code, _, err = denoise(capsys, "in/b.png", "-o", "b.png", *model, "--quiet")
    assert (code, err) == (0, "")


# --- camera raw ----------------------------------------------------------------------------------


def test_a_folder_of_camera_raws(folder, options, capsys):
    """Raw files cannot be written: they become TIFF, in one line, and not one failure each.

    The decoder (LibRaw) is replaced by TIFF's, which most of these files are.
    """
    Path("raws").mkdir()
    for name in ("a.dng", "b.CR2", "c.nef", "c.tif"):
        io.write_image("in/x.tif", np.uint16(GRAY) * 257)
        Path("in/x.tif").rename(f"raws/{name}")

    def read(source):
        picture = io.read_picture(source.stream.read())
        return io.Picture(picture.frames, picture.value_range, picture.mode, "RAW")

    object.__setattr__(raw.CODEC, "read", read)
    try:
        code, out, err = denoise(capsys, "raws", "-o", "out", *options)
        assert (code, err) == (0, "")
        assert out.count("TIFF") == 1 and "3 camera raw files" in out and "--format" in out
        made = [name for name in files(folder) if name.startswith("out")]
        assert made == ["out/a.tif", "out/b.tif", "out/c.nef.tif", "out/c.tif"]
        assert denoise(capsys, "raws", "-o", "out", *options, "--resume")[0] == 0
        code, out, _ = denoise(capsys, "raws", "-o", "p", *options, "--format", "png", "--dry-run")
        assert code == 0 and "TIFF" not in out and "p/a.png" in out
    finally:
        object.__setattr__(raw.CODEC, "read", raw._read)


# --- progress ------------------------------------------------------------------------------------


def test_a_line_every_ten_seconds(capsys):
    now = [100.0]
    with ProgressLines("rate", clock=lambda: now[0]) as progress:
        task = progress.add_task("denoising", total=50, rate="")
        for step in range(50):
            now[0] += 3
            progress.update(task, advance=1, description=f"{step}.png", rate="0.33 images/s")
    lines = capsys.readouterr().err.splitlines()
    # after 12 s, then ten seconds later at the earliest: every 12 s, 150 s in all
    shown = (f"{n} of 50, 0.33 images/s, {timedelta(seconds=150 - 3 * n)}" for n in range(4, 50, 4))
    assert lines == [f"denoising: {line} left" for line in shown]


def test_an_unknown_total(capsys):
    now = [0.0]
    with ProgressLines(clock=lambda: now[0]) as progress:
        task = progress.add_task("denoising", total=None)
        for _ in range(3):
            now[0] += 10
            progress.advance(task)
    assert capsys.readouterr().err.splitlines() == [f"denoising: {n}" for n in (1, 2, 3)]


def test_a_batch_without_a_terminal(folder, options, capsys, monkeypatch):
    now = [0.0]

    def clock() -> float:
        now[0] += 10
        return now[0]

    monkeypatch.setattr(ProgressLines.__init__, "__kwdefaults__", {"clock": clock})
    assert not sys.stderr.isatty()
    code, _, err = denoise(capsys, "in", "-o", "out", *options)
    assert code == 0 and err == "denoising: 1 of 2, " + err.partition(", ")[2]
    for quiet in ("--quiet", "--json"):
        assert denoise(capsys, "in", "-o", f"out{quiet}", *options, quiet)[2] == ""
    assert _progress._EVERY == 10
