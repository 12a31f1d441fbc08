"""Filters against OpenCV's and Kornia's."""

from __future__ import annotations

import pytest
import torch

from denoise_ext import ops

cv2 = pytest.importorskip("cv2")
kornia = pytest.importorskip("kornia")


def photograph_like(dtype: torch.dtype) -> torch.Tensor:
    """(1, 3, 512, 768): smooth areas with noise, channels_last as images are decoded."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 9, 512), torch.linspace(0, 9, 768), indexing="ij")
    clean = 0.5 + 0.25 * torch.stack([y.sin(), x.cos(), (x + y).sin()])
    noisy = (clean + 0.05 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)[None]
    if dtype == torch.uint8:
        noisy = (255 * noisy).round()
    return noisy.to(dtype).to(memory_format=torch.channels_last)


def as_opencv(image: torch.Tensor):
    """(H, W, C), the same memory."""
    return image[0].permute(1, 2, 0).numpy()


def from_opencv(array) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None]


@pytest.mark.parametrize("sigma", [1.5, 6.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=["float32", "uint8"])
def test_gaussian_blur(bench, dtype, sigma):
    image = photograph_like(dtype)
    array = as_opencv(image)
    size = 2 * round(3 * sigma) + 1
    contenders = {
        "denoise_ext": lambda: ops.gaussian_blur2d(image, size, sigma),
        "opencv": lambda: from_opencv(cv2.GaussianBlur(array, (size, size), sigma)),
    }
    if dtype == torch.float32:
        contenders["kornia"] = lambda: kornia.filters.gaussian_blur2d(
            image, (size, size), (sigma, sigma)
        )
    bench(contenders, tolerance=1e-5 if dtype == torch.float32 else 0)


def test_bilateral_blur_square(bench):
    image = photograph_like(torch.float32)
    bench(
        {
            "denoise_ext": lambda: ops.bilateral_blur(image, 7, 0.1, (2.0, 2.0)),
            "kornia": lambda: kornia.filters.bilateral_blur(image, (7, 7), 0.1, (2.0, 2.0)),
        },
        tolerance=1e-5,
    )


def test_bilateral_blur_circle(bench):
    image = photograph_like(torch.float32)
    array = as_opencv(image)
    bench(
        {
            "denoise_ext": lambda: ops.bilateral_blur(image, 9, 0.1, (3.0, 3.0), window="circle"),
            "opencv": lambda: from_opencv(cv2.bilateralFilter(array, 9, 0.1, 3.0)),
        },
        # OpenCV reads exp() of float images from a table with linear interpolation.
        tolerance=1e-3,
    )
