"""Training: configuration, data, schedule, the loop, exact continuation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from shared_data import needs
from training_tools import read_log

from denoise_ext.cli.train import main
from denoise_ext.data import list_image_files
from denoise_ext.models import (
    create_model,
    list_models,
    load_checkpoint,
    pretrained_info,
    read_metadata,
)
from denoise_ext.training import (
    ConfigError,
    guided_denoising,
    image_compression,
    image_denoising,
    image_upscaling,
    load_config,
    train,
    video_denoising,
)
from denoise_ext.training.build import build_network, build_optimiser, freeze
from denoise_ext.training.checkpoint import load_state
from denoise_ext.training.learning_rate import learning_rate
from denoise_ext.training.validate import split_held_out

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

# ---- configuration

CHECK_FIT = {
    "guided_denoising": guided_denoising.check_fit,
    "image_compression": image_compression.check_fit,
    "image_denoising": image_denoising.check_fit,
    "image_upscaling": image_upscaling.check_fit,
    "video_denoising": video_denoising.check_fit,
}


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_are_valid(recipe):
    config = load_config(recipe)
    started = config.model.name or config.model.start
    named = re.sub("_(adam|photos|developed|longer|taught|[0-9]+)$", "", recipe.stem)
    # Weights that were trained from another network's.
    shipped = pretrained_info(named) if named in list_models() else None
    assert (
        started == named
        or config.model.name == named
        or named.startswith("finetune_")
        or (shipped is not None and shipped.recipe == f"recipes/{recipe.name}")
    )
    with torch.device("meta"):
        model = create_model(started, **config.model.options)
    CHECK_FIT[config.task.name](model, config)
    freeze(model, config.model.freeze)
    build_optimiser(model, config)
    assert learning_rate(0, steps=config.run.steps, **config.schedule.model_dump()) > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.step=5", "run.step: unknown key; allowed here: out, steps, minutes"),
        ("runn.steps=5", "runn: unknown key; allowed here: data, noise, guide, model"),
        ("run.steps=0", "run.steps: got 0; input should be greater than or equal to 1"),
        ("run.steps=many", "run.steps: got 'many'; input should be a valid integer"),
        ("run.steps=2.5", "run.steps: got 2.5; input should be a valid integer"),
        ("run.precision=fp8", "run.precision: got 'fp8'; input should be 'fp32' or 'bf16'"),
        ("run.layers=jax", "run.layers: got 'jax'; input should be 'denoise_ext' or 'torch'"),
        ("data.channels=2", "data.channels: got 2; input should be 1 or 3"),
        ("noise.sigma_max=-1", "noise.sigma_max: got -1"),
        ("noise.sigma_max=nan", "noise.sigma_max: got nan; input should be a finite number"),
        ("noise.sigma_max=5", "noise: sigma_max must be >= sigma_min (25)"),
        ("optimiser.beta2=1", "optimiser.beta2: got 1"),
        ("schedule.warmup_steps=500", "schedule.warmup_steps must be below run.steps (120)"),
        ("validation.sigmas=[-1.0]", "validation.sigmas.0: got -1.0"),
        ("validation.sigmas=[]", "validation.sigmas: got []; list should have at least 1 item"),
        ("run.seed=18446744073709551616", "run.seed: got 18446744073709551616; input should be"),
        ("schedule.final=0.1", "schedule: final must be <= peak (0.005), got 0.1"),
        ("model.options.width={a = 1}", "model.options: width must be a number, true or false"),
        ("model.options.widths=[6.5]", "list of whole numbers, got [6.5]"),
        ("steps=5", "--set must be section.key=value, got 'steps=5'"),
        ("run.steps", "--set must be section.key=value, got 'run.steps'"),
    ],
)
def test_configuration_errors_name_the_key(workplace, override, message):
    with pytest.raises(ConfigError) as caught:
        load_config("config.toml", [override])
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_every_mistake_has_its_line(workplace):
    with pytest.raises(ConfigError) as caught:
        load_config("config.toml", ["run.steps=0", "data.crop=-3", "model.nam=x"])
    assert len(str(caught.value).splitlines()) == 3


def test_required_key(workplace):
    Path("config.toml").write_text('[data]\ntrain = "images"\n[model]\nname = "dncnn_gray"\n')
    with pytest.raises(ConfigError, match=r"config\.toml: run: required, but not given"):
        load_config("config.toml")


def test_unreadable_configurations(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[run\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_config(bad)
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_config(bad)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=ffdnet_grey", "unknown model 'ffdnet_grey'"),
        ("model.options.colour=1", "model.options: "),
        ("model.options.width=6.5", "model.options: width must be an int, got 6.5"),
        ("model.options.width=x", "model.options: width must be an int, got 'x'"),
        ("model.options.pretrained=true", "model.options: pretrained is no option"),
        ("model.options.checkpoint_path=x", "model.options: checkpoint_path is no option"),
        ("model.options.width=100000", "* 10^9 parameters of {'width': 100000, 'depth': 3} need"),
        ("model.options.width=100000000000", "model.options: no network is as large as {'width'"),
        ("data.train=config.toml", "config.toml: not a list file (one image path per line), or of"),
        ("data.channels=3", "data.channels is 3, but model.name 'ffdnet_gray_small' has 1"),
        ("data.crop=15", "data.crop must be a multiple of 2"),
        ("data.crop=42", "smaller than the crop 42"),
        ("data.train=absent", "absent: no such folder or list file"),
        ("validation.images=8", "validation.images must be below the number of images (8)"),
        ("run.out=config.toml", "run.out: cannot write config.toml"),
    ],
)
def test_what_does_not_fit_is_one_line_at_the_command(workplace, capsys, override, message):
    assert main(["config.toml", "--set", override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error


def test_a_file_of_one_long_line_is_not_shown_whole(workplace, capsys):
    Path("one.json").write_text(f'{{"a": "{"x" * 5000}"}}')
    assert main(["config.toml", "--set", "data.train=one.json"]) == 2
    error = capsys.readouterr().err
    assert "one.json: not a list file (one image path per line)" in error
    assert len(error) < 300


def test_lists_are_options(workplace):
    """Of networks with several levels."""
    overrides = ["model.name=dxnet_s_gray", "model.options={widths = [8, 12], blocks = [1, 2]}"]
    network, _ = build_network(load_config("config.toml", overrides))
    assert (network.widths, network.blocks) == ([8, 12], [1, 2])
    with pytest.raises(ValueError, match=r"model\.options: widths must be a list of ints, got 8"):
        build_network(load_config("config.toml", [*overrides, "model.options.widths=8"]))


def test_a_run_directory_may_look_like_a_number(workplace, capsys):
    command = ["config.toml", "--set", "run.steps=6", "--set", "validation.images=0"]
    assert main([*command, "--out", "2024"]) == 0
    assert Path("2024/model.safetensors").exists()


def test_the_home_directory_can_be_named(workplace, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(workplace))
    Path("home.txt").write_text("images/0.png\nimages/1.png\n")
    values = ["run.steps=6", "validation.images=0", "data.train=~/home.txt", "data.cache=~/mapped",
              "run.out=~/runs/a"]  # fmt: skip
    train(load_config("config.toml", values))
    assert Path("runs/a/model.safetensors").exists()
    assert list(Path("mapped").iterdir())
    start = ["run.out=~/runs/b", "model.start=~/runs/a/model.safetensors"]
    train(load_config("config.toml", [*values, *start]))
    assert not Path("~").exists()


# ---- held-out and test images


def test_held_out_images():
    train_on, held_out = split_held_out(100, 4)
    assert held_out == [12, 37, 62, 87]
    assert sorted(train_on + held_out) == list(range(100))
    assert split_held_out(3, 0) == ([0, 1, 2], [])
    assert split_held_out(9, 8)[0]


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_do_not_train_on_the_test_images(recipe):
    sources = [needs(part.train) for part in load_config(recipe).data.parts]
    excluded = needs("train/EXCLUDE_BSD68.txt").read_text().split()
    lists = [source for source in sources if source.is_file()]
    folders = [source for source in sources if source.is_dir()]
    trained = {path.name for source in lists for path in list_image_files(source)}
    trained |= {path.name for folder in folders for path in folder.rglob("*.*")}
    assert len(excluded) == 68
    assert not trained & {Path(line).name for line in excluded}


# ---- schedule


def test_learning_rate():
    options = {"steps": 110, "peak": 1.0, "final": 0.1, "warmup_steps": 10}
    rates = [learning_rate(step, **options) for step in range(110)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(0, steps=1, peak=1.0, final=0.1, warmup_steps=0) == 1.0


# ---- the loop


def test_training_removes_noise(workplace, capsys):
    assert main(["config.toml", "--set", "run.steps=250"]) == 0
    out, err = capsys.readouterr()
    assert "run/model.safetensors: 250 steps, PSNR" in out
    assert "step 250/250" in err
    rows = read_log("run")
    assert [int(row["step"]) for row in rows] == list(range(10, 251, 10))
    noisy = 10 * np.log10(255**2 / 25**2)  # 20.17 dB
    assert float(rows[-1]["psnr_25"]) > noisy + 3
    assert rows[4]["psnr_25"]
    assert not rows[0]["psnr_25"]


def test_the_result_can_be_loaded(workplace):
    result = train(load_config("config.toml"))
    model = load_checkpoint(result.model_path)
    state = load_state(Path("run/checkpoint.pt"))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state["model"][key].half().float())
    facts = read_metadata(result.model_path)["training"]
    assert facts["steps"] == 120
    assert facts["config"] == json.loads(Path("run/config.json").read_text())
    assert facts["validation_psnr"] == {"25": result.validation[25.0]}
    # an unfinished run can be tried out, too
    assert load_checkpoint("run/checkpoint.pt").config == model.config


def test_own_layers_train(workplace):
    config = load_config("config.toml", ["run.layers=denoise_ext", "run.steps=100"])
    train(config)
    rows = read_log("run")
    assert float(rows[-1]["loss"]) < 0.4 * (25 / 255) ** 2  # the loss of doing nothing


def test_bf16_trains(workplace):
    train(load_config("config.toml", ["run.precision=bf16", "run.steps=100"]))
    state = load_state(Path("run/checkpoint.pt"))
    assert {value.dtype for value in state["model"].values()} == {torch.float32}
    rows = read_log("run")
    assert float(rows[-1]["loss"]) < 0.4 * (25 / 255) ** 2


def test_batchnorm_model_trains_and_is_folded(workplace):
    overrides = ["model.name=dncnn_gray", "model.options.batch_norm=true", "run.steps=100"]
    result = train(load_config("config.toml", overrides))
    assert load_checkpoint(result.model_path).config["batch_norm"] is False


def test_weight_decay_is_the_l2_term_of_the_loss(workplace):
    """Without data to fit, Adam's first step follows the sign of the gradient of the L2 term."""
    from denoise_ext.training.distributed import Processes
    from denoise_ext.training.loop import _Trainer
    from denoise_ext.training.run_dir import RunDir

    config = load_config("config.toml", ["loss.weight_decay=0.5"])
    trainer = _Trainer(config, False, Processes(), torch.device("cpu"), RunDir("run"))
    decayed, free = trainer.optimiser.param_groups
    assert decayed["weight_decay"] == 0.5
    assert free["weight_decay"] == 0.0
    assert {p.dim() for p in decayed["params"]} == {4}
    assert {p.dim() for p in free["params"]} == {1}
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = [p.detach().clone() for p in decayed["params"] + free["params"]]
    trainer.optimiser.step()
    rate = trainer.config.schedule.peak
    weights = len(decayed["params"])
    for old, new in zip(before[:weights], decayed["params"], strict=True):
        moved = old.abs() > 1e-4  # far above Adam's eps
        expected = old - rate * old.sign()
        torch.testing.assert_close(new[moved], expected[moved], rtol=0, atol=1e-5)
    for old, new in zip(before[weights:], free["params"], strict=True):
        assert torch.equal(old, new)
