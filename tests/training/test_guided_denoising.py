"""The training task of guided networks: pairs, made-up scenes, disturbances, held-out pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from denoise_ext.data.aligned import AlignedPairs
from denoise_ext.data.layers import _ALIKE, LayeredScenes
from denoise_ext.io import write_image
from denoise_ext.metrics import psnr
from denoise_ext.metrics.protocol import inputs_of, targets_of
from denoise_ext.models import load_checkpoint
from denoise_ext.resampling import enlargement, imresize
from denoise_ext.training import ConfigError, load_config, train
from denoise_ext.training.distributed import Processes
from denoise_ext.training.guided_denoising import GuidedCrops, HeldOutPairs
from denoise_ext.training.losses import mse, rmse
from denoise_ext.training.task import INDEX

CONFIG = """
[task]
name = "guided_denoising"
[data]
crop = 16
cache = "off"
[[data.sources]]
train = "pairs"
pairs = ["depth/*.png", "photo/*.png"]
enlarged = 0.5
[[data.sources]]
train = "images"
layered = true
enlarged = 0.5
[noise]
sigma_min = 5.0
sigma_max = 40.0
[guide]
factors = [4]
contrast = 0.0
[model]
name = "dxnet_s_guided"
options = {widths = [8, 16], blocks = [1, 1], guide_width = 4}
[loss]
name = "rmse"
[schedule]
peak = 2e-3
warmup_steps = 2
[validation]
images = 2
crop = 32
sigmas = [10.0, 25.0]
every = 20
[run]
out = "run"
steps = 40
batch_size = 4
threads = 1
device = "cpu"
tensorboard = "off"
"""
PLAIN = ["guide.wrong=0.0", "guide.missing=0.0", "guide.shifted=0.0"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    for name in ("pairs/depth", "pairs/photo", "images"):
        Path(name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(5):
        rows, columns = np.mgrid[:72, :80]
        inside = np.hypot(rows - 30 - index, columns - 40) < 20
        depth = np.where(inside, 900, 2000 + 3 * rows).astype(np.uint16)
        photo = np.where(inside[..., None], (200, 60, 90), (30, 120, 160))
        photo = (photo + rng.normal(0, 8, photo.shape)).clip(0, 255).astype(np.uint8)
        write_image(f"pairs/depth/{index}.png", depth)
        write_image(f"pairs/photo/{index}.png", photo)
        write_image(f"images/{index}.png", rng.integers(0, 256, (64, 70, 3), dtype=np.uint8))
    Path("config.toml").write_text(CONFIG)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def config(*overrides: str):
    return load_config("config.toml", list(overrides))


def one() -> Processes:
    return Processes(0, 1)


def test_images_keep_their_contrast_or_are_stretched(place):
    files = [(Path("pairs/depth/0.png"), Path("pairs/photo/0.png"))]
    image, guide = AlignedPairs(files).draw(np.random.default_rng(0), 72)
    assert image.shape == (72, 72) and guide.shape == (72, 72, 3)
    assert image.min() == 0 and image.max() == 1 and 0 < guide.mean() < 1
    write_image("pairs/depth/0.png", np.full((72, 80), 51, np.uint8), overwrite=True)
    image, _ = AlignedPairs(files).draw(np.random.default_rng(0), 72)
    np.testing.assert_allclose(image, 0.2, atol=1e-6)
    write_image("pairs/depth/0.png", np.zeros((72, 81), np.uint8), overwrite=True)
    with pytest.raises(ValueError, match=r"photo/0\.png is 80 x 72.*81 x 72"):
        AlignedPairs(files)


def test_edges_of_made_up_depth_are_edges_of_its_picture():
    colours = np.random.default_rng(1).integers(0, 256, (40, 3))
    flat = [np.broadcast_to(c, (64, 64, 3)).astype(np.uint8) for c in colours]
    scenes = LayeredScenes(flat)
    found = []
    for seed in range(8):
        depth, guide = scenes.draw(np.random.default_rng(seed), 64)
        again = scenes.draw(np.random.default_rng(seed), 64)[0]
        np.testing.assert_array_equal(depth, again)
        assert depth.min() == 0 and depth.max() == pytest.approx(1)
        jumps = np.abs(np.diff(depth, axis=1)) > 0.2
        steps = np.abs(np.diff(guide, axis=1)).max(-1)
        found.append((steps[jumps], np.median(steps)))
    jumps = np.concatenate([steps for steps, _ in found])
    assert len(jumps) > 200 and all(flat == 0 for _, flat in found)
    # some surfaces have the picture of the one behind, hardly brighter
    assert (jumps > 0.01).mean() > 1 - _ALIKE


def test_a_crop_is_a_function_of_step_and_index(place):
    whole = GuidedCrops(config(), one()).batch(5)
    parts = [
        GuidedCrops(config("run.batch_size=2"), Processes(rank, 2)).batch(5) for rank in (0, 1)
    ]
    for key, value in whole.items():
        assert torch.equal(torch.cat([part[key] for part in parts]), value), key
    assert whole[INDEX].tolist() == [0, 1, 2, 3]
    assert inputs_of(whole)["guide"].shape == (4, 3, 16, 16)


def test_noise_has_its_level_and_enlarged_images_have_none(place):
    sample = GuidedCrops(config("run.batch_size=64"), one()).batch(0)
    image, target = inputs_of(sample)["image"], targets_of(sample)["image"]
    error = (image - target).flatten(1).std(1) * 255
    enlarged = sample["sigma"] == 0
    assert 16 < int(enlarged.sum()) < 48  # of 64, half each: four standard deviations
    # the standard deviation of 256 numbers is off by 4.4 %, so four times that
    torch.testing.assert_close(error[~enlarged], sample["sigma"][~enlarged], rtol=0.18, atol=0)
    torch.testing.assert_close(inputs_of(sample)["noise_map"].flatten(), sample["sigma"] / 255)


def test_enlarged_crops_are_those_of_the_whole_window(place):
    """The small image's pixels lie as they do in a whole image: the first begins at the edge."""
    made = GuidedCrops(config("noise.sigma_max=5.0", "run.batch_size=32", *PLAIN), one())
    assert made.margin % 4 == 0 and made.side % 4 == 0
    image = torch.rand(1, 1, made.side, made.side, dtype=torch.float64)
    by_hand = imresize(imresize(image, 1 / 4), 4)
    matrix = enlargement(made.side, 4)
    torch.testing.assert_close(matrix @ image @ matrix.T, by_hand)
    # outside the margin the result does not depend on the window's edge
    other = image.clone()
    other[..., : made.margin - 16 - 1, :] = 0.0
    rest = (matrix @ other @ matrix.T)[..., made.margin :, :]
    torch.testing.assert_close(rest, by_hand[..., made.margin :, :])


def test_guides_are_disturbed(place):
    plain = inputs_of(GuidedCrops(config(*PLAIN, "run.batch_size=16"), one()).batch(2))["guide"]
    for key in ("wrong", "missing", "shifted"):
        changed = [f"guide.{other}=0.0" for other in ("wrong", "missing", "shifted")]
        changed[("wrong", "missing", "shifted").index(key)] = f"guide.{key}=1.0"
        sample = GuidedCrops(config(*changed, "run.batch_size=16"), one()).batch(2)
        guide = inputs_of(sample)["guide"]
        assert not torch.equal(guide, plain)
        assert (key == "missing") == (not guide.any())
    same = GuidedCrops(config("guide.shift=0", "run.batch_size=16", *PLAIN), one()).batch(2)
    assert inputs_of(same)["guide"].shape == plain.shape


def test_validation_measures_each_kind(place):
    crops = GuidedCrops(config(), one())
    assert len(crops.pool.held_out) == 2
    validator = HeldOutPairs(config(), crops.pool)
    assert validator.labels == (10.0, 25.0, "25 with a wrong guide", "x4")
    values, pictures = validator(lambda x: {"image": x["image"] + 0 * x["noise_map"]}, keep=1)
    # that of the noise is 28.13 dB; where black or white is clipped, half of its square is left
    assert 28.0 < values[10.0]["psnr"] < 31.2
    assert values[25.0] == values["25 with a wrong guide"]  # the same noise
    pair = crops.pool.held_out
    expected = [
        psnr(imresize(imresize(p.image, 1 / 4), 4).clamp(0, 1), p.image).item() for p in pair
    ]
    assert values["x4"]["psnr"] == pytest.approx(sum(expected) / 2, abs=1e-3)
    assert pictures[0].shape == (1, 3, 32, 128)
    guides = [[s["inputs.guide"] for s in validator.samples(x)] for x in validator.labels[1:3]]
    assert torch.equal(guides[0][0], guides[1][1]) and torch.equal(guides[0][1], guides[1][0])


def test_factors_that_do_not_divide_the_held_out_pairs(place):
    settings = config("guide.factors=[3]")
    validator = HeldOutPairs(settings, GuidedCrops(settings, one()).pool)
    values, _ = validator(lambda x: {"image": x["image"]})
    cut = [pair.image[..., :30, :30] for pair in validator.pairs]  # of 32
    expected = [psnr(imresize(imresize(x, 1 / 3), 3).clamp(0, 1), x).item() for x in cut]
    assert values["x3"]["psnr"] == pytest.approx(sum(expected) / 2, abs=1e-3)


def test_one_pair_alone_has_no_wrong_guide(place):
    settings = config("validation.images=1")
    validator = HeldOutPairs(settings, GuidedCrops(settings, one()).pool)
    assert validator.labels == (10.0, 25.0, "x4")


def test_held_out_pairs_have_pixels(place):
    with pytest.raises(ValueError, match=r"validation\.crop.*16 x 16.*crop of 12"):
        GuidedCrops(config("validation.crop=12"), one())


def test_it_learns_and_continues(place):
    result = train(config())
    assert result.finished and set(result.validation) == {10.0, 25.0, "25 with a wrong guide", "x4"}
    assert load_checkpoint("run/model.safetensors").config["guide_width"] == 4
    stopped = train(config("run.out=again", "run.minutes=1e-9"))
    assert not stopped.finished
    assert train(config("run.out=again")).validation == result.validation


def test_rmse_is_the_mean_of_the_images():
    x = torch.zeros(2, 1, 4, 4)
    y = torch.stack([torch.full((1, 4, 4), 0.3), torch.full((1, 4, 4), 0.1)])
    assert rmse(x, y).item() == pytest.approx(0.2, abs=1e-5)
    assert mse(x, y).item() == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.name=dxnet_s_gray", "dxnet_s_gray.*takes no guide"),
        ("data.crop=18", r"data\.crop.*4.*18"),
        ("data.crop=48", "smaller than the window|no image has"),
        ("model.options={widths=[8, 16], blocks=[1, 1], guide_channels=1}", "1 and 1 channels"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(place, override, named):
    options = [override] if "options" in override else [override, "model.options={}"]
    with pytest.raises(ConfigError, match=named):
        train(config(*options))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["task.name=image_denoising"], "guide needs task"),
        (
            ["task.name=image_upscaling", "guide.factors=[4,8]", "guide.contrast=0.5"],
            "sources.pairs",
        ),
        (["data.channels=3"], "channels 1"),
        (["guide.wrong=0.8", "guide.shifted=0.3"], "at most 1"),
        (["guide.factors=[1]"], r"guide\.factors"),
        (["data.sources=[{train='pairs'}]"], "either pairs"),
        (["data.sources=[{train='pairs', pairs=['a*', 'b*'], layered=true}]"], "either pairs"),
        (["data.sources=[{train='images', layered=true, scales=[0.5]}]"], "no scales"),
        (["data.sources=[]", "data.train='images'"], "needs data.sources"),
        (["loss.target=sure"], "clean files"),
        (["data.augment=false"], r"data\.augment.*False"),
        (["data.sampling=area"], r"data\.sampling.*area"),
        (["data.normalise=stretch"], r"data\.normalise.*stretch"),
        (
            ["task.name=image_upscaling", "guide.factors=[4,8]", "guide.contrast=0.5",
             "data.sources=[{train='images', enlarged=0.5}]"],
            "enlarged",
        ),
    ],
)  # fmt: skip
def test_wrong_configurations(place, overrides, named):
    with pytest.raises(ConfigError, match=named):
        config(*overrides)
