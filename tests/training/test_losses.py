"""Losses, weight decay, the running mean, and training without clean targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from denoise_ext.metrics import psnr
from denoise_ext.metrics.protocol import Sample
from denoise_ext.models import load_checkpoint
from denoise_ext.training import ConfigError, load_config, train
from denoise_ext.training.batches import denoising_sample
from denoise_ext.training.build import build_optimiser
from denoise_ext.training.ema import RunningMean
from denoise_ext.training.losses import criterion
from denoise_ext.training.objectives import BlindSpot, Noise2Noise, Sure

# ---- distances


def test_distances_by_hand():
    a = torch.tensor([0.0, 0.5, 1.0, 0.25]).reshape(1, 1, 2, 2)
    b = torch.tensor([0.0, 0.25, 0.0, 0.25]).reshape(1, 1, 2, 2)
    assert criterion("mse", 0)(a, b).item() == pytest.approx((0.0625 + 1) / 4)
    assert criterion("l1", 0)(a, b).item() == pytest.approx(1.25 / 4)
    roots = [1e-3, (0.0625 + 1e-6) ** 0.5, (1 + 1e-6) ** 0.5, 1e-3]
    assert criterion("charbonnier", 0)(a, b).item() == pytest.approx(sum(roots) / 4)


def test_ssim_loss_is_mixed_with_l1_and_has_a_gradient():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 1, 16, 16, generator=generator)
    noisy = (target + 0.1 * torch.randn(target.shape, generator=generator)).requires_grad_()
    l1 = criterion("l1", 0)(noisy, target)
    assert criterion("ssim", 0.0)(noisy, target).item() == pytest.approx(l1.item())
    assert criterion("ssim", 0.84)(target, target).item() == pytest.approx(0, abs=1e-6)
    loss = criterion("ssim", 0.84)(noisy, target)
    (gradient,) = torch.autograd.grad(loss, noisy)
    with torch.no_grad():
        assert criterion("ssim", 0.84)(noisy - 0.1 * gradient, target) < loss


def test_psnr_loss_is_the_negative_psnr_of_each_image():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 2, 8, 8, generator=generator)
    spread = torch.tensor([0.01, 0.1, 0.3]).reshape(3, 1, 1, 1)
    noisy = target + spread * torch.randn(target.shape, generator=generator)
    loss = criterion("psnr", 0)
    # float32: |d(10 log10 m)| = 4.34 * relative error of m; its 128 terms round by 2^-24 each.
    # eps adds 4.34 * 1e-8 / m dB, m about 1e-4 where it is smallest.
    tolerance = 4.35 * (130 * 2.0**-24 + 1e-8 / 0.5e-4)
    expected = -psnr(noisy.double(), target.double()).mean().item()
    assert loss(noisy, target).item() == pytest.approx(expected, abs=tolerance)
    assert loss(target, target).item() == pytest.approx(-80, abs=1e-4)  # finite where all is right


def test_psnr_loss_has_a_finite_gradient_everywhere():
    """4.34 / (mse + eps) times that of the image's own mse; zero where there is no error."""
    target = torch.zeros(2, 1, 4, 4)
    output = torch.zeros(2, 1, 4, 4)
    output[0] = 0.25
    output.requires_grad_()
    (gradient,) = torch.autograd.grad(criterion("psnr", 0)(output, target), output)
    assert gradient[1].abs().max() == 0
    # half (mean over two images) of 10 / ln 10 * 2 * 0.25 / 16 / 0.25^2
    expected = 0.5 * 10 / np.log(10) * 2 * 0.25 / 16 / 0.25**2
    torch.testing.assert_close(gradient[0], torch.full((1, 4, 4), expected))


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_decoupled_decay_takes_a_part_of_the_weights(workplace, name):
    """Without a gradient: rate * decay * weight, where the classic form moves by Adam's rule."""
    overrides = [f"optimiser.name={name}", "loss.weight_decay=0.5", "loss.decay=decoupled"]
    config = load_config("config.toml", overrides)
    layer = nn.Conv2d(2, 3, 3)
    before = layer.weight.detach().clone()
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser = build_optimiser(layer, config)
    optimiser.param_groups[0]["lr"] = 0.1
    optimiser.step()
    torch.testing.assert_close(layer.weight.detach(), before * (1 - 0.1 * 0.5))


def test_running_mean():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    mean = RunningMean(model, decay=0.5)
    nn.init.ones_(model.weight)
    mean.update(model, step=0)  # decay (1 + 0) / (10 + 0)
    assert mean.model.weight.item() == pytest.approx(0.9)
    mean.update(model, step=100)  # 101 / 110 is above the decay asked for
    assert mean.model.weight.item() == pytest.approx(0.95)


# ---- objectives


def batch(noisy: torch.Tensor, target: torch.Tensor | None = None, first: int = 0) -> Sample:
    level = torch.full((len(noisy),), 25.0)
    return denoising_sample(noisy, noisy if target is None else target, level, first)


def test_blind_spot_hides_what_it_asks_for():
    noisy = torch.rand(3, 2, 19, 16, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []

    def network(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(inputs["image"])
        return inputs

    objective = BlindSpot(criterion("mse", 0), seed=1)
    loss, _ = objective(network, batch(noisy), 5)
    hidden = (seen[0] != noisy).any(dim=1)  # (N, H, W)
    assert hidden.flatten(1).sum(dim=1).tolist() == [4, 4, 4]  # one of every whole 8 x 8 cell
    assert hidden[:, :8, :8].sum() == 3
    expected = (seen[0] - noisy).square().sum() / (3 * 2 * 4)
    assert loss.item() == pytest.approx(expected.item())
    for i, y, x in hidden.nonzero().tolist():  # the stand-in is a neighbour
        window = noisy[i, :, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].flatten(1).T
        assert (window == seen[0][i, :, y, x]).all(dim=1).any()
    again, _ = objective(
        network, batch(noisy[1:], first=1), 5
    )  # a function of seed, step and index
    assert torch.equal(seen[1], seen[0][1:])
    assert again != loss


def test_noise2noise_swaps_the_takes():
    a, b = torch.zeros(64, 1, 2, 2), torch.ones(64, 1, 2, 2)
    seen: list[torch.Tensor] = []

    def network(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(inputs["image"])
        return inputs

    loss, _ = Noise2Noise(criterion("mse", 0), seed=0)(network, batch(a, b), 0)
    assert loss.item() == 1.0  # output one take, target the other
    assert 16 < seen[0].mean(dim=(1, 2, 3)).sum() < 48  # of 64 coins: four standard deviations


def test_sure_estimates_the_error_it_cannot_see():
    """For the linear f(y) = w y: mean error = (w - 1)^2 mean(x^2) + w^2 s^2."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(4, 1, 200, 200, generator=generator)
    s = 25.0 / 255
    noisy = clean + s * torch.randn(clean.shape, generator=generator)
    n = clean.numel()
    for w in (0.0, 0.6, 1.0):
        loss, _ = Sure(seed=0)(lambda x, w=w: {"image": w * x["image"]}, batch(noisy), 0)
        estimate = loss.item()
        error = (w - 1) ** 2 * clean.square().mean().item() + w**2 * s**2
        # deviations of the terms of (w - 1)^2 mean(y^2) - s^2 + 2 s^2 w mean(b^2): noise and probe
        spread = (w - 1) ** 2 * (4 * s**2 / 3 + 2 * s**4) ** 0.5 + 2 * s**2 * w * 2**0.5
        assert abs(estimate - error) < 5 * spread / n**0.5 + 1e-4


# ---- noisy files only

NOISY_ONLY = [
    "data.sigma=25", "model.options={width = 24, depth = 4}", "run.steps=200", "run.batch_size=4",
    "data.crop=32", "validation.images=0", "optimiser.clip_norm=0.2", "run.log_every=200",
    "run.checkpoint_every=200",
]  # fmt: skip


@pytest.fixture
def noisy_files(workplace):
    """Noisy takes a/*.png and b/*.png of the images in images/."""
    rng = np.random.default_rng(0)
    for take in "ab":
        Path(take).mkdir()
        for file in sorted(Path("images").glob("*.png")):
            clean = np.asarray(Image.open(file)).astype(float) * 0.6 + 50  # away from black, white
            noisy = clean + rng.normal(0, 25, clean.shape)
            Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(f"{take}/{file.name}")
    config = Path("config.toml").read_text()
    config = config.replace("[noise]\nsigma_min = 25.0\nsigma_max = 25.0\n", "")
    Path("config.toml").write_text(config)


def gain(model_path: Path) -> float:
    """dB won on noise that was never trained on."""
    model, values = load_checkpoint(model_path), []
    rng = np.random.default_rng(1)
    for file in sorted(Path("images").glob("*.png")):
        clean = torch.from_numpy(np.asarray(Image.open(file)) * 0.6 + 50)[None, None].float() / 255
        noisy = clean + torch.from_numpy(rng.normal(0, 25 / 255, clean.shape)).float()
        with torch.inference_mode():
            values.append((psnr(model(noisy, 25.0), clean) - psnr(noisy, clean)).item())
    return sum(values) / len(values)


@pytest.mark.rotates()
@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.target=noise2noise", "data.train=.", 'data.pairs=["a/*.png", "b/*.png"]'],
        ["loss.target=blind_spot", "data.train=a"],
        ["loss.target=sure", "data.train=a"],
    ],
    ids=["noise2noise", "blind_spot", "sure"],
)
def test_noisy_files_alone_teach_a_network_to_denoise(noisy_files, overrides):
    result = train(load_config("config.toml", [*NOISY_ONLY, *overrides]))
    assert gain(result.model_path) > 2.0  # the untrained network: below 0


def test_the_same_network_without_training_does_not(noisy_files):
    """What the bound above is worth: the noisy image as its own target teaches to pass it on."""
    overrides = ["data.train=.", 'data.pairs=["a/*.png", "a/*.png"]', "run.steps=100"]
    result = train(load_config("config.toml", [*NOISY_ONLY, *overrides]))
    assert gain(result.model_path) < 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.target=sure", "validation.images=0"], "data.sigma must be > 0"),
        (["loss.target=sure", "data.sigma=9", "run.precision=bf16"], "run.precision 'fp32'"),
        (["loss.target=noise2noise"], "data.pairs is required by loss.target 'noise2noise'"),
        (["loss.target=blind_spot"], "validation.images must be 0 for loss.target 'blind_spot'"),
        (
            ["loss.target=blind_spot", "loss.name=ssim", "validation.images=0"],
            "no 'ssim', got 16 and 'ssim'",
        ),
        (["loss.target=blind_spot", "noise.sigma_max=9"], "noise is only added to clean files"),
        (['data.pairs=["*.png"]'], "data: pairs must be two patterns"),
        (["data.part=[0.5, 0.5]"], "data: part must be [from, to]"),
        (["data.scales=[0.5]"], "data: scales must begin with 1.0"),
        (["loss.name=l2"], "loss.name: got 'l2'; input should be 'mse', 'l1'"),
        (["model.name="], "model: name (a registered model) or start"),
        (["optimiser.ema=1"], "optimiser.ema: got 1"),
    ],
)
def test_configurations_that_do_not_fit(noisy_files, overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config("config.toml", overrides)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
