"""What a run leaves: its directory, early stop, noise chains; fine-tuning; evaluation of pairs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_tools import assert_same, read_log

from denoise_ext.cli import main
from denoise_ext.models import load_checkpoint, read_metadata
from denoise_ext.training import ConfigError, load_config, train
from denoise_ext.training.checkpoint import load_state

SHORT = ["run.steps=20", "validation.every=10", "run.log_every=5"]


def test_the_run_directory(workplace):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorboard")
    result = train(load_config("config.toml", [*SHORT, "run.tensorboard=on", "run.seed=9"]))
    run = Path("run")
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == environment["torch"] == str(torch.__version__)
    assert {"git_commit", "command", "threads", "gpu", "variables"} <= environment.keys()
    assert json.loads((run / "config.json").read_text())["run"]["seed"] == 9
    samples = sorted(path.name for path in (run / "samples").iterdir())
    assert samples == ["step_0000010.png", "step_0000020.png"]
    with Image.open(run / "samples" / samples[0]) as picture:
        assert picture.size == (3 * 32, 2 * 32)  # noisy | denoised | clean, two images
    with Image.open(run / "curves.png") as curves:
        assert len(np.unique(np.asarray(curves.convert("L")))) > 50  # something is drawn
    (events,) = (run / "tensorboard").iterdir()
    assert b"psnr/25" in events.read_bytes()
    best = read_metadata(run / "best.safetensors")["training"]
    psnr = {int(row["step"]): float(row["psnr_25"]) for row in read_log("run") if row["psnr_25"]}
    assert best["steps"] == max(psnr, key=psnr.get)
    assert result.validation[25.0] == pytest.approx(psnr[20], abs=1e-3)


def test_early_stop_keeps_the_best_weights(workplace):
    # a rate that climbs all the way: soon nothing gets better
    overrides = ["run.steps=400", "validation.every=5", "validation.patience=3"]
    overrides += ["schedule.warmup_steps=399", "schedule.peak=10", "optimiser.clip_norm=1"]
    result = train(load_config("config.toml", overrides))
    psnr = {int(row["step"]): float(row["psnr_25"]) for row in read_log("run") if row["psnr_25"]}
    best = max(psnr, key=psnr.get)
    assert result.steps == best + 15 < 400
    assert list(psnr)[-1] == result.steps
    facts = read_metadata(result.model_path)["training"]
    assert facts["best"]["step"] == best
    kept = load_checkpoint("run/best.safetensors").state_dict()
    result_weights = load_checkpoint(result.model_path).state_dict()
    assert_same({k: v.half().float() for k, v in kept.items()}, result_weights)
    again = train(load_config("config.toml", overrides))  # it stays ended
    assert again.steps == result.steps
    assert_same(load_checkpoint(again.model_path).state_dict(), result_weights)


CHAIN = """
[[noise.chain]]
kind = "camera"
iso_min = 3200
[[noise.chain]]
kind = "jpeg"
quality_min = 70
quality_max = 95
probability = 0.5
"""


def test_a_chain_of_noise_trains_the_same_for_any_number_of_workers(workplace):
    text = Path("config.toml").read_text()
    noise = "[noise]\nsigma_min = 25.0\nsigma_max = 25.0\n"
    assert noise in text
    Path("config.toml").write_text(text.replace(noise, "") + CHAIN)
    for workers in (0, 3):
        train(
            load_config("config.toml", [*SHORT, f"run.out=w{workers}", f"data.workers={workers}"])
        )
    states = [load_state(Path(out) / "checkpoint.pt")["model"] for out in ("w0", "w3")]
    assert_same(*states)
    assert float(read_log("w0")[-1]["psnr_chain"]) > 0


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ('{kind = "jpg"}', "noise.chain.0: got {'kind': 'jpg'}; input tag 'jpg'"),
        (
            '{kind = "gaussian", sigma = 3}',
            "noise.chain.0.gaussian.sigma: unknown key; allowed here:",
        ),
        ('{kind = "poisson", photons_min = 0, photons_max = 9}', "noise.chain.0.poisson.photons_m"),
    ],
)
def test_wrong_chains_are_named(workplace, chain, message):
    with pytest.raises(ConfigError) as caught:
        load_config(
            "config.toml", ["noise.sigma_min=0", "noise.sigma_max=55", f"noise.chain=[{chain}]"]
        )
    assert message in str(caught.value).splitlines()[0]


# ---- fine-tuning


def test_finetune_starts_from_a_checkpoint_and_leaves_what_is_frozen(workplace, capsys):
    first = train(load_config("config.toml", [*SHORT, "run.out=first"]))
    capsys.readouterr()
    Path("pairs").mkdir()
    rng = np.random.default_rng(0)
    for file in sorted(Path("images").glob("*.png")):
        clean = np.asarray(Image.open(file)).astype(float)
        noisy = clean + rng.normal(0, 20, clean.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(f"pairs/{file.stem}_real.png")
        Image.fromarray(clean.astype(np.uint8)).save(f"pairs/{file.stem}_mean.png")
    Path("tune.toml").write_text("""
        [data]
        train = "pairs"
        pairs = ["*_real.png", "*_mean.png"]
        part = [0.0, 0.75]
        sigma = 20.0
        crop = 16
        [model]
        [schedule]
        warmup_steps = 0
        [validation]
        images = 1
        [run]
        out = "tuned"
        steps = 10
        batch_size = 4
        layers = "torch"
        threads = 1
        tensorboard = "off"
    """)
    assert main(["finetune", "tune.toml", "--start", "ffdnet"]) == 2
    error = capsys.readouterr().err
    assert "model.start: 'ffdnet' is neither a model with trained weights nor a" in error
    assert "ffdnet_gray_small" in error
    assert main(["finetune", "tune.toml"]) == 2
    assert "model: name (a registered model) or start" in capsys.readouterr().err
    command = ["finetune", "tune.toml", "--start", str(first.model_path), "--freeze"]
    assert main([*command, "head.*"]) == 2
    assert "model.freeze: 'head.*' names no parameter; there are body.0" in capsys.readouterr().err
    assert main([*command, "*"]) == 2
    assert "leaves no parameter to train" in capsys.readouterr().err
    assert main([*command, "body.0.*"]) == 0
    rows = read_log("tuned")
    assert [row["step"] for row in rows if row["psnr_pairs"]] == ["0", "10"]
    before_db, after_db = (float(row["psnr_pairs"]) for row in (rows[0], rows[-1]))
    told = re.search(r"10 steps, PSNR ([\d.]+) -> ([\d.]+) dB at pairs", capsys.readouterr().out)
    # both are rounded: to 2 digits and, in the log, to 3
    assert list(map(float, told.groups())) == pytest.approx([before_db, after_db], abs=0.0056)
    assert json.loads(Path("tuned/config.json").read_text())["schedule"]["peak"] == 1e-4
    assert main([*command[:4], "--out", "ruined", "--set", "schedule.peak=0.5"]) == 0
    capsys.readouterr()
    assert read_metadata("ruined/best.safetensors")["training"]["steps"] == 0  # nothing was better
    before = load_checkpoint(first.model_path).state_dict()
    after = load_checkpoint("tuned/model.safetensors").state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if not key.startswith("body.0.")}
    assert read_metadata("tuned/model.safetensors")["training"]["start"]["steps"] == 20
    assert load_checkpoint("tuned/checkpoint.pt").config == load_checkpoint(first.model_path).config

    evaluate = ["evaluate", "pairs", "--pairs", "*_real.png", "*_mean.png", "--sigma", "20",
                "--model", "tuned/model.safetensors", "-q"]  # fmt: skip
    assert main([*evaluate, "--part", "0.75", "1", "--json", "scores.json"]) == 0
    assert "noise: that of the files" in capsys.readouterr().out
    scores = json.loads(Path("scores.json").read_text())
    assert [Path(image["file"]).name for image in scores["images"]] == ["6_real.png", "7_real.png"]
    noisy, clean = (
        np.asarray(Image.open(f"pairs/6_{kind}.png")).astype(float) for kind in ("real", "mean")
    )
    expected = 10 * np.log10(255**2 / np.mean((noisy - clean) ** 2))
    assert scores["images"][0]["noisy_psnr"] == pytest.approx(expected)
    estimated = [word for word in evaluate if word not in ("--sigma", "20")]
    assert main([*estimated, "--part", "0.75", "1"]) == 0
    assert re.search(r"average of 2 +auto", capsys.readouterr().out)
    for wrong, message in (
        (["--part", "1", "0"], "--part must be FROM TO"),
        (["--clip"], "with --pairs there is none"),
        (["--pairs", "*_real.png", "*_x.png"], "holds no file *_x.png"),
    ):
        assert main([*evaluate, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_shipped_model_can_be_the_start(workplace):
    overrides = [*SHORT, "run.steps=6", "model.options={}", "schedule.peak=1e-9"]
    overrides += ["model.start=ffdnet_gray_small", "schedule.final=0"]
    result = train(load_config("config.toml", overrides))
    start = read_metadata(result.model_path)["training"]["start"]
    assert start["model"] == "ffdnet_gray_small"
    assert result.validation[25.0] > 25  # that of random weights: about 20
    with pytest.raises(ConfigError, match=r"model\.name is 'dncnn_gray'"):
        train(load_config("config.toml", [*overrides, "model.name=dncnn_gray", "run.out=x"]))
