"""Camera noise for training, stage by stage: each against what its formula says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError

from denoise_ext.data.noise import (
    NoiseStep,
    PhotoNoise,
    add_jpeg_artefacts,
    add_noise_chain,
    add_photo_noise,
    in_camera,
    mosaic,
    photo,
    tone,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_image(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded(), dtype=dtype)


def step(**options: object) -> NoiseStep:
    return TypeAdapter(NoiseStep).validate_python({"kind": "photo", **options})


# ---- light and colours


def test_tone_curves_undo_each_other():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(tone.inverse_tone_curve(tone.tone_curve(x)), x, rtol=0, atol=1e-7)
    torch.testing.assert_close(tone.linear_to_srgb(tone.srgb_to_linear(x)), x, rtol=0, atol=1e-6)
    assert tone.tone_curve(torch.tensor(0.25)).item() == pytest.approx(3 / 16 - 2 / 64)
    assert tone.tone_curve(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 1.0]


def test_sensors_leave_gray_gray():
    mix = torch.eye(tone.SENSORS, dtype=torch.float64)
    matrices = tone.sensor_matrices(mix)
    torch.testing.assert_close(matrices.sum(dim=2), torch.ones(4, 3, dtype=torch.float64))
    assert torch.linalg.cond(matrices).max() < 20  # every one can be undone
    gray = random_image(4, 1, 3, 5).expand(4, 3, 3, 5)
    torch.testing.assert_close(tone.mix_channels(gray, matrices), gray)
    blend = tone.sensor_matrices(torch.full((1, 4), 0.25, dtype=torch.float64))
    assert (blend - matrices).abs().max() > 0.01


# ---- mosaic


def reference_malvar(plane: torch.Tensor) -> torch.Tensor:
    """(H, W) -> (3, H, W): the paper's "bilinear plus gain times Laplacian", pixel by pixel.

    Gains: 1/2 for green, 5/8 for red and blue at green, 3/4 for red at blue and blue at red.
    """
    height, width = plane.shape
    padded = F.pad(plane[None, None], (2,) * 4, mode="reflect")[0, 0]
    result = torch.empty(3, height, width, dtype=plane.dtype)
    for y in range(height):
        for x in range(width):
            near = lambda dy, dx, y=y, x=x: padded[y + 2 + dy, x + 2 + dx]  # noqa: E731
            cross = [(-1, 0), (1, 0), (0, -1), (0, 1)]
            far = sum(near(2 * dy, 2 * dx) for dy, dx in cross) / 4
            corners = sum(near(dy, dx) for dy in (-1, 1) for dx in (-1, 1)) / 4
            here = near(0, 0)
            own = 1 if (y + x) % 2 else (0 if y % 2 == 0 else 2)
            result[own, y, x] = here
            if own != 1:
                result[1, y, x] = sum(near(*c) for c in cross) / 4 + 0.5 * (here - far)
                result[2 - own, y, x] = corners + 0.75 * (here - far)
                continue
            beside = 0 if y % 2 == 0 else 2
            for channel, along in ((beside, 1), (2 - beside, 0)):
                a, b = ((0, -1), (0, 1)) if along else ((-1, 0), (1, 0))
                c, d = ((0, -2), (0, 2)) if along else ((-2, 0), (2, 0))
                e, f = ((-2, 0), (2, 0)) if along else ((0, -2), (0, 2))
                nine = here - (near(*c) + near(*d) + 4 * corners - 0.5 * (near(*e) + near(*f))) / 5
                result[channel, y, x] = (near(*a) + near(*b)) / 2 + 0.625 * nine
    return result


def test_malvar_is_the_papers():
    plane = random_image(8, 10)
    found = mosaic.demosaic_malvar(plane[None, None])[0]
    torch.testing.assert_close(found, reference_malvar(plane), rtol=0, atol=1e-12)


@pytest.mark.parametrize("demosaic", [mosaic.demosaic_malvar, mosaic.demosaic_bilinear])
def test_demosaicing_is_linear_and_keeps_planes(demosaic):
    y, x = torch.meshgrid(*(torch.arange(12.0, dtype=torch.float64),) * 2, indexing="ij")
    plane = (0.3 * y - 0.2 * x)[None, None]
    inside = (..., slice(2, -2), slice(2, -2))
    expected = plane.expand(1, 3, 12, 12)[inside]
    torch.testing.assert_close(demosaic(plane)[inside], expected, rtol=0, atol=1e-12)
    image = random_image(1, 3, 12, 12)
    sites = mosaic.to_mosaic(image)
    full = demosaic(sites)
    torch.testing.assert_close(full[:, 0, ::2, ::2], image[:, 0, ::2, ::2])
    torch.testing.assert_close(full[:, 1, ::2, 1::2], image[:, 1, ::2, 1::2])
    torch.testing.assert_close(full[:, 2, 1::2, 1::2], image[:, 2, 1::2, 1::2])
    torch.testing.assert_close(demosaic(sites + plane), full + demosaic(plane))


def test_bilinear_halves_or_quarters_the_variance():
    noise = torch.randn(1, 1, 400, 400, generator=seeded(), dtype=torch.float64)
    full = mosaic.demosaic_bilinear(noise)
    for place, variance in {
        (0, 0, 0): 1.0, (0, 0, 1): 0.5, (0, 1, 1): 0.25, (1, 0, 0): 0.25, (2, 0, 0): 0.25
    }.items():  # fmt: skip
        channel, row, column = place
        values = full[0, channel, row::2, column::2]
        # neighbours share photosites: of n values at least n / 4 are independent
        assert abs(values.var().item() - variance) < 5 * variance * math.sqrt(8 / values.numel())


def test_odd_sizes_have_no_pattern():
    with pytest.raises(ValueError, match="even height and width"):
        mosaic.to_mosaic(torch.zeros(1, 3, 8, 7))


# ---- in the camera


def test_blur_is_a_convolution_with_reflected_borders():
    noise, sigma = random_image(2, 3, 17, 20), torch.tensor([0.6, 2.1], dtype=torch.float64)
    found = in_camera.blur(noise, sigma)
    for image, result, s in zip(noise, found, sigma, strict=True):
        reach = math.ceil(2.5 * s)  # of this image, whatever the others have
        places = torch.arange(-reach, reach + 1, dtype=torch.float64)
        taps = torch.exp(-places.square() / (2 * s * s))
        taps = taps / taps.sum()
        kernel = torch.outer(taps, taps)[None, None]
        padded = F.pad(image[:, None], (reach,) * 4, mode="reflect")
        expected = F.conv2d(padded, kernel)[:, 0]
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_smoothing_takes_luma_and_colour_apart():
    noise = torch.randn(2, 3, 32, 32, generator=seeded(), dtype=torch.float64)
    narrow, none, whole = (torch.full((2,), v, dtype=torch.float64) for v in (1.0, 0.0, 1.0))
    torch.testing.assert_close(in_camera.smooth(noise, narrow, narrow, none, none), noise)
    blurred = in_camera.smooth(noise, narrow, narrow, whole, whole)
    torch.testing.assert_close(blurred, in_camera.blur(noise, narrow))
    before = in_camera.to_luma_chroma(noise)
    after = in_camera.to_luma_chroma(in_camera.smooth(noise, narrow, narrow, none, whole))
    torch.testing.assert_close(after[:, :1], before[:, :1])
    torch.testing.assert_close(after[:, 1:], in_camera.blur(before[:, 1:], narrow))


def test_colour_noise_fades():
    noise = torch.randn(2, 3, 16, 16, generator=seeded(), dtype=torch.float64)
    before = in_camera.to_luma_chroma(noise)
    after = in_camera.to_luma_chroma(in_camera.fade_chroma(noise, torch.tensor([1.0, 0.25])))
    torch.testing.assert_close(after[:, 0], before[:, 0])
    torch.testing.assert_close(after[1, 1:], 0.75 * before[1, 1:])
    assert after[0, 1:].abs().max() < 1e-12


def test_some_pictures_have_luma_noise_alone():
    image = torch.full((300, 3, 16, 16), 0.5)
    draws = photo.Draws(image, seeded())
    noise = photo.camera_processing(
        torch.randn(image.shape, generator=seeded(1)) * 0.05, draws, PhotoNoise(smoothed=0.0)
    )
    chroma = in_camera.rms(in_camera.to_luma_chroma(noise)[:, 1:])
    alone = (chroma < 1e-6).sum().item()
    assert abs(alone - 300 / 8) < 5 * math.sqrt(300 / 8 * 7 / 8)


def test_luma_is_that_of_jpeg():
    white, red = torch.ones(1, 3, 1, 1), torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    assert in_camera.to_luma_chroma(white).flatten().tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert in_camera.to_luma_chroma(red).flatten().tolist() == pytest.approx(
        [0.299, -0.168736, 0.5]
    )


def test_strength_is_set():
    noise = torch.randn(3, 3, 24, 24, generator=seeded(), dtype=torch.float64)
    noise[2] = 0
    luma, chroma = torch.tensor([0.02, 0.01, 0.03]), torch.tensor([0.0, 0.005, 0.01])
    parts = in_camera.to_luma_chroma(in_camera.set_strength(noise, luma, chroma))
    found = in_camera.rms(parts[:, :1]), in_camera.rms(parts[:, 1:])
    torch.testing.assert_close(found[0][:2], luma[:2].double())
    torch.testing.assert_close(found[1][:2], chroma[:2].double(), rtol=1e-6, atol=1e-12)
    assert not parts[2].any()


def test_sharpening_and_enlarging():
    noise = torch.randn(2, 3, 20, 21, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(in_camera.sharpen(noise, torch.zeros(2)), noise)
    flat = torch.full_like(noise, 0.3)
    torch.testing.assert_close(in_camera.sharpen(flat, torch.full((2,), 0.6)), flat)
    assert in_camera.sharpen(noise, torch.full((2,), 0.6)).var() > 1.3 * noise.var()
    one, two = in_camera.enlarge(noise, torch.tensor([1.0, 2.0])).split(1)
    torch.testing.assert_close(one, noise[:1])
    middle = noise[1:, :, 5:15, 5:16]
    torch.testing.assert_close(two, F.interpolate(middle, (20, 21), mode="bilinear"))


# ---- the whole


def test_the_sensors_noise_has_its_variance_at_its_own_sites():
    raw = torch.full((40, 3, 64, 64), 0.25, dtype=torch.float64)
    shot, read = torch.full((40,), 4e-4).double(), torch.full((40,), 1e-5).double()
    draws = photo.Draws(raw, seeded(1))
    noise = photo.demosaiced_noise(raw, shot, read, draws)
    variance = 4e-4 * 0.25 + 1e-5
    for channel, row, column in ((0, 0, 0), (1, 0, 1), (2, 1, 1)):
        values = noise[:, channel, row::2, column::2]
        error = 5 * variance * math.sqrt(2 / values.numel())
        assert abs(values.var().item() - variance) < error
    # green at red: Malvar (4^2 + 4 * 2^2 + 4) / 8^2 of the variance, bilinear a quarter, else all
    found = noise[:, 1, ::2, ::2].var(dim=(1, 2)) / variance
    near = [((found - part).abs() < 0.15).sum().item() for part in (0.5625, 0.25, 1.0)]
    assert sum(near) == 40
    for count, share in zip(near, (0.6, 0.25, 0.15), strict=True):
        assert abs(count - 40 * share) < 4 * math.sqrt(40 * share * (1 - share))


def test_what_is_clipped_stays_clipped():
    white = torch.ones(4, 3, 32, 32)
    noise = photo.sensor_noise(white, photo.Draws(white, seeded()), PhotoNoise(shot_min=0.01))
    assert noise.max() <= 1e-4  # nothing above white
    assert noise.min() < -0.05


def test_a_black_level_that_is_too_high_darkens_the_shadows():
    """By that part of the read noise in half of the pictures, in light; and nowhere else."""
    dark = torch.full((200, 3, 16, 16), 0.2, dtype=torch.float64)
    found = []
    for black in (0.0, 2.0):
        options = PhotoNoise(shot_min=1e-6, shot_max=1e-6, black=black)
        found.append(photo.sensor_noise(dark, photo.Draws(dark, seeded()), options))
    difference = (found[1] - found[0]).mean(dim=(1, 2, 3))
    assert abs((difference < 0).sum().item() - 100) < 5 * math.sqrt(200 * 0.25)
    assert (difference <= 1e-12).all()
    # read noise exp((2.18 log 1e-6 + 1.2) / 2), twice that, times gains up to 2.4 * 1.3, times
    # the slope of sRGB, 1.055 / 2.4 * light^(1 / 2.4 - 1) at 0.2, and of the tone curve, 1.5
    deviation = math.exp((2.18 * math.log(1e-6) + 1.2) / 2)
    light = ((0.2 + 0.055) / 1.055) ** 2.4
    slope = 1.055 / 2.4 * light ** (1 / 2.4 - 1)
    most = 2 * deviation * math.exp(3 * 0.26 / 2) * 2.4 * 1.3 * slope * 1.5
    assert -most < difference.min() < -0.1 * most


def test_camera_pictures_are_stored_in_8_bits():
    image = random_image(16, 3, 33, 47, dtype=torch.float32)
    noisy = add_photo_noise(image, PhotoNoise(white=0.0, clean=0.0, jpeg=0.0), seeded())
    levels = noisy * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert noisy.min() >= 0 and noisy.max() <= 1
    assert ((noisy - image).flatten(1).abs().amax(dim=1) > 1.5 / 255).all()


def test_shares_of_white_and_clean():
    image = (random_image(400, 3, 16, 16) * 255).round() / 255
    noisy = add_photo_noise(image, PhotoNoise(white=0.0, clean=0.25, jpeg=0.0), seeded())
    same = (noisy == image).flatten(1).all(dim=1).sum().item()
    assert abs(same - 100) < 5 * math.sqrt(400 * 0.25 * 0.75)
    white = add_photo_noise(image, PhotoNoise(white=1.0, clean=0.0, jpeg=0.0), seeded())
    sigma = (white - image).flatten(1).std(dim=1) * 255
    assert sigma.min() < 3 and 45 < sigma.max() < 54
    assert (white < 0).any() and (white > 1).any()  # not clipped


def test_smoothed_noise_has_the_luma_that_was_asked_for():
    image = torch.full((24, 3, 96, 96), 0.5)
    options = PhotoNoise(white=0, clean=0, jpeg=0, smoothed=1, luma_min=6, luma_max=6)
    noise = add_photo_noise(image, options, seeded()) - image
    luma = in_camera.rms(in_camera.to_luma_chroma(noise)[:, :1]) * 255
    plain = luma[(luma - 6).abs() < 0.2]  # sharpening and enlarging come after
    assert len(plain) >= 8
    next_to = (noise[..., 1:] * noise[..., :-1]).mean(dim=(1, 2, 3))
    correlation = next_to / noise.square().mean(dim=(1, 2, 3))
    assert correlation.min() > 0.3 and correlation.median() > 0.6


def test_photo_noise_of_an_image_does_not_depend_on_its_batch():
    image = random_image(5, 3, 32, 40, dtype=torch.float32)
    whole, level = add_noise_chain(image, [step()], seed=3, step=7)
    part, part_level = add_noise_chain(image[3:], [step()], seed=3, step=7, first=3)
    torch.testing.assert_close(part, whole[3:], rtol=0, atol=1e-6)
    torch.testing.assert_close(part_level, level[3:], rtol=1e-5, atol=1e-5)
    again, _ = add_noise_chain(image, [step()], seed=3, step=7)
    assert torch.equal(again, whole)
    other, _ = add_noise_chain(image, [step()], seed=3, step=8)
    assert not torch.equal(other, whole)


def test_what_photo_noise_refuses():
    for shape in ((1, 1, 32, 32), (1, 3, 15, 32)):
        with pytest.raises(ValueError, match=r"3 channels.*16 x 16"):
            add_photo_noise(torch.zeros(shape))
    with pytest.raises(ValidationError, match=r"white \+ clean must be <= 1"):
        step(white=0.7, clean=0.4)
    with pytest.raises(ValidationError, match=r"luma_max.*>= luma_min"):
        step(luma_min=5.0, luma_max=4.0)


def test_jpeg_can_keep_colour_at_full_resolution():
    stripes = torch.zeros(2, 3, 16, 16)
    stripes[:, 0, :, ::2], stripes[:, 2, :, 1::2] = 1.0, 1.0  # red and blue columns
    halved = torch.tensor([True, False])
    errors = (add_jpeg_artefacts(stripes, 95, halved) - stripes).square().mean(dim=(1, 2, 3))
    assert errors[0] > 10 * errors[1]
    torch.testing.assert_close(
        add_jpeg_artefacts(stripes, 95)[0], add_jpeg_artefacts(stripes, 95, True)[0]
    )
