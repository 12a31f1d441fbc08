"""VideoDenoiser: frames of any kind in their order, scene cuts, noise level, what is refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from command_line import BACKEND, run
from PIL import Image
from recurrent import SIGMA, expected, network, pushed, scene
from torch import Tensor

import denoise_ext
from denoise_ext.io.video import read_video
from denoise_ext.models import create_model, save_model
from denoise_ext.tasks import VideoDenoiser
from denoise_ext.tasks.frame_noise import sigma_of_frames
from denoise_ext.tasks.scene_cuts import changed_share, reduced
from denoise_ext.tasks.video_denoiser import LEAD_IN


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_get_what_the_network_gives_the_clip(channels):
    model, frames = network(channels), scene(5).expand(-1, channels, -1, -1)
    denoiser = VideoDenoiser(model, sigma=SIGMA)
    got = pushed(denoiser, frames)
    torch.testing.assert_close(got, expected(model, frames), rtol=1e-4, atol=1e-4)
    assert denoiser.frames == 5 and denoiser.sigma == SIGMA
    assert denoiser.flush() == []


def test_a_gray_network_takes_colour_in_three_planes():
    """Brightness and two differences, each with the deviation that white noise of RGB has there."""
    model, frames = (
        network(),
        scene(5).expand(-1, 3, -1, -1) * torch.tensor([0.9, 0.7, 0.5]).reshape(3, 1, 1),
    )
    red, green, blue = frames.split(1, 1)
    wanted = [
        expected(model, (red + green + blue) / 3, SIGMA / 3**0.5),
        expected(model, (red - blue) / 2 + 0.5, SIGMA / 2**0.5) - 0.5,
        expected(model, (red - 2 * green + blue) / 4 + 0.5, SIGMA * 6**0.5 / 4) - 0.5,
    ]
    brightness, first, second = wanted
    rgb = [brightness + first + 2 / 3 * second, brightness - 4 / 3 * second]
    rgb.append(brightness - first + 2 / 3 * second)
    got = pushed(VideoDenoiser(model, sigma=SIGMA, scene_cut="off"), frames)
    torch.testing.assert_close(got, torch.cat(rgb, 1), rtol=1e-4, atol=1e-4)
    tiled = pushed(VideoDenoiser(model, sigma=SIGMA, scene_cut="off", tile=256), frames)
    torch.testing.assert_close(tiled, got, rtol=1e-4, atol=1e-4)


def test_the_default_takes_gray_and_colour():
    for frames in (scene(2), scene(2).expand(-1, 3, -1, -1)):
        named = pushed(VideoDenoiser("rdxnet_s_gray", sigma=SIGMA), frames)
        assert torch.equal(pushed(VideoDenoiser(sigma=SIGMA), frames), named)
        small = pushed(VideoDenoiser("rdxnet_xs_gray", sigma=SIGMA), frames)
        assert torch.equal(pushed(VideoDenoiser("rdxnet_xs", sigma=SIGMA), frames), small)
        assert not torch.equal(small, named)


def test_reset_forgets():
    model, frames = network(), scene(4)
    denoiser = VideoDenoiser(model, sigma=SIGMA)
    first = pushed(denoiser, frames)
    denoiser.reset()
    assert torch.equal(pushed(denoiser, frames), first)
    denoiser.reset()
    assert denoiser.push(frames[0, :, :40]).shape == (1, 40, 80)  # of another size


def test_every_kind_comes_back_as_it_was():
    gray = scene(2).clamp(0, 1)
    pixels = (gray[:, 0] * 255).byte().numpy()
    colour = np.repeat(pixels[..., None], 3, axis=-1)
    alpha = np.concatenate([colour, pixels[..., None] // 2], axis=-1)
    for frames, channels in (
        (pixels, 1),
        (pixels.astype(np.uint16) * 257, 1),
        (gray[:, 0].numpy(), 1),
        (colour, 3),
        (alpha, 3),
        ([Image.fromarray(x) for x in colour], 3),
    ):
        denoiser = VideoDenoiser(network(channels), sigma=SIGMA)
        for frame in frames:
            result = denoiser.push(frame)
            assert type(result) is type(frame)
            before, after = np.asarray(frame), np.asarray(result)
            assert after.shape == before.shape and after.dtype == before.dtype
            assert not np.array_equal(after, before)
            if before.shape[-1] == 4:
                assert np.array_equal(after[..., 3], before[..., 3])


def test_strength_blends():
    model, frames = network(), scene(3)
    whole = pushed(VideoDenoiser(model, sigma=SIGMA), frames)
    half = pushed(VideoDenoiser(model, sigma=SIGMA, strength=0.5), frames)
    torch.testing.assert_close(half, (frames + whole) / 2, rtol=1e-5, atol=1e-6)
    assert torch.equal(pushed(VideoDenoiser(model, sigma=SIGMA, strength=0), frames), frames)


def test_the_noise_level_is_estimated_and_follows():
    denoiser = VideoDenoiser(network(), scene_cut="off")
    quiet, loud = scene(9, size=(96, 96), sigma=10.0), scene(17, size=(96, 96), sigma=30.0)
    pushed(denoiser, quiet)
    before = denoiser.sigma
    assert before == pytest.approx(10.0, abs=2.0)
    pushed(denoiser, loud)
    assert before + 2 < denoiser.sigma < 30


def smooth_noise(sigma: float, frames: int = 10) -> Tensor:
    """Of a camera that smooths it: (T, 3, 96, 96), sigma all the same."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(frames, 3, 98, 98, generator=generator)
    return sigma / 255 * torch.nn.functional.avg_pool2d(noise, 3, 1) * 3


def test_the_level_of_correlated_noise_is_that_of_two_frames():
    clean = scene(10, size=(96, 96), sigma=0.0).expand(-1, 3, -1, -1)
    denoiser = VideoDenoiser(network(3), scene_cut="off")
    noisy = clean + smooth_noise(12.0)
    denoiser.push(noisy[0])
    first = denoiser.sigma
    pushed(denoiser, noisy[1:])
    assert first < 8.0  # the highest frequencies have little of it
    assert denoiser.sigma == pytest.approx(12.0, rel=0.15)


@pytest.mark.parametrize("native", [True, False])
def test_sigma_of_two_frames(native):
    white = scene(2, size=(96, 112), sigma=15.0)
    assert sigma_of_frames(white[1:], white[:1], 15.0, native) == pytest.approx(15.0, rel=0.08)
    still = scene(1, size=(96, 112), sigma=0.0)
    assert sigma_of_frames(still, still, 15.0, native) == 0.0
    assert sigma_of_frames(white[1:, :, :40, :40], white[:1, :, :40, :40], 15.0, native) is None


def test_repeated_frames_keep_the_level_of_one():
    frame = scene(1, size=(96, 96), sigma=20.0)[0]
    denoiser = VideoDenoiser(network())
    for _ in range(3):
        denoiser.push(frame)
    assert denoiser.sigma == pytest.approx(20.0, abs=2.0)


def test_a_frame_that_is_measured_later_is_a_copy():
    frames = scene(2, size=(96, 96))
    wanted, got = (VideoDenoiser(network(), scene_cut="off") for _ in range(2))
    pushed(wanted, frames)
    memory = frames[0].clone()
    got.push(memory, value_range=(0, 1))
    memory.copy_(frames[1])
    got.push(memory, value_range=(0, 1))
    assert got.sigma == wanted.sigma


# ---- scene cuts


def test_a_cut_begins_anew():
    model = network()
    frames = torch.cat([scene(4), scene(3, seed=5)])
    denoiser = VideoDenoiser(model, sigma=SIGMA)
    got = pushed(denoiser, frames)
    torch.testing.assert_close(got[4:], expected(model, frames[4:]), rtol=1e-4, atol=1e-4)
    kept = pushed(VideoDenoiser(model, sigma=SIGMA, scene_cut="off"), frames)
    torch.testing.assert_close(kept, expected(model, frames), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(got[4], kept[4], atol=1e-3)


def share_of(frame: torch.Tensor, last: torch.Tensor, sigma: float, native: bool = True) -> float:
    return changed_share(reduced(frame), reduced(last), sigma, native)


@pytest.mark.parametrize("sigma", [5.0, 20.0, 40.0])
def test_the_share_of_changed_blocks_tells_cuts_from_motion(sigma):
    clean, noisy = scene(4, size=(128, 160), sigma=0.0), scene(4, size=(128, 160), sigma=sigma)
    other = scene(4, seed=7, size=(128, 160), sigma=sigma)
    moving = share_of(noisy[3:], clean[2:3], sigma)
    still = share_of(noisy[2:3], clean[2:3], sigma)
    cut = share_of(other[:1], clean[2:3], sigma)
    assert still < 0.2 and moving < 0.35
    assert share_of(noisy[3:], clean[2:3], sigma, native=False) == moving
    assert cut > 0.6
    flat = torch.full((1, 1, 128, 160), 0.5)
    noise = sigma / 255 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))
    assert share_of(flat + noise, flat, sigma) < 0.1
    assert share_of(0.2 + noise, flat, sigma) > 0.9


def test_small_frames_have_no_blocks():
    for shape in ((1, 1, 31, 90), (1, 3, 3, 90)):
        assert share_of(torch.zeros(shape), torch.ones(shape), 0.0) == 0.0


def test_frames_of_a_few_pixels():
    denoiser = VideoDenoiser(network(), sigma=SIGMA)
    assert [denoiser.push(torch.rand(1, 3, 2)).shape for _ in range(2)] == [(1, 3, 2)] * 2


# ---- what is refused


def test_a_bad_frame_is_named_and_leaves_the_state(recwarn):
    model, frames = network(), scene(4)
    denoiser = VideoDenoiser(model, sigma=SIGMA)
    got = [denoiser.push(frame) for frame in frames[:2]]
    bad = frames[2].clone()
    bad[0, 3, 3] = torch.nan
    for frame, text in (
        (bad, "frame 2.*NaN"),
        (frames[2, :, :40], r"frame 2.*\(1, 40, 80\)"),
        (frames[2].expand(3, -1, -1), "frame 2.*3"),
        (frames[None, 2].expand(2, -1, -1, -1), "frame 2"),
        ("no such file.png", "no such file"),
    ):
        with pytest.raises(ValueError, match=text):
            denoiser.push(frame)
    with pytest.raises(TypeError, match="frame 2"):
        denoiser.push(None)
    got += [denoiser.push(frame) for frame in frames[2:]]
    torch.testing.assert_close(torch.stack(got), expected(model, frames), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options, name",
    [
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"sigma": "5"}, "sigma"),
        ({"strength": 1.5}, "strength"),
        ({"scene_cut": 0}, "scene_cut"),
        ({"scene_cut": "on"}, "scene_cut"),
        ({"scene_cut": 1.5}, "scene_cut"),
        ({"backend": "numpy"}, "backend"),
    ],
)
def test_bad_options_are_named(options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        VideoDenoiser(network(), **options)


def test_networks_that_do_not_fit_are_named():
    still = create_model("ffdnet_gray_small").eval()
    with pytest.raises(TypeError, match="recurrent"):
        VideoDenoiser(still).push(scene(1)[0])
    with pytest.raises(ValueError, match=r"3 channels.*1"):
        VideoDenoiser(network(3), sigma=SIGMA).push(scene(1)[0])


# ---- over time


def test_hundreds_of_frames_neither_drift_nor_grow():
    model, still = network(), scene(1, sigma=0.0)[0]
    denoiser = VideoDenoiser(model, sigma=SIGMA)
    generator, errors = torch.Generator().manual_seed(2), []
    for _ in range(300):
        noisy = still + SIGMA / 255 * torch.randn(still.shape, generator=generator)
        errors.append(float((denoiser.push(noisy) - still).square().mean()))
    early, late = np.mean(errors[50:150]), np.mean(errors[200:])
    assert late == pytest.approx(early, rel=0.1)
    # the state: last output, average and level; a sixteenth of a frame to compare with
    assert denoiser.memory() == 3 * 64 * 80 * 4 + 16 * 20 * 4


def test_calls_of_threads_queue():
    model, frames = network(), scene(1).expand(6, -1, -1, -1)
    denoiser = VideoDenoiser(model, sigma=SIGMA)
    made: list[Tensor] = []
    threads = [
        threading.Thread(target=lambda: made.append(denoiser.push(frames[0]))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = expected(model, frames)
    assert len(made) == 6 and denoiser.frames == 6
    for result in wanted:  # each once, in whatever order
        assert min(float((result - other).abs().max()) for other in made) < 1e-4


# ---- command line


def test_the_command_uses_a_recurrent_checkpoint(tmp_path, capsys):
    av = pytest.importorskip("av")
    frames = (scene(5).clamp(0, 1)[:, 0] * 255).byte().numpy()
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "gray"
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "gray")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    model = network()
    save_model(model, tmp_path / "net.safetensors", torch.float32)
    arguments = ["video", str(tmp_path / "in.mkv"), str(tmp_path / "out.mkv")]
    chosen = ["--model", str(tmp_path / "net.safetensors"), "--sigma", "20", *BACKEND]
    code, out, err = run(capsys, *arguments, *chosen)
    assert code == 0, err
    assert "5 frames" in out
    denoiser = denoise_ext.VideoDenoiser(model, sigma=SIGMA, lead_in=LEAD_IN)
    with read_video(tmp_path / "in.mkv") as video, read_video(tmp_path / "out.mkv") as result:
        given = list(video)
        made = [denoiser.push(frame.picture()) for frame in given] + denoiser.flush()
        pictures = [picture for picture in made if picture is not None]
        for before, picture, after in zip(given, pictures, result, strict=True):
            wanted = before.with_picture(picture)
            assert np.array_equal(wanted.planes[0], after.planes[0])
    code, _, err = run(capsys, *arguments, *chosen, "--tile", "40", "--overwrite")
    assert code == 2 and err.startswith("denoise-ext: error: frame 0: a tile of 40 pixels")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(precision):
    """The shipped network, whose forward makes constants that stay float32."""
    frames = np.random.default_rng(0).random((3, 48, 64), np.float32)
    exact, half = (
        VideoDenoiser("rdxnet_s_gray", sigma=20, precision=name) for name in ("default", precision)
    )
    for frame in frames:
        one, other = exact.push(frame), half.push(frame)
        assert other.dtype == np.float32
        # bfloat16 has steps of 1/256 below 1: a few of them
        assert np.sqrt(np.mean((one - other) ** 2)) < 0.01
