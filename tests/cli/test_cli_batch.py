"""The command line on many files: what is found, named, reported, resumed, shared out."""

from __future__ import annotations

import io as streams
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import BACKEND, GRAY, RGB, bomb, denoise, files, json_lines
from PIL import Image

from denoise_ext import io
from denoise_ext.cli import main

checkpoints, folder = command_line.checkpoints, command_line.folder  # fixtures


@pytest.fixture
def options(checkpoints) -> list[str]:
    return ["--sigma", "20", "--model", checkpoints["gray"]]


# --- what is found, and what it is called ----------------------------------------------------


def test_two_files_of_one_stem_are_both_kept(folder, options, capsys):
    Image.fromarray(RGB).save("in/a.jpg")
    assert denoise(capsys, "in", "-o", "out", *options)[0] == 0
    assert files(folder / "out") == ["a.jpg", "a.png", "b.png"]
    assert denoise(capsys, "in", "-o", "tif", "--format", "tif", *options)[0] == 0
    assert files(folder / "tif") == ["a.jpg.tif", "a.png.tif", "b.tif"]
    for name in ("a.png", "a.jpg"):  # each is its own source's
        expected = io.read_image(folder / "out" / name)
        same = np.array_equal(io.read_image(folder / "tif" / f"{name}.tif"), expected)
        assert same == (name == "a.png")  # JPEG does not keep what it is given


def test_lists_of_files(folder, options, capsys, monkeypatch):
    (folder / "list.txt").write_bytes(b"in/a.png\r\n\nin/sub\n")
    assert denoise(capsys, "@list.txt", "-o", "out", *options)[0] == 0
    assert files(folder / "out") == ["a.png", "c.png"]
    monkeypatch.setattr(sys, "stdin", streams.TextIOWrapper(streams.BytesIO(b"in/b.png\n")))
    assert denoise(capsys, "@-", "-o", "piped", *options)[0] == 0
    assert files(folder / "piped") == ["b.png"]
    code, _, err = denoise(capsys, "@none.txt", "-o", "out", *options)
    assert code == 2 and "list 'none.txt'" in err


def test_output_inside_the_input_is_no_input(folder, options, capsys):
    command = ["in", "-o", "in/clean", "--recursive", *options]
    assert denoise(capsys, *command)[0] == 0
    assert denoise(capsys, *command, "--overwrite")[0] == 0
    assert files(folder / "in" / "clean") == ["a.png", "b.png", "sub/c.png"]


def test_names_of_every_kind(folder, options, capsys):
    names = [
        "ünï 漢字 🌲.png",
        "x" * 251 + ".png",
        "漢" * 83 + ".png",
        "new\nline.png",
        "-dash.png",
    ]
    for name in names:
        io.write_image(folder / "in" / "sub" / name, GRAY)
    undecodable = os.fsdecode(b"caf\xe9.png")  # Latin-1 in a file system that is UTF-8
    (folder / "in" / "sub" / undecodable).write_bytes((folder / "in" / "b.png").read_bytes())
    code, out, err = denoise(capsys, "in/sub", "-o", "out", "--json", *options)
    assert (code, err) == (0, "")
    assert files(folder / "out") == sorted([*names, undecodable, "c.png"])
    sources = {line.get("source") for line in json_lines(out)}
    assert {f"in/sub/{name}" for name in names} <= sources and r"in/sub/caf\xe9.png" in sources
    code, out, _ = denoise(capsys, "in/sub", "-o", "out", "--json", "--resume", *options)
    assert code == 0 and json_lines(out)[-1]["skipped"] == len(names) + 2


def test_links_in_a_circle(folder, options, capsys):
    (folder / "in" / "round").symlink_to(folder / "in")
    (folder / "in" / "self.png").symlink_to("self.png")
    code, _, err = denoise(capsys, "in", "-o", "out", "--recursive", *options)
    assert code == 3 and "in/self.png" in err and "1 of 4 files failed" in err
    assert files(folder / "out") == ["a.png", "b.png", "sub/c.png"]
    assert denoise(capsys, "in/**/*.png", "-o", "globbed", *options)[0] == 0
    assert files(folder / "globbed") == ["a.png", "b.png", "sub/c.png"]


# --- bad files ---------------------------------------------------------------------------------


def test_bad_files_stop_nothing(folder, options, capsys):
    whole = (folder / "in" / "a.png").read_bytes()
    bad = folder / "in"
    (bad / "cut.png").write_bytes(whole[: len(whole) // 2])
    (bad / "empty.png").write_bytes(b"")
    (bad / "bomb.png").write_bytes(bomb())
    (bad / "text.png").write_text("hello")
    (bad / "folder.png").mkdir()
    os.mkfifo(bad / "pipe.png")
    Image.fromarray(RGB).convert("CMYK").save(bad / "cmyk.jpg")
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(bad / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    # these are read
    Image.fromarray(RGB).quantize(16).save(bad / "palette.png")
    Image.fromarray(GRAY > 128).save(bad / "bits.png")
    (bad / "really_a_jpeg.png").write_bytes(jpeg())
    code, out, err = denoise(capsys, "in", "-o", "out", *options)
    assert code == 3
    failing = [
        "bomb.png",
        "cmyk.jpg",
        "cut.png",
        "empty.png",
        "moving.webp",
        "pipe.png",
        "text.png",
    ]
    listed = err.strip().splitlines()
    assert f"{len(failing)} of {len(failing) + 5} files failed" in listed[0]
    assert len(listed) == 1 + len(failing)
    for name in failing:
        assert sum(f"in/{name}" in line for line in listed) == 1, name
    assert files(folder / "out") == [
        "a.png",
        "b.png",
        "bits.png",
        "palette.png",
        "really_a_jpeg.png",
    ]
    assert "5 images denoised" in out
    assert "note: in/really_a_jpeg.png: its content is JPEG" in out
    assert Image.open("out/really_a_jpeg.png").format == "PNG"
    assert Image.open("out/bits.png").mode == "1"


def jpeg() -> bytes:
    stream = streams.BytesIO()
    Image.fromarray(RGB).save(stream, "JPEG")
    return stream.getvalue()


def test_a_file_that_may_not_be_read(folder, options, capsys, monkeypatch):
    opened = Path.open

    def denied(path, *arguments, **options):  # the superuser may read everything
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    code, _, err = denoise(capsys, "in", "-o", "out", *options)
    assert code == 3 and "cannot open 'in/b.png': permission denied" in err
    assert files(folder / "out") == ["a.png"]


def test_max_pixels(folder, options, capsys):
    io.write_image(folder / "in" / "large.png", np.zeros((25, 25), np.uint8))
    code, _, err = denoise(capsys, "in", "-o", "out", "--max-pixels", "620", *options)
    assert code == 3 and "in/large.png" in err and "620" in err
    assert files(folder / "out") == ["a.png", "b.png"]  # 620 pixels each


# --- full, read-only, in use -------------------------------------------------------------------


def test_disk_full_stops_the_run_and_resume_goes_on(folder, options):
    # RLIMIT_FSIZE is the disk: no file may be larger than 256 KiB (the manifest's log is smaller)
    large = np.random.default_rng(0).integers(0, 256, (600, 600), dtype=np.uint8)
    io.write_image(folder / "in" / "large.png", large)
    command = [sys.executable, "-m", "denoise_ext.cli", "denoise", "in", "-o", "out", *options]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))  # noqa: E731
    done = subprocess.run([*command, *BACKEND], preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 3 and "large.png" in done.stderr and "Traceback" not in done.stderr
    assert files(folder / "out") == ["a.png", "b.png"]
    assert main([*command[3:], *BACKEND, "--resume", "-q"]) == 0
    assert files(folder / "out") == ["a.png", "b.png", "large.png"]


def test_full_disk_is_not_asked_again(folder, options, capsys, monkeypatch):
    from denoise_ext.jobs import storage

    def full(*_, **__):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise io.ImageError("cannot write 'x': no space left on device") from error

    for index in range(20):
        io.write_image(folder / "in" / f"{index}.png", GRAY)
    monkeypatch.setattr(storage, "write_atomically", full)
    code, out, _ = denoise(capsys, "in", "-o", "out", "--json", *options)
    assert code == 3 and files(folder / "out") == []
    reasons = [line["reason"] for line in json_lines(out) if line["event"] == "file"]
    assert len(reasons) == 22
    assert sum(reason.startswith("not started: ") for reason in reasons) >= 15
    assert all("no space left on device" in reason for reason in reasons)


def test_folder_that_cannot_be_written(folder, options, capsys, monkeypatch):
    access = os.access
    denied = lambda path, mode: "out" not in str(path) and access(path, mode)  # noqa: E731
    monkeypatch.setattr(os, "access", denied)  # the superuser may write anywhere
    code, _, err = denoise(capsys, "in", "-o", "out", *options)
    assert code == 2 and "not writable" in err and err.count("\n") == 1


def test_two_runs_in_one_folder(folder, options, capsys):
    from denoise_ext.jobs.manifest import Manifest

    with Manifest(folder / "out"):
        code, _, err = denoise(capsys, "in", "-o", "out", *options)
        assert code == 2 and "another run is writing here" in err
        code, _, _ = denoise(capsys, "in", "-o", "out", "--shard", "1/1", *options)
        assert code == 2
    assert denoise(capsys, "in", "-o", "out", *options)[0] == 0


# --- resuming, sharing out, saying -------------------------------------------------------------


def test_resume_does_what_is_missing(folder, options, capsys):
    command = ["in", "-o", "out", "--recursive", "--json", *options]
    assert denoise(capsys, *command)[0] == 0
    before = (folder / "out" / "a.png").stat()
    (folder / "out" / "b.png").unlink()
    io.write_image(folder / "in" / "new.png", GRAY)
    code, out, _ = denoise(capsys, *command, "--resume")
    statuses = {
        Path(x["source"]).name: x["status"] for x in json_lines(out) if x["event"] == "file"
    }
    assert code == 0
    assert statuses == {
        "a.png": "skipped", "c.png": "skipped", "b.png": "written", "new.png": "written",
    }  # fmt: skip
    after = (folder / "out" / "a.png").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("change", ["input", "sigma", "model", "output"])
def test_resume_does_not_mix_results(folder, options, checkpoints, capsys, change):
    command = ["in", "-o", "out", "--json"]
    assert denoise(capsys, *command, *options)[0] == 0
    if change == "input":
        io.write_image(folder / "in" / "b.png", 255 - GRAY, overwrite=True)
    if change == "sigma":
        options = ["--sigma", "21", *options[2:]]
    if change == "model":
        options = [*options[:2], "--model", checkpoints["blind"]]
    if change == "output":
        (folder / "out" / "b.png").write_bytes((folder / "out" / "a.png").read_bytes())
    code, out, _ = denoise(capsys, *command, "--resume", *options)
    [reason] = [x["reason"] for x in json_lines(out) if x.get("source") == "in/b.png"]
    assert code == 3
    expected = (
        "no longer as it was written" if change == "output" else "another input or with other"
    )
    assert expected in reason
    assert denoise(capsys, *command, "--resume", "--overwrite", *options)[0] == 0
    code, out, _ = denoise(capsys, *command, "--resume", *options)
    assert code == 0 and json_lines(out)[-1]["skipped"] == 2


def test_shards_share_the_files_out(folder, options, capsys):
    for index in range(12):
        io.write_image(folder / "in" / f"{index}.png", GRAY)
    done = []
    for shard in ("1/3", "2/3", "3/3"):
        code, out, _ = denoise(capsys, "in", "-o", "out", "--shard", shard, "--json", *options)
        assert code == 0
        done.append({x["target"] for x in json_lines(out) if x["event"] == "file"})
        assert len(done[-1]) < 14
    assert len(set.union(*done)) == sum(len(part) for part in done) == 14
    assert len(files(folder / "out")) == 14
    code, out, _ = denoise(capsys, "in", "-o", "out", "--resume", "--json", *options)
    assert code == 0 and json_lines(out)[-1]["skipped"] == 14  # another division knows them all
    code, _, err = denoise(capsys, "in", "-o", "out", "--shard", "4/3", *options)
    assert code == 2 and "1 <= I <= N" in err


def test_dry_run_says_and_does_nothing(folder, options, capsys):
    assert denoise(capsys, "in/a.png", "-o", "out", *options)[0] == 0
    before = files(folder)
    code, out, _ = denoise(capsys, "in", "-o", "out", "--resume", "--dry-run", *options)
    assert code == 0 and files(folder) == before
    assert out.splitlines() == ["in/a.png -> out/a.png (done)", "in/b.png -> out/b.png"]
    code, out, _ = denoise(capsys, "in", "-o", "out", "--dry-run", "--json", *options)
    first, second = (x["status"] for x in json_lines(out))
    assert "exists" in first and second == "to do"
    assert denoise(capsys, "in", "-o", "never", "--dry-run", *options)[0] == 0
    assert not (folder / "never").exists()


def test_json_lines(folder, options, capsys):
    (folder / "in" / "empty.png").write_bytes(b"")
    code, out, _ = denoise(capsys, "in", "-o", "out", "--json", *options)
    *each, summary = json_lines(out)
    assert code == 3
    assert (summary["written"], summary["failed"], summary["event"]) == (2, 1, "summary")
    by_name = {x["source"]: x for x in each}
    assert "0 bytes" in by_name["in/empty.png"]["reason"]
    facts = by_name["in/a.png"]
    assert (facts["sigma"], facts["sigma_estimated"], facts["pixels"]) == (20.0, False, 620)
    assert set(facts["seconds"]) == {"read", "compute", "write"}


def test_progress_on_a_terminal(folder, options):
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "denoise_ext.cli", "denoise", "in", "-o", "out", *options]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    places = {"stdout": subprocess.PIPE, "stderr": theirs, "env": environment}
    with subprocess.Popen([*command, *BACKEND], **places) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # how Linux says that the other side is closed
            pass
        assert b"2 images denoised" in process.stdout.read() and process.wait() == 0
    os.close(ours)
    for what in (r"2/2", r"\d\.\d\d images/s", r"\d:\d\d:\d\d"):  # done, rate, time left
        assert re.search(what, shown.decode()), (what, shown)


def test_strength(folder, options, capsys):
    denoise(capsys, "in/b.png", "-o", "none.png", "--strength", "0", *options)
    np.testing.assert_array_equal(io.read_image("none.png"), GRAY)
    denoise(capsys, "in/b.png", "-o", "full.png", *options)
    denoise(capsys, "in/b.png", "-o", "half.png", "--strength", "0.5", *options)
    full = io.read_image("full.png").astype(int)
    inside = (full > 0) & (full < 255)  # the blend is made before the network's result is clipped
    # each is rounded once: the blend is off by half a level, half of the result by a quarter
    assert np.abs(io.read_image("half.png") - (full + GRAY) / 2)[inside].max() <= 0.75
    code, _, err = denoise(capsys, "in/b.png", "-o", "x.png", "--strength", "1.5", *options)
    assert code == 2 and "from 0 to 1" in err


@pytest.mark.parametrize("workers", ["1", "3"])
def test_results_do_not_depend_on_the_workers(folder, options, capsys, workers):
    for index in range(6):
        io.write_image(folder / "in" / f"{index}.png", np.roll(GRAY, index, 0))
    assert denoise(capsys, "in", "-o", "out", "--workers", workers, *options)[0] == 0
    for name in files(folder / "out"):
        assert (
            denoise(capsys, f"in/{name}", "-o", f"one/{name}", *options)[0] == 3
        )  # no such folder
        denoise(capsys, f"in/{name}", "-o", "one.png", "--overwrite", *options)
        assert (folder / "one.png").read_bytes() == (folder / "out" / name).read_bytes()


def test_standard_input_and_output(folder, options):
    denoised = ["denoise", "in/a.png", "-o", "o.png", *options, *BACKEND]
    assert main(denoised) == 0
    command = [
        sys.executable,
        "-m",
        "denoise_ext.cli",
        "denoise",
        "-",
        "-o",
        "-",
        *options,
        *BACKEND,
    ]
    content = (folder / "in" / "a.png").read_bytes()
    done = subprocess.run(command, input=content, capture_output=True)
    assert done.returncode == 0, done.stderr
    with Image.open(streams.BytesIO(done.stdout)) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), io.read_image("o.png"))
    assert b"sigma" in done.stderr


def test_what_standard_placescannot_do(folder, options, capsys):
    code, _, err = denoise(capsys, "-", "in/a.png", "-o", "-", *options)
    assert code == 2 and "one image" in err
    code, _, err = denoise(capsys, "s3://bucket/a.png", "-o", "out", *options)
    assert code == 2 and "--engine ray" in err
    code, _, err = denoise(capsys, "in/a.png", "-o", "-", "--resume", *options)
    assert code == 2 and "--resume" in err
    code, _, err = denoise(capsys, "in/a.png", "-o", "o.png", "--resume", *options)
    assert code == 2 and "needs a folder" in err
