"""VideoDenoiser on films with subsampled chroma: planes as they are stored, their noise levels."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from recurrent import SIGMA, network, scene

from denoise_ext.io.video import Colour, VideoFrame
from denoise_ext.tasks import VideoDenoiser

# name -> columns and rows that share a number of chroma
SHARED = {"420": (2, 2), "422": (2, 1), "411": (4, 1), "444": (1, 1)}
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


def film(
    kind: str = "420",
    frames: int = 5,
    size: tuple[int, int] = (64, 80),
    bits: int = 8,
    matrix: int = 6,
    sigma: float = SIGMA,
) -> list[VideoFrame]:
    """A scene in each plane, with noise of the same number of levels."""
    right, down = SHARED[kind]
    small = -(-size[0] // down), -(-size[1] // right)
    colour = Colour("ycbcr", bits, False, matrix)
    dtype, most = (np.uint8 if bits == 8 else np.uint16), (1 << bits) - 1
    clips = [scene(frames, seed, side, sigma) for seed, side in ((0, size), (1, small), (2, small))]
    planes = [(clip[:, 0] * 160 + 40) / 255 * most for clip in clips]
    stored = [plane.round().clamp(0, most).numpy().astype(dtype) for plane in planes]
    return [
        VideoFrame(tuple(plane[t] for plane in stored), colour, t, Fraction(1, 25))
        for t in range(frames)
    ]


def numbers(frames: list[VideoFrame]) -> list[np.ndarray]:
    """The planes of a film (T, H, W) in float64, as H.273 defines Y', Cb and Cr."""
    bits = frames[0].colour.bits
    step = 1 << (bits - 8)
    scales = ((16 * step, 219 * step), (128 * step, 224 * step), (128 * step, 224 * step))
    return [
        (np.stack([frame.planes[i] for frame in frames]).astype(np.float64) - zero) / span
        for i, (zero, span) in enumerate(scales)
    ]


def gains(coefficients: tuple[float, float], pixels: int) -> list[float]:
    """The noise of Y', Cb and Cr for white noise of 1 in RGB: the textbook's sums of squares."""
    kr, kb = coefficients
    kg = 1 - kr - kb
    luma = kr**2 + kg**2 + kb**2
    blue = (kr**2 + kg**2 + (1 - kb) ** 2) / (2 * (1 - kb)) ** 2
    red = ((1 - kr) ** 2 + kg**2 + kb**2) / (2 * (1 - kr)) ** 2
    return [math.sqrt(luma), math.sqrt(blue / pixels), math.sqrt(red / pixels)]


def in_double(plane: np.ndarray, offset: float, sigma: float) -> np.ndarray:
    """A plane (T, H, W) by the network in float64, one clip by itself."""
    model = network().double()
    frames = torch.from_numpy(plane + offset)[:, None]
    made = []
    state = model.initial_state({"image": frames[:1]})
    level = torch.full((1, 1, 1, 1), sigma / 255, dtype=torch.float64)
    with torch.inference_mode():
        for frame in frames:
            inputs = {"image": frame[None], "noise_map": level}
            outputs, state = model.compute_any_size(inputs, state)
            made.append(outputs["image"][0, 0])
    return torch.stack(made).numpy() - offset


@pytest.mark.parametrize(
    "kind, size, bits, matrix",
    [("420", (64, 80), 8, 6), ("420", (51, 67), 10, 1), ("422", (40, 56), 8, 1),
     ("411", (40, 70), 8, 6)],
)  # fmt: skip
def test_planes_are_denoised_as_they_are_stored(kind, size, bits, matrix):
    frames = film(kind, 4, size, bits, matrix)
    pixels = math.prod(SHARED[kind])
    levels = [SIGMA * gain for gain in gains(BT601 if matrix == 6 else BT709, pixels)]
    wanted = [
        in_double(plane, offset, level)
        for plane, offset, level in zip(numbers(frames), (0.0, 0.5, 0.5), levels)
    ]
    denoiser = VideoDenoiser(network(), sigma=SIGMA, scene_cut="off")
    assert denoiser.takes_planes(frames[0])
    step = 1 << (bits - 8)
    for t, frame in enumerate(frames):
        result = denoiser.push(frame)
        assert (result.pts, result.colour) == (frame.pts, frame.colour)
        for i, (zero, span) in enumerate(((16, 219), (128, 224), (128, 224))):
            exact = (wanted[i][t] * span + zero) * step
            assert result.planes[i].dtype == frame.planes[i].dtype
            # half a level by rounding; 1e-4 of the span by float32 and the kernels
            error = np.abs(result.planes[i] - exact.clip(0, (1 << bits) - 1))
            assert error.max() < 0.5 + 1e-4 * span * step
    assert denoiser.sigma == SIGMA


def test_planes_of_full_size_and_rgb_stay_pictures():
    frames = film("444", 3)
    denoiser, pictures = (VideoDenoiser(network(), sigma=SIGMA) for _ in range(2))
    assert not denoiser.takes_planes(frames[0])
    for frame in frames:
        wanted = frame.with_picture(pictures.push(frame.picture()))
        same(denoiser.push(frame), wanted)


def test_a_colour_network_takes_the_picture():
    frames = film("420", 2)
    denoiser, pictures = (VideoDenoiser(network(3), sigma=SIGMA) for _ in range(2))
    assert not denoiser.takes_planes(frames[0])
    for frame in frames:
        same(denoiser.push(frame), frame.with_picture(pictures.push(frame.picture())))


def same(one: VideoFrame, other: VideoFrame) -> None:
    for a, b in zip(one.planes, other.planes, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_what_is_not_denoised_stays_bit_for_bit(bits):
    frames = film("420", 3, (51, 67), bits)
    denoiser = VideoDenoiser(network(), sigma=SIGMA, strength=0)
    for frame in frames:
        same(denoiser.push(frame), frame)


def test_each_plane_has_its_own_level():
    """Noise of one number of levels in all planes, which white noise of RGB would not leave."""
    frames = film("420", 10, (192, 256), sigma=0.0)
    rng = np.random.default_rng(0)
    noisy = []
    for frame in frames:
        planes = tuple(
            (plane + s * rng.standard_normal(plane.shape)).round().clip(0, 255).astype(np.uint8)
            for plane, s in zip(frame.planes, (4.0, 9.0, 15.0))
        )
        noisy.append(VideoFrame(planes, frame.colour, frame.pts, frame.time_base))
    denoiser = VideoDenoiser(network(), scene_cut="off")
    for frame in noisy:
        denoiser.push(frame)
    levels = denoiser._scene.levels
    wanted = [255 / 219 * 4.0, 255 / 224 * 9.0, 255 / 224 * 15.0]
    # 5 %: what `frame_noise` states of white noise; rounding adds a twelfth of a level squared
    assert levels == pytest.approx(wanted, rel=0.07)
    exact = gains(BT601, 4)
    assert denoiser.sigma == pytest.approx(math.hypot(*wanted) / math.hypot(*exact), rel=0.07)


def test_noise_of_rgb_is_measured_as_what_the_planes_have():
    """White noise of RGB before chroma is subsampled: the level that `sigma` would state."""
    rng = np.random.default_rng(1)
    frames = [
        frame.with_picture(
            frame.picture() + 12 / 255 * rng.standard_normal((192, 256, 3)).astype(np.float32)
        )
        for frame in film("420", 4, (192, 256), sigma=0.0)
    ]
    denoiser = VideoDenoiser(network(), scene_cut="off")
    for frame in frames:
        denoiser.push(frame)
    assert denoiser.sigma == pytest.approx(12.0, rel=0.07)
    assert denoiser._scene.levels == pytest.approx([12 * x for x in gains(BT601, 4)], rel=0.1)


def test_tiles_equal_the_whole():
    frames = film("420", 3, (330, 400))
    whole = VideoDenoiser(network(), sigma=SIGMA, tile=None)
    tiled = VideoDenoiser(network(), sigma=SIGMA, tile=232)
    for frame in frames:
        for a, b in zip(whole.push(frame).planes, tiled.push(frame).planes):
            # results within 1e-4 may be rounded apart
            assert np.abs(a.astype(int) - b).max() <= 1 and np.mean(a != b) < 0.01
    grids = tiled._runs[3]._grids
    assert [len(grid) > 1 for grid in grids.values()] == [True, False]


@pytest.mark.parametrize("lead_in", [0, 2])
def test_a_cut_begins_anew(lead_in):
    first, second = film("420", 4), film("420", 3, sigma=SIGMA)
    other = [
        VideoFrame(tuple(255 - p for p in f.planes), f.colour, f.pts, f.time_base) for f in second
    ]
    cut = VideoDenoiser(network(), sigma=SIGMA, lead_in=lead_in)
    got = [x for x in (cut.push(f) for f in [*first, *other]) if x is not None] + cut.flush()
    wanted = []
    for part in (first, other):
        alone = VideoDenoiser(network(), sigma=SIGMA, lead_in=lead_in)
        wanted += [x for x in (alone.push(f) for f in part) if x is not None] + alone.flush()
    assert len(got) == 7
    for a, b in zip(got, wanted, strict=True):
        same(a, b)


def test_a_film_without_colour_keeps_its_chroma():
    gray = [
        VideoFrame(
            (f.planes[0], *2 * [np.full((96, 128), 128, np.uint8)]), f.colour, 0, f.time_base
        )
        for f in film("420", 4, (192, 256))
    ]
    denoiser = VideoDenoiser("rdxnet_s_gray")
    for frame in gray:
        result = denoiser.push(frame)
        assert not np.array_equal(result.planes[0], frame.planes[0])
        assert all((plane == 128).all() for plane in result.planes[1:])


def test_memory_is_bounded():
    frames = film("420", 3)
    denoiser = VideoDenoiser(network(), sigma=SIGMA)
    for frame in frames:
        denoiser.push(frame)
    pixels = 64 * 80 + 2 * 32 * 40
    assert denoiser.memory() == 3 * pixels * 4 + 16 * 20 * 4


def test_other_planes_are_refused_and_leave_the_state():
    frames = film("420", 3)
    denoiser, wanted = (VideoDenoiser(network(), sigma=SIGMA) for _ in range(2))
    denoiser.push(frames[0])
    for bad in (film("422", 1)[0], film("420", 1, (64, 96))[0], frames[1].picture()):
        with pytest.raises(ValueError, match=r"frame 1: frame must have the size of those before"):
            denoiser.push(bad)
    with pytest.raises(ValueError, match="frame 1: value_range"):
        denoiser.push(frames[1], value_range=(0, 1))
    wanted.push(frames[0])
    same(denoiser.push(frames[1]), wanted.push(frames[1]))


def test_frames_too_small_to_measure_stay_pictures():
    small = film("420", 2, (14, 40))
    denoiser = VideoDenoiser(network())
    assert not denoiser.takes_planes(small[0])
    assert [denoiser.push(frame).planes[1].shape for frame in small] == [(7, 20)] * 2
