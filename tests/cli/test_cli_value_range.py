"""The command line: --value-range, and what is said of numbers that are none."""

from __future__ import annotations

import io as streams
import sys
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import BACKEND, denoise
from medical_files import dicom

from denoise_ext import io
from denoise_ext.tasks import Denoiser

checkpoints, folder = command_line.checkpoints, command_line.folder  # fixtures
RNG = np.random.default_rng(2)
TWELVE = RNG.integers(0, 4096, (20, 31), dtype=np.uint16)
RANGE = ["--value-range", "0", "4095"]


@pytest.fixture
def options(checkpoints) -> list[str]:
    return ["--sigma", "20", "--model", checkpoints["gray"]]


@pytest.fixture
def clean(checkpoints) -> Denoiser:
    return Denoiser(checkpoints["gray"], sigma=20, backend=BACKEND[1])


def test_twelve_bits_in_sixteen(folder, options, clean, capsys):
    io.write_image("in/sub/t.png", TWELVE)
    Path("in/sub/c.png").unlink()
    code, _, err = denoise(capsys, "in/sub", "-o", "out", *options, *RANGE)
    assert (code, err) == (0, "")
    expected = clean(TWELVE, value_range=(0, 4095))
    np.testing.assert_array_equal(io.read_image("out/t.png"), expected)
    # other numbers than those of a very dark picture
    assert denoise(capsys, "in/sub", "-o", "dark", *options)[0] == 0
    np.testing.assert_array_equal(io.read_image("dark/t.png"), clean(TWELVE))
    assert (clean(TWELVE) != expected).any()
    # part of what a result depends on
    for again, code in ((RANGE, 0), ([], 3), (["--value-range", "0", "4096"], 3)):
        assert denoise(capsys, "in/sub", "-o", "out", "--resume", *options, *again)[0] == code


def test_a_series_on_one_scale(folder, options, clean, capsys):
    pytest.importorskip("pydicom")
    scan = TWELVE.astype(np.int16) - 1024
    metal = scan.copy()
    metal[0, 0] = 9000
    Path("study").mkdir()
    for name, pixels in (("a.dcm", scan), ("b.dcm", metal)):
        (folder / "study" / name).write_bytes(dicom(pixels))
    how = ["--value-range", "-1024", "3071"]
    assert denoise(capsys, "study", "-o", "out", *options, *how)[0] == 0
    for name, pixels in (("a.dcm", scan), ("b.dcm", metal)):
        [frame] = io.read_picture(f"out/{name}").frames
        np.testing.assert_array_equal(frame, clean(pixels, value_range=(-1024, 3071)))
    # far from what changed the slices are alike; with each file's own range they are not
    [a], [b] = (io.read_picture(f"out/{name}").frames for name in ("a.dcm", "b.dcm"))
    np.testing.assert_array_equal(a[16:, 16:], b[16:, 16:])
    assert denoise(capsys, "study", "-o", "each", *options)[0] == 0
    [a], [b] = (io.read_picture(f"each/{name}").frames for name in ("a.dcm", "b.dcm"))
    assert (a[16:, 16:] != b[16:, 16:]).any()


def test_two_levels_stay_two_levels(folder, options, capsys):
    bits = RNG.random((20, 31)) < 0.5
    io.write_picture("in/sub/bits.png", io.picture_of(bits))
    for target, how in (("with", RANGE), ("without", [])):
        assert denoise(capsys, "in/sub/bits.png", "-o", f"{target}.png", *options, *how)[0] == 0
    assert (folder / "with.png").read_bytes() == (folder / "without.png").read_bytes()


def test_of_streams_and_on_a_cluster(folder, options, clean, capsys, monkeypatch):
    from denoise_ext.jobs import ray

    io.write_image("t.png", TWELVE)
    expected = clean(TWELVE, value_range=(0, 4095))
    stdin = type("Stdin", (), {"buffer": streams.BytesIO((folder / "t.png").read_bytes())})
    monkeypatch.setattr(sys, "stdin", stdin)
    assert denoise(capsys, "-", "-o", "piped.png", *options, *RANGE)[0] == 0
    np.testing.assert_array_equal(io.read_image("piped.png"), expected)

    def run_jobs(jobs, output, make_worker, **_):
        Path(output).mkdir()
        worker = make_worker()  # as an actor makes it
        yield from (worker.process(job) for job in jobs)

    monkeypatch.setattr(ray, "run_jobs", run_jobs)
    assert denoise(capsys, "t.png", "-o", "r/", "--engine", "ray", *options, *RANGE)[0] == 0
    np.testing.assert_array_equal(io.read_image("r/t.png"), expected)
    made = ray.denoise_files(
        "t.png", "s", value_range=(0, 4095), model=options[3], sigma=20, backend=BACKEND[1]
    )
    assert [outcome.status for outcome in made] == ["written"]
    assert Path("s/t.png").read_bytes() == Path("r/t.png").read_bytes()


def test_what_is_to_be_known_of_a_file_is_said(folder, options, capsys, monkeypatch):
    map_ = RNG.random((20, 31), np.float32)
    map_[:2] = np.nan
    np.save("in/sub/map.npy", map_)
    said = "62 numbers are not finite and stay as they are"
    code, out, _ = denoise(capsys, "in/sub/map.npy", "-o", "out.npy", *options)
    assert code == 0 and f"note: in/sub/map.npy: {said}\n" in out
    content = streams.BytesIO((folder / "in/sub/map.npy").read_bytes())
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": content}))
    code, _, err = denoise(capsys, "-", "-o", "piped.npy", *options)
    assert code == 0 and f"note: {said}\n" in err
    assert (folder / "piped.npy").read_bytes() == (folder / "out.npy").read_bytes()


@pytest.mark.parametrize(
    "values, message",
    [(["5", "5"], "BLACK must be less than WHITE"), (["a", "5"], "'a' is not a number"),
     (["nan", "5"], "must be finite, got nan"), (["1"], "expected 2 arguments")],
)  # fmt: skip
def test_wrong_ranges(folder, options, capsys, values, message):
    code, _, err = denoise(capsys, "-o", "out", "in", *options, "--value-range", *values)
    assert code == 2 and message in err.splitlines()[-1]
    assert not (folder / "out").exists()
