"""VideoDenoiser with networks that look ahead, in tiles, and over 10 000 frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recurrent import SIGMA, all_of, around_a_bad_frame, expected, network, pushed, scene

from denoise_ext.models.fastdvdnet import FastDVDnet
from denoise_ext.models.rdxnet import RDXNet
from denoise_ext.tasks import VideoDenoiser


def ahead(channels: int = 1) -> FastDVDnet:
    """A narrow network that looks two frames ahead, with random weights."""
    model = FastDVDnet(channels, widths=(6, 8, 10), frame_width=4)
    model.initialise(torch.Generator().manual_seed(channels))
    return model.eval()


# ---- networks that look ahead


@pytest.mark.rotates()
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_results_are_late_and_equal_those_of_the_whole_clip(frames, channels):
    model, clip = ahead(channels), scene(frames).expand(-1, channels, -1, -1)
    denoiser = VideoDenoiser(model, sigma=SIGMA)
    assert denoiser.delay == 0
    made = all_of(denoiser, clip)
    assert denoiser.delay == 2 and denoiser.frames == frames
    torch.testing.assert_close(torch.stack(made), expected(model, clip), rtol=1e-4, atol=1e-4)
    assert denoiser.flush() == []
    torch.testing.assert_close(torch.stack(all_of(denoiser, clip)), torch.stack(made))


@pytest.mark.rotates()
@pytest.mark.parametrize("lengths", [(6, 5), (6, 1, 5), (6, 2, 2, 4), (1, 1, 1, 1, 1)])
def test_no_scene_looks_into_another(lengths):
    model = ahead()
    scenes = [scene(count, seed=11 * i, size=(96, 128)) for i, count in enumerate(lengths)]
    denoiser = VideoDenoiser(model, sigma=SIGMA, scene_cut=0.4)
    made = torch.stack(all_of(denoiser, torch.cat(scenes)))
    wanted = torch.cat([expected(model, clip) for clip in scenes])
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)
    uncut = VideoDenoiser(model, sigma=SIGMA, scene_cut="off")
    kept = torch.stack(all_of(uncut, torch.cat(scenes)))
    torch.testing.assert_close(kept, expected(model, torch.cat(scenes)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(kept, wanted, atol=1e-3)


def test_frames_that_wait_keep_their_kind_and_alpha():
    pixels = (scene(5).clamp(0, 1)[:, 0] * 255).byte().numpy()
    frames = np.stack([pixels, pixels, pixels, pixels // 2], axis=-1)
    denoiser = VideoDenoiser(ahead(3), sigma=SIGMA)
    made = [*filter(lambda x: x is not None, map(denoiser.push, frames)), *denoiser.flush()]
    assert len(made) == 5
    for before, after in zip(frames, made, strict=True):
        assert after.dtype == np.uint8 and after.shape == before.shape
        assert np.array_equal(after[..., 3], before[..., 3])
        assert not np.array_equal(after, before)


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_caller_may_use_its_memory_again(kind):
    model, frames = ahead(), scene(6)
    denoiser, buffer, made = VideoDenoiser(model, sigma=SIGMA), frames[0, 0].clone(), []
    for frame in frames[:, 0]:
        buffer.copy_(frame)
        made.append(denoiser.push(buffer if kind == "tensor" else buffer.numpy()))
    buffer.zero_()
    made = [torch.as_tensor(result) for result in [*made, *denoiser.flush()] if result is not None]
    wanted = expected(model, frames)[:, 0]
    torch.testing.assert_close(torch.stack(made), wanted, rtol=1e-4, atol=1e-4)


def test_a_bad_frame_among_those_that_wait():
    model, frames = ahead(), scene(6)
    got = around_a_bad_frame(VideoDenoiser(model, sigma=SIGMA), frames, 3)
    torch.testing.assert_close(got, expected(model, frames), rtol=1e-4, atol=1e-4)


def test_memory_is_constant():
    model, frames = ahead(), scene(12)
    denoiser = VideoDenoiser(model, sigma=SIGMA)
    assert denoiser.memory() == 0
    sizes = []
    for frame in frames:
        denoiser.push(frame)
        sizes.append(denoiser.memory())
    assert len(set(sizes[3:])) == 1
    # two frames and two results of the first stage, three frames to repeat, and a sixteenth of one
    # to compare with
    assert sizes[-1] == (4 + 3) * 64 * 80 * 4 + 16 * 20 * 4


def test_one_frame_of_look_ahead():
    model = RDXNet(1, widths=(4, 6), blocks=(1, 1), look_ahead=True)
    model.initialise(torch.Generator().manual_seed(1))
    for frames in (1, 2, 5):
        clip, denoiser = scene(frames), VideoDenoiser(model.eval(), sigma=SIGMA)
        made = torch.stack(all_of(denoiser, clip))
        assert denoiser.delay == 1
        torch.testing.assert_close(made, expected(model, clip), rtol=1e-4, atol=1e-4)


# ---- tiles


@pytest.mark.rotates()
@pytest.mark.parametrize("tile", [256, 290])
@pytest.mark.parametrize("kind", ["narrow", "rdxnet_xs", "look_ahead", "ahead"])
def test_tiles_equal_the_whole(tile, kind):
    model: torch.nn.Module = ahead() if kind == "ahead" else network()
    if kind in ("rdxnet_xs", "look_ahead"):
        options = {"look_ahead": True} if kind == "look_ahead" else {"unshuffle": 4}
        model = RDXNet(1, widths=(6, 8), blocks=(1, 1), **options)
        model.initialise(torch.Generator().manual_seed(3))
    frames = scene(5, size=(300, 413))
    whole = VideoDenoiser(model.eval(), sigma=SIGMA, tile=None, scene_cut="off")
    tiled = VideoDenoiser(model.eval(), sigma=SIGMA, tile=tile, scene_cut="off")
    ours, theirs = torch.stack(all_of(tiled, frames)), torch.stack(all_of(whole, frames))
    grid = tiled._run._grid(frames[:1])
    assert len(grid) > 1
    # Sums in another order alone: a seam would be as large as the noise, 0.08.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_memory_limit_makes_tiles():
    frames = scene(2, size=(256, 520))
    tiled = VideoDenoiser(network(), sigma=SIGMA, max_memory=12_000_000)
    whole = VideoDenoiser(network(), sigma=SIGMA)
    torch.testing.assert_close(pushed(tiled, frames), pushed(whole, frames), rtol=1e-5, atol=1e-5)
    assert len(tiled._run._grid(frames[:1])) > 1 == len(whole._run._grid(frames[:1]))
    with pytest.raises(ValueError, match=r"frame 0.*max_memory"):
        VideoDenoiser(network(), sigma=SIGMA, max_memory=1000).push(frames[0])
    with pytest.raises(ValueError, match=r"frame 0.*20"):
        VideoDenoiser(network(), sigma=SIGMA, tile=20).push(frames[0])
    with pytest.raises((TypeError, ValueError), match="tile"):
        VideoDenoiser(network(), tile=-1)


# ---- over time


@pytest.mark.slow
@pytest.mark.rotates(turn=3, turns=16)
def test_ten_thousand_frames_do_not_drift():
    model, still = network(), scene(1, size=(32, 48), sigma=0.0)[0]
    denoiser = VideoDenoiser(model, sigma=SIGMA)
    generator, errors, sizes = torch.Generator().manual_seed(2), [], set()
    for number in range(10_000):
        noisy = still + SIGMA / 255 * torch.randn(still.shape, generator=generator)
        result = denoiser.push(noisy)
        errors.append(float((result - still).square().mean()))
        if number:
            sizes.add(denoiser.memory())
    early, late = (-10 * np.log10(np.mean(part)) for part in (errors[60:160], errors[-100:]))
    assert late == pytest.approx(early, abs=0.05)
    assert np.isfinite(errors).all() and len(sizes) == 1
