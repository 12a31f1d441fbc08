"""PSNR and SSIM of a denoising method on one image, under a stated protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data.noise import add_gaussian_noise
from denoise_ext.io.channels import to_gray, without_alpha
from denoise_ext.metrics import psnr, ssim
from denoise_ext.metrics.protocol import Sample, as_sample, inputs_of, measure, targets_of
from denoise_ext.metrics.ssim import WINDOW
from denoise_ext.tasks.value_range import from_unit, to_unit

# noisy image (1, C, H, W), sigma on the 0-255 scale or None -> denoised image of the same shape
Method = Callable[[Tensor, float | None], Tensor]


@dataclass(frozen=True)
class Protocol:
    """Everything besides model, images and sigma that influences the figures.

    Example:
        >>> protocol = denoise_ext.tasks.Protocol(seed=1, round_output=False)
        >>> clean = denoise_ext.io.read_image("photo.png")
        >>> scores = denoise_ext.tasks.evaluate_image(denoise_ext.Denoiser(), clean, 25.0, protocol)
    """

    seed: int = 0
    """The noise generator is seeded with this anew for every image."""
    clip_noisy: bool = False
    """Clip the noisy image to the range of the image before it is denoised."""
    round_output: bool = True
    """Round the denoised image to the levels of the file (8 or 16 bits)."""
    crop: int = 0
    """Border in pixels left out of the measurement, on each side."""
    gray: bool = False
    """Turn colour images into gray ones first: ITU-R 601 luma, rounded to the file's type."""
    pairs: bool = False
    """The noise is in the files: noisy images and their clean partners."""

    def describe(self) -> list[str]:
        """Describe the protocol, one fact per line."""
        if self.pairs:
            noise = [
                "noise: that of the files; sigma is the level that the network gets (auto, null in"
                " JSON: estimated for each image)"
            ]
        else:
            noise = [
                f"noise: white Gaussian, torch CPU generator in float32, seed {self.seed} anew for"
                " every image",
                f"noisy input: {'' if self.clip_noisy else 'not '}clipped to the image range,"
                " not rounded",
            ]
        return [
            *noise,
            "output: clipped to the image range, "
            + ("rounded to the file's 8 or 16 bits" if self.round_output else "not rounded"),
            f"border left out: {self.crop} pixels",
            "colour images: "
            + (
                "turned into gray (ITU-R 601 luma)"
                if self.gray
                else "measured in RGB, PSNR over all channels together, SSIM as their mean"
            ),
            "averages: mean of the images' figures",
        ]


@dataclass(frozen=True)
class Scores:
    """Quality before and after, PSNR in dB.

    Example:
        >>> clean = np.full((48, 64), 128, np.uint8)
        >>> scores = denoise_ext.tasks.evaluate_image(denoise_ext.Denoiser(), clean, sigma=25.0)
        >>> scores.psnr > scores.noisy_psnr, sorted(scores.as_dict())
        (True, ['noisy_psnr', 'noisy_ssim', 'psnr', 'ssim'])
    """

    noisy_psnr: float
    noisy_ssim: float
    psnr: float
    ssim: float

    def as_dict(self) -> dict[str, float]:
        """Name -> figure."""
        return asdict(self)


def clean_pixels(pixels: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the pixels that are measured: without alpha, and gray if the protocol is.

    Example:
        >>> rgba = np.zeros((8, 8, 4), np.uint8)
        >>> denoise_ext.tasks.clean_pixels(rgba, denoise_ext.tasks.Protocol(gray=True)).shape
        (8, 8)
    """
    pixels = without_alpha(pixels)
    if protocol.gray and pixels.ndim == 3:
        pixels = to_gray(pixels)
    return np.ascontiguousarray(pixels)


def evaluate_image(
    method: Method, pixels: np.ndarray, sigma: float, protocol: Protocol = Protocol()
) -> Scores:
    """Add noise to a clean image, denoise it, measure.

    Args:
        method: a `Denoiser`, or any function of a noisy image and sigma that denoises. The image
            is (1, C, H, W), float32, channels_last, in [0, 1] but for the noise. The result has its
            shape. Make a `Denoiser` once for all images and noise levels.
        pixels: (H, W) or (H, W, C), uint8 or uint16; prepared with `clean_pixels`.
        sigma: standard deviation of the noise on the 0-255 scale; `method` gets it too.
        protocol: see `Protocol`.

    Raises:
        ValueError: the method does not fit the image, or the image (less the border) is too
            small for SSIM's 11 x 11 window.

    Example:
        >>> clean = denoise_ext.io.read_image("photo.png")
        >>> def nothing(x, sigma):
        ...     return x
        >>> scores = denoise_ext.tasks.evaluate_image(nothing, clean, sigma=25.0)
        >>> round(scores.noisy_psnr)
        20
    """
    stored = _as_batch(pixels)
    sample = as_sample({}, {"image": to_unit(stored)})
    noise = _WhiteNoise(protocol, sigma)
    return _scores(method, sample, sigma, protocol, stored.dtype, noise)


def evaluate_pair(
    method: Method,
    noisy: np.ndarray,
    clean: np.ndarray,
    sigma: float | None,
    protocol: Protocol = Protocol(),
) -> Scores:
    """Denoise a noisy image whose clean partner is known, measure.

    Args:
        method: as for `evaluate_image`.
        noisy, clean: (H, W) or (H, W, C), uint8 or uint16, of one shape and dtype; prepared with
            `clean_pixels`.
        sigma: the noise level that `method` gets, on the 0-255 scale. None: a `Denoiser` estimates
            the level. No noise is added.
        protocol: its border and its rounding; the rest is about synthetic noise.

    Raises:
        ValueError: the images differ in shape or dtype, or as `evaluate_image`.

    Example:
        >>> clean = np.full((48, 64), 128, np.uint8)
        >>> noise = 25 * np.random.default_rng(0).standard_normal(clean.shape)
        >>> noisy = (clean + noise).clip(0, 255).astype(np.uint8)
        >>> denoiser = denoise_ext.Denoiser()
        >>> scores = denoise_ext.tasks.evaluate_pair(denoiser, noisy, clean, sigma=25.0)
        >>> scores.psnr > scores.noisy_psnr
        True
    """
    if noisy.shape != clean.shape or noisy.dtype != clean.dtype:
        raise ValueError(
            f"noisy and clean must be alike, got {noisy.shape} {noisy.dtype} and "
            f"{clean.shape} {clean.dtype}"
        )
    stored, reference = (_as_batch(pixels) for pixels in (noisy, clean))
    sample = _sample(to_unit(stored), to_unit(reference))
    return _scores(method, sample, sigma, protocol, stored.dtype)


def _as_batch(pixels: np.ndarray) -> Tensor:
    """(H, W) or (H, W, C) -> (1, C, H, W), values as stored."""
    stored = torch.from_numpy(pixels.copy())
    return stored[None, None] if pixels.ndim == 2 else stored.permute(2, 0, 1)[None]


def _sample(noisy: Tensor, clean: Tensor) -> Sample:
    """The layout that `evaluate_image` states."""
    layout = torch.channels_last
    return as_sample({"image": noisy.contiguous(memory_format=layout)}, {"image": clean})


@dataclass(frozen=True)
class _WhiteNoise:
    """The degradation of clean images; see `metrics.protocol`."""

    protocol: Protocol
    sigma: float

    def degrade(self, sample: Sample) -> Sample:
        """The image of the targets with noise as the input."""
        clean = targets_of(sample)["image"]
        generator = torch.Generator().manual_seed(self.protocol.seed)
        # drawn for contiguous memory: the noise must not depend on the layout
        noisy = add_gaussian_noise(clean.contiguous(), self.sigma, generator)
        if self.protocol.clip_noisy:
            noisy = noisy.clamp(0, 1)
        return _sample(noisy, clean)


def _scores(
    method: Method,
    sample: Sample,
    sigma: float | None,
    protocol: Protocol,
    stored: torch.dtype,
    noise: _WhiteNoise | None = None,
) -> Scores:
    """Denoise the image and measure both; `stored`: the type that outputs are rounded to."""

    def denoised(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"image": method(inputs["image"], sigma)}

    def figures(outputs: Mapping[str, Tensor], sample: Sample) -> dict[str, float]:
        output = outputs["image"].clamp(0, 1)
        if protocol.round_output:
            output = to_unit(from_unit(output, stored))
        images = (inputs_of(sample)["image"], output, targets_of(sample)["image"])
        noisy, output, clean = (_inside(x, protocol.crop) for x in images)
        height, width = clean.shape[-2:]
        if min(height, width) < WINDOW:
            raise ValueError(
                f"{width} x {height} pixels are left to measure; SSIM needs {WINDOW} x {WINDOW}"
            )
        return {
            "noisy_psnr": float(psnr(noisy, clean)[0]),
            "noisy_ssim": float(ssim(noisy, clean)[0]),
            "psnr": float(psnr(output, clean)[0]),
            "ssim": float(ssim(output, clean)[0]),
        }

    (measured,) = measure(denoised, [sample], figures, noise)
    return Scores(**measured.figures)


def _inside(x: Tensor, crop: int) -> Tensor:
    height, width = x.shape[-2:]
    if min(height, width) <= 2 * crop:
        raise ValueError(f"image of {width} x {height} pixels has nothing inside a {crop} border")
    return x[..., crop : height - crop, crop : width - crop]
