"""Filters on photographs: OpenCV, and the libraries in Python where they compute the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext import ops
from harness.cases import OURS, Call, Case, Contender, Target, Work, bytes_of, channels_last
from on_cpu.competitors import need

OPENCV = "OpenCV"
SIGMA_COLOUR = 0.1  # of the range of values
SQUARE, FOUR_K = (1024, 1024), (2160, 3840)


def photograph_like(size: tuple[int, int], channels: int, dtype: torch.dtype) -> Tensor:
    """(1, C, H, W), channels_last as images are decoded: smooth areas with noise."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*(torch.linspace(0, 9, n) for n in size), indexing="ij")
    clean = 0.5 + 0.25 * torch.stack([y.sin(), x.cos(), (x + y).sin()])[:channels]
    noisy = (clean + 0.05 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)[None]
    if dtype == torch.uint8:
        noisy = (255 * noisy).round()
    return channels_last(noisy.to(dtype))


def as_opencv(image: Tensor) -> np.ndarray:
    """(H, W, C), or (H, W) for one channel; the same memory."""
    array = image[0].permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array


def from_opencv(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).reshape(*array.shape[:2], -1).permute(2, 0, 1)[None]


def opencv(image: Tensor, function: Callable) -> Contender:
    """``function(cv2, source, destination)``, the destination's memory used again."""

    def make() -> Call:
        cv2 = need("cv2")
        cv2.setNumThreads(torch.get_num_threads())
        source = as_opencv(image)
        destination = np.empty_like(source)
        return lambda: function(cv2, source, destination)

    return Contender(OPENCV, make, from_opencv)


def skimage(image: Tensor, function: Callable) -> Contender:
    """``function(skimage.filters or restoration, array)``; it has one thread."""

    def make() -> Call:
        need("skimage")
        module, array = need("skimage.filters"), as_opencv(image)
        return lambda: function(module, array)

    return Contender("scikit-image (1 thread)", make, from_opencv)


def kornia(function: Callable) -> Contender:
    def make() -> Call:
        filters = need("kornia").filters
        return lambda: function(filters)

    return Contender("Kornia", make)


def torch_gaussian(image: Tensor, size: int, sigma: float) -> Call:
    """Two one-dimensional depthwise convolutions of torch."""
    offsets = torch.arange(size) - size // 2
    taps = torch.exp(-(offsets**2) / (2 * sigma**2))
    channels, radius = image.shape[1], size // 2
    taps = (taps / taps.sum()).expand(channels, 1, 1, size).contiguous()

    def run() -> Tensor:
        padded = F.pad(image, [radius] * 4, mode="reflect")
        rows = F.conv2d(padded, taps, groups=channels)
        return F.conv2d(rows, taps.transpose(2, 3), groups=channels)

    return run


def gaussian_work(
    size: tuple[int, int], channels: int, dtype: torch.dtype, sigma: float, tiny: bool
) -> Work:
    image = photograph_like((24, 28) if tiny else size, channels, dtype)
    kernel = 2 * round(3 * sigma) + 1

    def cv2_blur(cv2: object, source: np.ndarray, out: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(source, (kernel, kernel), sigma, dst=out)

    contenders = [
        opencv(image, cv2_blur),
        Contender(OURS, lambda: lambda: ops.gaussian_blur2d(image, kernel, sigma)),
    ]
    if dtype == torch.float32:
        contenders += [
            kornia(lambda k: k.gaussian_blur2d(image, (kernel, kernel), (sigma, sigma))),
            skimage(image, partial(_skimage_gaussian, sigma, kernel // 2)),
            Contender("torch, two convolutions", lambda: torch_gaussian(image, kernel, sigma)),
        ]
    # A multiplication and an addition for each tap of the row and of the column.
    operations = image.numel() * 4 * kernel
    # uint8 is the same to the last bit; float32 adds up the taps in another order.
    tolerance = 0.0 if dtype == torch.uint8 else 1e-5
    return Work(contenders, operations, 2 * bytes_of(image), tolerance)


def _skimage_gaussian(sigma: float, radius: int, filters: object, array: np.ndarray) -> np.ndarray:
    axis = 2 if array.ndim == 3 else None
    # "mirror" leaves the border pixel out, as OpenCV's default does.
    return filters.gaussian(array, sigma, mode="mirror", truncate=radius / sigma, channel_axis=axis)


def bilateral_work(channels: int, dtype: torch.dtype, diameter: int, tiny: bool) -> Work:
    """OpenCV's filter: a circle of pixels, L1 distance of colours."""
    image = photograph_like((24, 28) if tiny else SQUARE, channels, dtype)
    colour = SIGMA_COLOUR * (255 if dtype == torch.uint8 else 1)
    space = diameter / 3

    def cv2_blur(cv2: object, source: np.ndarray, out: np.ndarray) -> np.ndarray:
        return cv2.bilateralFilter(source, diameter, colour, space, dst=out)

    def ours() -> Tensor:
        return ops.bilateral_blur(image, diameter, colour, (space, space), window="circle")

    radius = diameter // 2
    reach = range(-radius, radius + 1)
    taps = sum(y * y + x * x <= radius * radius for y in reach for x in reach)
    # Per tap: distance (2 a channel), Gaussian of it (8), sum of weights (1), weighted sum (2 a
    # channel).
    operations = image.numel() // channels * taps * (4 * channels + 9)
    # OpenCV reads exp() from a table: of 256 entries for uint8, interpolated for float32.
    tolerance = 1.01 / 255 if dtype == torch.uint8 else 1e-3
    contenders = [opencv(image, cv2_blur), Contender(OURS, lambda: ours)]
    return Work(contenders, operations, 2 * bytes_of(image), tolerance)


def square_bilateral_work(tiny: bool) -> Work:
    """Kornia's filter: a square of pixels."""
    image = photograph_like((24, 28) if tiny else SQUARE, 3, torch.float32)
    arguments = (7, 7), SIGMA_COLOUR, (2.0, 2.0)
    contenders = [
        kornia(lambda k: k.bilateral_blur(image, *arguments)),
        Contender(OURS, lambda: lambda: ops.bilateral_blur(image, *arguments)),
    ]
    operations = image.numel() // 3 * 49 * (4 * 3 + 9)
    return Work(contenders, operations, 2 * bytes_of(image), 1e-5)


def joint_bilateral_work(tiny: bool) -> Work:
    image = photograph_like((24, 28) if tiny else SQUARE, 3, torch.float32)
    guide = photograph_like((24, 28) if tiny else SQUARE, 1, torch.float32)
    arguments = (7, 7), SIGMA_COLOUR, (2.0, 2.0)
    contenders = [
        kornia(lambda k: k.joint_bilateral_blur(image, guide, *arguments)),
        Contender(OURS, lambda: lambda: ops.joint_bilateral_blur(image, guide, *arguments)),
    ]
    operations = image.numel() // 3 * 49 * (2 * 3 + 11)
    return Work(contenders, operations, 2 * bytes_of(image) + bytes_of(guide), 1e-5)


BILATERAL_TARGETS = {  # (dtype, channels) -> diameter -> times OpenCV
    (torch.float32, 1): {5: 2.8, 9: 6.5, 13: 7.2},
    (torch.float32, 3): {5: 3.3, 9: 4.6, 13: 5.6},
    (torch.uint8, 1): {5: 2.2, 9: 3.3, 13: 3.5},
    (torch.uint8, 3): {5: 1.8, 9: 5.0, 13: 5.8},
}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def filter_cases() -> list[Case]:
    cases = []
    for (dtype, channels), targets in BILATERAL_TARGETS.items():
        for diameter, least in targets.items():
            name = f"bilateral d={diameter}, {_name(dtype)}, {channels} ch, 1024x1024"
            build = partial(bilateral_work, channels, dtype, diameter)
            cases.append(Case(name, build, (Target(least, (OPENCV,)),)))
    cases.append(Case("bilateral 7x7 square, float32, 3 ch, 1024x1024", square_bilateral_work))
    cases.append(Case("joint bilateral 7x7, float32, 3 ch, 1024x1024", joint_bilateral_work))
    for dtype in (torch.float32, torch.uint8):
        for size, where in ((SQUARE, "1024x1024"), (FOUR_K, "3840x2160")):
            for sigma in (1.0, 2.5):
                for channels in (1, 3):
                    name = f"Gaussian sigma={sigma:g}, {_name(dtype)}, {channels} ch, {where}"
                    build = partial(gaussian_work, size, channels, dtype, sigma)
                    cases.append(Case(name, build, (Target(1.5, (OPENCV,)),)))
    return cases
