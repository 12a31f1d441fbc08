"""Noise of clips: one camera for all frames, noise of each frame of its own, H.264."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from training_tools import workplace as workplace

from denoise_ext.data.noise import add_clip_noise_chain, add_h264_artefacts, add_noise_chain
from denoise_ext.data.noise.pipeline import STEP_KINDS
from denoise_ext.metrics import psnr
from denoise_ext.training import ConfigError, load_config, train

FRAMES = 6


def still(channels: int = 3, side: int = 64) -> Tensor:
    """(T, C, side, side): one picture again and again."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    picture = 0.5 + 0.3 * torch.sin(x / 5.0) * torch.cos(y / 9.0)
    return picture.expand(FRAMES, channels, -1, -1).contiguous()


def luma(clip: Tensor) -> Tensor:
    """ITU-R BT.601, which swscale takes for films without a matrix."""
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    return clip if clip.shape[1] == 1 else (clip * weights).sum(1, keepdim=True)


def camera(**options: object):
    return STEP_KINDS["photo"](kind="photo", white=0.0, clean=0.0, jpeg=0.0, **options)


@pytest.mark.parametrize("index", range(6))
def test_frames_share_the_camera_and_not_its_noise(index):
    clean = still()
    noisy, level = add_clip_noise_chain(clean, [camera(shot_min=1e-3)], seed=3, step=5, index=index)
    noise = (noisy - clean).flatten(1)
    deviations = noise.std(1)
    # 12288 values a frame, correlated over a few pixels: some hundred free ones at least
    assert deviations.max() < 1.35 * deviations.min()
    assert level == pytest.approx(255.0 * float(noise.square().mean().sqrt()), rel=1e-5)
    # what clips and rounds the picture is common to the frames; what is random is not
    random = noise - noise.mean(0)
    expected = -1.0 / (FRAMES - 1)  # of numbers less their mean over the frames
    correlation = np.corrcoef(random.numpy())[np.triu_indices(FRAMES, 1)]
    assert np.abs(correlation - expected).max() < 0.2


def test_images_of_a_batch_have_cameras_of_their_own():
    noisy, _ = add_noise_chain(still(), [camera()], seed=3, step=5)
    deviations = (noisy - still()).flatten(1).std(1)
    assert deviations.max() > 2 * deviations.min()


def test_a_clip_is_a_function_of_seed_step_and_index():
    steps = [camera(), STEP_KINDS["gaussian"](kind="gaussian", sigma_max=9.0)]
    first, level = add_clip_noise_chain(still(), steps, 1, 2, 3)
    again, same = add_clip_noise_chain(still(), steps, 1, 2, 3)
    assert torch.equal(first, again) and level == same
    for seed, step, index in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(add_clip_noise_chain(still(), steps, seed, step, index)[0], first)


def test_the_strength_is_common_to_the_frames():
    step = STEP_KINDS["gaussian"](kind="gaussian", sigma_min=0.0, sigma_max=50.0)
    for index in range(5):
        noisy, level = add_clip_noise_chain(still(), [step], 0, 0, index)
        each = 255.0 * (noisy - still()).flatten(1).std(1)
        # 12288 numbers: their deviation is known within 0.7 %, five times that is allowed
        assert (each / level - 1).abs().max() < 0.035


@pytest.mark.parametrize("channels", [1, 3])
def test_h264(channels):
    pytest.importorskip("av")
    generator = torch.Generator().manual_seed(0)
    clip = still(channels, 63)
    noisy = (clip + 0.06 * torch.randn(clip.shape, generator=generator)).clamp(0, 1)
    made = {crf: add_h264_artefacts(noisy, crf) for crf in (1, 23, 40)}
    assert all(x.shape == clip.shape and x.dtype == clip.dtype for x in made.values())
    closeness = [float(psnr(x, noisy).mean()) for x in made.values()]
    assert closeness == sorted(closeness, reverse=True)
    # luma: levels of 255 / 219, and quantisation of about as much; chroma is halved
    assert float(psnr(luma(made[1]), luma(noisy)).mean()) > 40
    assert torch.equal(add_h264_artefacts(noisy, 23), made[23])
    # frames are predicted from one another: their noise is alike afterwards
    rest = (made[40] - clip).flatten(1).numpy()
    assert np.corrcoef(rest)[0, 1] > 0.3
    for bad, error in ((52, "crf"), (-1, "crf")):
        with pytest.raises(ValueError, match=error):
            add_h264_artefacts(noisy, bad)
    with pytest.raises(ValueError, match="channels"):
        add_h264_artefacts(noisy[:, :1].expand(-1, 2, -1, -1), 20)


CONFIG = """
[task]
name = "video_denoising"
[data]
train = "images"
channels = 3
crop = 16
frames = 3
[[noise.chain]]
kind = "photo"
[[noise.chain]]
kind = "h264"
probability = 0.5
[model]
name = "rdxnet_s_color"
options = { widths = [4, 6], blocks = [1, 1] }
[loss]
name = "psnr"
[schedule]
peak = 2e-3
warmup_steps = 1
[validation]
images = 1
crop = 32
frames = 10
every = 2
[run]
out = "run"
steps = 4
batch_size = 2
threads = 1
device = "cpu"
tensorboard = "off"
"""


def test_training_with_a_chain(workplace):
    pytest.importorskip("av")
    (workplace / "video.toml").write_text(CONFIG)
    result = train(load_config("video.toml", []))
    assert result.finished and set(result.validation) == {"chain"}
    with pytest.raises(ConfigError, match=r"photo.*channels.*1"):
        load_config("video.toml", ["data.channels=1"])
    with pytest.raises(ConfigError, match=r"h264.*video_denoising"):
        load_config("video.toml", ["task.name=image_denoising"])
