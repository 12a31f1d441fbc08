"""A run's directory: one run at a time, its files and data as they were, what is left by a kill."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_tools import assert_same, environment, read_log

from denoise_ext.cli.train import main
from denoise_ext.io.atomic import replace_file
from denoise_ext.models import read_metadata
from denoise_ext.training import checkpoint, load_config, loop, run_dir, train
from denoise_ext.training.checkpoint import load_state
from denoise_ext.training.run_dir import RunDir

TINY = ["run.steps=6", "model.options={width = 4, depth = 2}", "validation.every=3",
        "run.checkpoint_every=2", "run.log_every=1"]  # fmt: skip


def command(*overrides: str) -> list[str]:
    return ["config.toml", *(part for o in (*TINY, *overrides) for part in ("--set", o))]


def test_two_runs_cannot_share_a_directory(workplace, capsys):
    first = RunDir("run")
    assert main(command()) == 2
    error = capsys.readouterr().err
    assert f"run.out: process {os.getpid()} is training in run now; wait for it" in error
    assert len(error.splitlines()) == 1
    assert not Path("run/log.csv").exists()
    first.close()
    assert main(command()) == 0
    RunDir("run").close()  # it has let go


def test_what_a_killed_process_left_half_written_is_removed(workplace):
    Path("run/samples").mkdir(parents=True)
    part = ".denoise-ext-0123456789ab.part"
    left = [Path("run", part), Path("run/samples", part)]
    others = [Path("run/notes.part"), Path("run/.hidden"), Path("run/samples/mine.png")]
    for file in left + others:
        file.touch()
    RunDir("run", owner=False).close()  # one of several processes: not its business
    assert all(file.exists() for file in left)
    RunDir("run").close()
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in others)


def test_other_files_are_refused(workplace, capsys):
    train(load_config("config.toml", TINY))
    capsys.readouterr()
    changes = {
        "was 8 files, is 7": lambda file: file.unlink(),
        "names or sizes among its 8 files are others": change_size,
    }
    for told, change in changes.items():
        file = Path("images/5.png")
        before = file.read_bytes()
        change(file)
        assert main(command()) == 2
        error = capsys.readouterr().err
        assert f"run holds a run of other files (data.train: {told}); bring them back" in error
        assert len(error.splitlines()) == 1
        file.write_bytes(before)
    Path("images").rename("elsewhere")  # the same files at another place are the same files
    Path("images").symlink_to("elsewhere")
    assert main(command()) == 0
    change_size(Path("images/5.png"))
    assert main([*command("run.steps=8"), "--accept-changes"]) == 0
    (change,) = read_metadata("run/model.safetensors")["training"]["changes_on_the_way"]
    assert [text.split(":")[0] for text in change["changes"]] == ["run.steps", "data.train"]


def change_size(file: Path) -> None:
    Image.fromarray(np.zeros((48, 40), np.uint8)).save(file)


def test_minutes_cut_a_run_into_stretches(workplace, capsys):
    """Every stretch is one step long; the weights are those of a run in one go."""
    for step in (1, 2, 3, 4, 5):
        assert main(command("run.minutes=1e-9")) == 0
        out = capsys.readouterr().out
        assert out == f"run: step {step} of 6; the same command continues it\n"
        assert not Path("run/model.safetensors").exists()
    assert main(command("run.minutes=1e-9")) == 0
    assert "run/model.safetensors: 6 steps, PSNR" in capsys.readouterr().out
    train(load_config("config.toml", [*TINY, "run.out=straight"]))
    cut, straight = (load_state(Path(run) / "checkpoint.pt") for run in ("run", "straight"))
    assert_same(cut["model"], straight["model"])
    assert [row["loss"] for row in read_log("run")] == [r["loss"] for r in read_log("straight")]


def test_the_script_for_stretches(workplace, capsys):
    """What it leaves is the run that the command continues."""
    text = Path("config.toml").read_text().replace("steps = 120", "steps = 6")
    Path("tiny.toml").write_text(text)
    script = Path(__file__).resolve().parents[2] / "recipes" / "stretch"
    variables = environment() | {"PYTHON": sys.executable, "MINUTES": "1e-9"}
    done = subprocess.run(
        [script, "tiny.toml", "lent"], env=variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "lent/tiny: step 1 of 6; the same command continues it\n"
    assert list(Path("lent/images").iterdir())  # decoded
    assert main(["tiny.toml", "--out", "lent/tiny"]) == 0
    assert read_metadata("lent/tiny/model.safetensors")["training"]["changes_on_the_way"] == []


def test_curves_are_drawn_on_the_way(workplace, monkeypatch):
    pytest.importorskip("matplotlib")
    calls = []

    def second_is_interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(*arguments)

    validate = loop.validate
    monkeypatch.setattr(loop, "validate", second_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(load_config("config.toml", TINY))
    with Image.open("run/curves.png") as curves:
        assert len(np.unique(np.asarray(curves.convert("L")))) > 50


def test_provenance_without_git_claims_nothing(monkeypatch):
    monkeypatch.setattr(run_dir, "_git", lambda *arguments: None)
    assert run_dir.provenance()["git_modified"] is None
    monkeypatch.setattr(run_dir, "_git", lambda *arguments: "")
    assert run_dir.provenance()["git_modified"] is False


def test_a_kill_at_any_moment_of_a_write_or_a_validation(workplace, monkeypatch):
    """What is on disk before and after every sync and every replacement of the checkpoint, and
    during validation, is what a kill there leaves: all of it continues to the same end."""
    moments, saving = [], []

    def replace_checkpoint(path, data):
        saving.append(path)
        replace_file(path, data)
        saving.clear()

    def keep(moment: str) -> None:
        moments.append(f"{len(moments)} {moment}")
        shutil.copytree("run", moments[-1])

    def watched(name):
        real = getattr(os, name)

        def call(*arguments):
            if saving:
                keep(f"before {name}")
            real(*arguments)
            if saving:
                keep(f"after {name}")

        return call

    def validate(*arguments):
        keep("validation")
        return loop_validate(*arguments)

    loop_validate = loop.validate
    with monkeypatch.context() as patch:
        for name in ("fsync", "replace"):
            patch.setattr(os, name, watched(name))
        patch.setattr(checkpoint, "replace_file", replace_checkpoint)
        patch.setattr(loop, "validate", validate)
        train(load_config("config.toml", TINY))
    assert len(moments) == 3 * 4 + 2  # checkpoints at steps 2, 4, 6; validations at 3, 6

    expected = load_state(Path("run/checkpoint.pt"))
    for moment in moments:
        train(load_config("config.toml", [*TINY, f"run.out={moment}"]))
        state = load_state(Path(moment, "checkpoint.pt"))
        assert state["best"] == expected["best"], moment
        for key in ("model", "optimiser"):
            assert_same(flat(state[key]), flat(expected[key]))
        assert log_without_times(moment) == log_without_times("run"), moment
        assert not list(Path(moment).glob(".*.part")), moment


def flat(tree: object) -> dict[str, object]:
    """Nested lists and dicts as one dict."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        f"{key}.{inner}": value
        for key, branch in pairs
        for inner, value in (
            flat(branch).items() if isinstance(branch, (dict, list, tuple)) else [("", branch)]
        )
        if value is not None
    }


def log_without_times(run: str) -> list[dict[str, str]]:
    rows = read_log(run)
    for row in rows:
        del row["seconds"], row["waited"]
    return rows
