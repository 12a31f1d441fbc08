"""Whether fine detail looks like that of real images: measures without trained weights, and LPIPS.

A denoiser with the least squared error is too smooth where it is not sure. PSNR does not show this.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.metrics.psnr import check_pair

_PATCH = 7  # pixels on a side
SMALLEST = _PATCH * 2**2
"""Rows and columns of an image, at least, for `patch_wasserstein` at its usual 3 levels."""
_FILTERS = 64  # random directions in the space of patches
_AT_ONCE = 16  # of them: bounded memory
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_FLAT = 1e-4  # units of white: deviation below which a level of an image has no detail
_lpips: dict[str, Any] = {}


def high_frequency_energy(output: Tensor, truth: Tensor) -> Tensor:
    """Energy of the output above half of the Nyquist frequency, relative to the truth's.

    Below 1 the output is smoother than the truth, above 1 it has more fine detail or noise. Both
    are multiplied by a Hann window first, so that the edges of the image do not count.

    Args:
        output, truth: images (N, C, H, W) of the same shape, H, W >= 8, any real dtype.

    Returns:
        (N,) float64; NaN or infinity where the truth has no fine detail.

    Raises:
        TypeError, ValueError: other tensors.

    Example:
        >>> x = torch.rand(1, 3, 32, 32)
        >>> round(denoise_ext.metrics.high_frequency_energy(0.5 * x, x).item(), 3)
        0.25
    """
    _check_images(output, truth, 8)
    return _fine_energy(output) / _fine_energy(truth)


def _fine_energy(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    like: dict[str, Any] = {"dtype": torch.float64, "device": x.device}
    window = (
        torch.hann_window(height, periodic=False, **like)[:, None]
        * torch.hann_window(width, periodic=False, **like)
    )  # fmt: skip
    x = x.to(torch.float64)
    mean = x.mean(dim=(-2, -1), keepdim=True)
    power = torch.fft.fft2((x - mean) * window).abs().square()
    radius = torch.hypot(
        torch.fft.fftfreq(height, **like)[:, None], torch.fft.fftfreq(width, **like)
    )  # cycles per pixel; Nyquist is 0.5
    return (power * (radius > 0.25)).sum(dim=(1, 2, 3))


def patch_wasserstein(output: Tensor, truth: Tensor, levels: int = 3, seed: int = 0) -> Tensor:
    """Sliced Wasserstein distance between the patches of two images, 0 for equal images.

    All patches of 7 x 7 pixels of a level of the Laplacian pyramid are points. Their distributions
    are compared along 64 random directions. Each distance is the mean difference of the sorted
    coordinates, in units of the truth's standard deviation at that level. Where a patch lies in
    the image does not count, so detail at a wrong place costs nothing.

    Karras, Aila, Laine, Lehtinen: "Progressive Growing of GANs for Improved Quality, Stability, and
    Variation", ICLR 2018. There each set is divided by its own deviation. Here both are divided by
    that of the truth: otherwise detail that is too weak would not count.

    Args:
        output, truth: images (N, C, H, W) of the same shape, any real dtype; H and W at least
            7 * 2^(levels - 1).
        levels: of the pyramid, the finest first; the result is their mean.
        seed: of the directions.

    Returns:
        (N,) float64.

    Raises:
        TypeError, ValueError: other tensors, or levels below 1.

    Example:
        >>> x = torch.rand(1, 3, 32, 32)
        >>> denoise_ext.metrics.patch_wasserstein(x, x).item()
        0.0
    """
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ValueError(f"levels must be an integer >= 1, got {levels!r}")
    _check_images(output, truth, _PATCH * 2 ** (levels - 1))
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn(_FILTERS, output.shape[1], _PATCH, _PATCH, generator=generator)
    filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
    filters = filters.to(output.device)
    a, b = output.to(torch.float32), truth.to(torch.float32)
    total = torch.zeros(len(a), dtype=torch.float64, device=a.device)
    for level in range(levels):
        (fine_a, a), (fine_b, b) = _divided(a, level + 1 < levels), _divided(b, level + 1 < levels)
        scale = fine_b.flatten(1).std(dim=1).clamp_min(_FLAT)
        for part in filters.split(_AT_ONCE):
            total += _distance(fine_a, fine_b, part) / scale * (len(part) / _FILTERS / levels)
    return total


def binomial_mean(x: Tensor) -> Tensor:
    """The mean of 5 x 5 pixels with binomial weights; (N, C, H, W) floating point, H, W >= 3."""
    channels = x.shape[1]
    weights = torch.tensor(_BINOMIAL, dtype=x.dtype, device=x.device)
    kernel = (weights[:, None] * weights).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)


def _divided(x: Tensor, more: bool) -> tuple[Tensor, Tensor]:
    """A level of the Laplacian pyramid, and the half image below it."""
    low = binomial_mean(x)
    return x - low, low[..., ::2, ::2] if more else low


def _distance(a: Tensor, b: Tensor, filters: Tensor) -> Tensor:
    """(N,), the mean over directions of the distance of the patches' coordinates."""
    sorted_a, sorted_b = (F.conv2d(x, filters).flatten(2).sort(dim=2).values for x in (a, b))
    return (sorted_a - sorted_b).abs().mean(dim=(1, 2), dtype=torch.float64)


def lpips(output: Tensor, truth: Tensor, net: str = "alex") -> Tensor:
    """Learned perceptual distance, by the package ``lpips``, which brings its weights.

    Zhang, Isola, Efros, Shechtman, Wang: "The Unreasonable Effectiveness of Deep Features as a
    Perceptual Metric", CVPR 2018. The package is no dependency of this one.

    Args:
        output, truth: images (N, 1 or 3, H, W) of the same shape, black 0 and white 1; gray images
            are taken as RGB.
        net: "alex", "vgg" or "squeeze".

    Returns:
        (N,) float64, 0 for equal images.

    Raises:
        ModuleNotFoundError: the package is not installed.
        TypeError, ValueError: other tensors, or another net.

    Example:
        >>> x = torch.rand(1, 3, 32, 32)
        >>> denoise_ext.metrics.lpips(x, x, net="none")
        Traceback (most recent call last):
        ValueError: net must be 'alex', 'vgg' or 'squeeze', got 'none'
    """
    if net not in ("alex", "vgg", "squeeze"):
        raise ValueError(f"net must be 'alex', 'vgg' or 'squeeze', got {net!r}")
    _check_images(output, truth, 1)
    if output.shape[1] not in (1, 3):
        raise ValueError(f"output must have 1 or 3 channels, got {tuple(output.shape)}")
    try:
        package = importlib.import_module("lpips")
    except ModuleNotFoundError as error:
        if error.name != "lpips":
            raise
        raise ModuleNotFoundError(
            "metrics.lpips needs the package lpips: pip install lpips", name="lpips"
        ) from None
    if net not in _lpips:
        _lpips[net] = package.LPIPS(net=net, verbose=False).eval()
    network = _lpips[net].to(output.device)
    pair = [x.to(torch.float32).expand(-1, 3, -1, -1) * 2 - 1 for x in (output, truth)]
    with torch.no_grad():
        distance: Tensor = network(*pair)
    return distance.flatten().to(torch.float64)


def _check_images(output: Tensor, truth: Tensor, smallest: int) -> None:
    check_pair(output, truth, 1.0)
    if output.dim() != 4 or min(output.shape[-2:]) < smallest:
        raise ValueError(
            f"output and truth must have shape (N, C, H, W) with H, W >= {smallest}, got "
            f"{tuple(output.shape)}"
        )
