"""``denoise-ext deblur``: files, folders, pipes, continued runs, errors."""

from __future__ import annotations

import io as streams
import sys

import numpy as np
import pytest
from command_line import (  # noqa: F401  (fixtures)
    HAVE_NATIVE,
    RGB,
    checkpoints,
    files,
    folder,
    json_lines,
    run,
)

from denoise_ext import io
from denoise_ext.restore import deblur, estimate_kernel

pytestmark = pytest.mark.skipif(not HAVE_NATIVE, reason="needs the native library")
QUICK = ["--steps", "1", "--sigma", "5"]


def test_one_file(folder, capsys):  # noqa: F811
    code, out, err = run(
        capsys, "deblur", "in/a.png", "-o", "a.png", "--kernel", "gaussian:1", *QUICK
    )
    assert (code, err) == (0, "")
    assert "1 image deblurred" in out and "7 steps, free borders" in out
    expected = deblur(RGB, "gaussian:1", 5, steps=1)
    assert np.array_equal(io.read_image("a.png"), expected)


def test_a_folder_with_a_kernel_file_that_is_continued(folder, capsys):  # noqa: F811
    io.write_image("k.png", np.array([[10, 20, 30]], np.uint8))
    how = ["--kernel", "k.png", "--border", "circular", *QUICK]
    code, out, err = run(capsys, "deblur", "in", "-o", "out", "--recursive", *how)
    assert code == 0 and "3 images deblurred" in out
    assert "sum, 60" in err  # a kernel that was normalised
    assert files(folder / "out") == ["a.png", "b.png", "sub/c.png"]
    code, out, _ = run(capsys, "deblur", "in", "-o", "out", "--recursive", "--resume", *how)
    assert code == 0 and "3 done before" in out
    other = ["--kernel", "k.png", "--border", "free", *QUICK]
    code, _, err = run(capsys, "deblur", "in", "-o", "out", "--recursive", "--resume", *other)
    assert code == 3 and "other options" in err


def test_json_and_a_broken_file(folder, capsys):  # noqa: F811
    (folder / "in" / "x.png").write_bytes(b"\x89PNG")
    code, out, err = run(
        capsys, "deblur", "in", "-o", "out", "--json", "--kernel", "disk:1", *QUICK
    )
    events = json_lines(out)
    assert code == 3 and "x.png" in err
    assert [event["event"] for event in events] == ["file"] * 3 + ["summary"]
    assert events[-1]["written"] == 2
    assert files(folder / "out") == ["a.png", "b.png"]


def test_a_pipe(folder, capsysbinary, monkeypatch):  # noqa: F811
    from denoise_ext.cli import main

    class Input:
        buffer = streams.BytesIO((folder / "in" / "a.png").read_bytes())

    monkeypatch.setattr(sys, "stdin", Input)
    assert main(["deblur", "-", "-o", "-", "--kernel", "disk:1", "-q", *QUICK]) == 0
    made = io.read_picture(capsysbinary.readouterr().out)
    assert np.array_equal(made.frames[0], deblur(RGB, "disk:1", 5, steps=1))


def test_a_kernel_that_is_estimated_and_kept(folder, capsys):  # noqa: F811
    how = ["--kernel", "blind:5", "--save-kernel", "k.png", *QUICK]
    code, out, _ = run(capsys, "deblur", "in/a.png", "-o", "a.png", *how)
    assert code == 0 and "kernel of 5 x 5 pixels estimated" in out
    kernel = estimate_kernel(RGB, 5)
    assert np.array_equal(io.read_image("a.png"), deblur(RGB, kernel, 5, steps=1))
    kept = io.read_image("k.png")
    assert kept.dtype == np.uint16 and kept.max() == 65535
    # 16 bits round each number by half of a 65535th of the maximum.
    assert np.abs(kept / 65535 - (kernel / kernel.max()).numpy()).max() <= 0.51 / 65535
    code, _, err = run(capsys, "deblur", "in/a.png", "-o", "b.png", *how)
    assert code != 0 and "k.png" in err and not (folder / "b.png").exists()


def test_kernels_of_a_folder_are_estimated_one_by_one(folder, capsys):  # noqa: F811
    how = ["--recursive", "--kernel", "blind:5", *QUICK]
    code, _, _ = run(capsys, "deblur", "in", "-o", "out", *how)
    assert code == 0
    for name in ("a.png", "sub/c.png"):
        source = io.read_image(f"in/{name}")
        expected = deblur(source, estimate_kernel(source, 5), 5, steps=1)
        assert np.array_equal(io.read_image(f"out/{name}"), expected)
    code, out, _ = run(capsys, "deblur", "in", "-o", "out", "--resume", *how)
    assert code == 0 and "3 done before" in out
    code, _, err = run(capsys, "deblur", "in", "-o", "out", "--resume", *how, "--kernel", "blind:7")
    assert code == 3 and "other options" in err


@pytest.mark.parametrize("inputs", [["in"], ["in/a.png", "in/b.png"], ["in/?.png"], ["@list"]])
def test_one_file_is_not_for_several_kernels(inputs, folder, capsys):  # noqa: F811
    (folder / "list").write_text("in/a.png\nin/b.png\n")
    how = ["--kernel", "blind:5", "--save-kernel", "k.png"]
    code, _, err = run(capsys, "deblur", *inputs, "-o", "out", *how)
    assert code == 2 and "--save-kernel" in err and "one image" in err
    assert not (folder / "out").exists() and not (folder / "k.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kernel", "blind:4"], ["size", "odd", "4"]),
        (["--kernel", "blind:x"], ["blind:SIZE", "blind:x"]),
        (["--kernel", "blind:-3"], ["blind:SIZE", "blind:-3"]),
        (["--kernel", "blind:21"], ["size", "21", "20 x 31"]),
        (["--kernel", "disk:1", "--save-kernel", "k.png"], ["--save-kernel", "blind:SIZE"]),
        (["--kernel", "blind:5", "--save-kernel", "k.nothing"], ["k.nothing"]),
        (["--kernel", "nowhere.png"], ["nowhere.png", "gaussian:SIGMA"]),
        (["--kernel", "gaussian:-1"], ["sigma", "-1"]),
        (["--kernel", "in"], ["in"]),
        (["--kernel", "gaussian:9"], ["kernel of 73 x 73", "20 x 31"]),
        (["--kernel", "disk:1", "--model", "nobody"], ["nobody"]),
        (["--kernel", "disk:1", "--model", "BLIND"], ["noise level"]),
        (["--kernel", "disk:1", "--steps", "0"], ["--steps", "0"]),
        (["--kernel", "disk:1", "--value-range", "9", "3"], ["--value-range"]),
        (["--kernel", "disk:1", "--resume"], ["--resume", "folder"]),
        ([], ["--kernel"]),
    ],
)
def test_errors_write_nothing(arguments, words, folder, checkpoints, capsys):  # noqa: F811
    arguments = [checkpoints["blind"] if x == "BLIND" else x for x in arguments]
    code, out, err = run(capsys, "deblur", "in/b.png", "-o", "o.png", "--sigma", "5", *arguments)
    assert code in (2, 3)
    assert not (folder / "o.png").exists()
    for word in words:
        assert word in err + out


@pytest.mark.parametrize(
    ("output", "kernel"), [("o.png", "in/a.png"), ("o.png", "o.png"), ("out/", "out/a.png")]
)
def test_a_kernel_takes_the_place_of_no_picture(output, kernel, folder, capsys):  # noqa: F811
    before = (folder / "in/a.png").read_bytes()
    how = ["--kernel", "blind:5", "--save-kernel", kernel, "--overwrite", *QUICK]
    code, _, err = run(capsys, "deblur", "in/a.png", "-o", output, *how)
    assert code == 2 and "--save-kernel" in err and kernel in err
    assert (folder / "in/a.png").read_bytes() == before
