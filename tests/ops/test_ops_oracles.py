"""References and kernels against other libraries; each case names the call that made the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import ops, reference

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is an oracle of these tests")

CV2_BORDERS = {
    "reflect": cv2.BORDER_REFLECT_101,
    "replicate": cv2.BORDER_REPLICATE,
    "constant": cv2.BORDER_CONSTANT,
}
IMPLEMENTATIONS = [
    pytest.param(ops, id="ops"),
    pytest.param(reference, id="reference"),
]


def image(channels: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A smooth scene with edges and noise, (1, C, H, W): [0, 1], or 0..255 for uint8."""
    generator = torch.Generator().manual_seed(height * 1000 + width * 10 + channels)
    coarse = torch.rand(1, channels, 4, 5, generator=generator, dtype=torch.float64)
    x = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    x = x + 0.1 * (torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5)
    x = x.clamp(0, 1)
    return (x * 255).round().to(dtype) if dtype == torch.uint8 else x.to(dtype)


def to_cv2(x: Tensor) -> np.ndarray:
    """(1, C, H, W) -> (H, W, C), or (H, W) for one channel."""
    return np.ascontiguousarray(x[0].permute(1, 2, 0).squeeze(-1).numpy())


def from_cv2(x: np.ndarray) -> Tensor:
    x = x[..., None] if x.ndim == 2 else x
    return torch.from_numpy(x).permute(2, 0, 1)[None]


def float_bound(terms: int, peak: float = 1.0) -> float:
    """Two float32 sums of ``terms`` products, each off by terms * eps * peak (see bounds.py)."""
    return 2 * (2 * terms + 16) * torch.finfo(torch.float32).eps * peak


@pytest.mark.parametrize("library", IMPLEMENTATIONS)
class TestOpenCV:
    @pytest.mark.parametrize("border", CV2_BORDERS)
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("kernel, sigma", [((7, 5), (1.5, 0.8)), ((13, 15), (2.5, 3.0))])
    def test_gaussian(self, library, border, channels, kernel, sigma):
        x = image(channels, 37, 45)
        got = library.gaussian_blur2d(x, kernel, sigma, border)
        oracle = cv2.GaussianBlur(
            to_cv2(x), kernel[::-1], sigmaX=sigma[1], sigmaY=sigma[0],
            borderType=CV2_BORDERS[border],
        )  # fmt: skip
        assert (got - from_cv2(oracle)).abs().max() <= float_bound(sum(kernel))

    @pytest.mark.parametrize("border", CV2_BORDERS)
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize(
        "kernel, sigma", [((7, 5), (1.5, 0.8)), ((15, 15), (2.5, 2.5)), ((31, 3), (5.0, 0.4))]
    )
    def test_gaussian_uint8_bit_for_bit(self, library, border, channels, kernel, sigma):
        x = image(channels, 37, 45, torch.uint8)
        got = library.gaussian_blur2d(x, kernel, sigma, border)
        oracle = cv2.GaussianBlur(
            to_cv2(x), kernel[::-1], sigmaX=sigma[1], sigmaY=sigma[0],
            borderType=CV2_BORDERS[border],
        )  # fmt: skip
        assert torch.equal(got, from_cv2(oracle))

    @pytest.mark.parametrize("border", CV2_BORDERS)
    def test_gaussian_kernel_larger_than_image(self, library, border):
        x = image(1, 3, 2)
        got = library.gaussian_blur2d(x, (13, 11), 2.0, border)
        oracle = cv2.GaussianBlur(
            to_cv2(x), (11, 13), sigmaX=2.0, sigmaY=2.0, borderType=CV2_BORDERS[border]
        )
        assert (got - from_cv2(oracle)).abs().max() <= float_bound(24)

    def test_gaussian_circular(self, library):
        """OpenCV's filters refuse BORDER_WRAP; padding with it first is the same."""
        x = image(1, 12, 9)
        padded = cv2.copyMakeBorder(to_cv2(x), 3, 3, 2, 2, cv2.BORDER_WRAP)
        oracle = cv2.GaussianBlur(padded, (5, 7), sigmaX=1.2, sigmaY=2.0)[3:-3, 2:-2]
        got = library.gaussian_blur2d(x, (7, 5), (2.0, 1.2), "circular")
        assert (got - from_cv2(oracle)).abs().max() <= float_bound(12)

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("diameter", [3, 5, 9])
    @pytest.mark.parametrize("border", CV2_BORDERS)
    def test_bilateral_circle(self, library, channels, diameter, border):
        x = image(channels, 33, 29)
        got = library.bilateral_blur(x, diameter, 0.2, 2.0, border, window="circle")
        oracle = cv2.bilateralFilter(
            to_cv2(x), diameter, sigmaColor=0.2, sigmaSpace=2.0, borderType=CV2_BORDERS[border]
        )
        # OpenCV reads exp from a table of 2^12 entries per channel over the value range and
        # interpolates linearly: off by h^2 / 8 * max|f''| = (range / 4096)^2 / (8 * 0.2^2) < 1e-6
        # relative to the central weight, for each tap.
        table = (channels / (4096 * channels)) ** 2 / (8 * 0.2**2)
        allowed = float_bound(diameter**2) + 2 * diameter**2 * table
        assert (got - from_cv2(oracle)).abs().max() <= allowed

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("diameter", [5, 9])
    def test_bilateral_circle_uint8(self, library, channels, diameter):
        x = image(channels, 33, 29, torch.uint8)
        got = library.bilateral_blur(x, diameter, 30.0, 2.0, window="circle")
        oracle = cv2.bilateralFilter(to_cv2(x), diameter, sigmaColor=30.0, sigmaSpace=2.0)
        # Both round the same real number, each from its own float32 sum: one level apart at ties.
        # OpenCV 5.0 cuts off instead of rounding in its gray path for diameters up to 5.
        difference = (got.int() - from_cv2(oracle).int()).abs()
        assert difference.max() <= 1
        if channels == 3 or diameter > 5:
            assert (difference > 0).float().mean() < 0.01
        as_float = cv2.bilateralFilter(to_cv2(x.float()), diameter, sigmaColor=30.0, sigmaSpace=2.0)
        # 0.5 for our rounding, 1e-3 for OpenCV's table of exp and both float32 sums.
        assert (got.float() - from_cv2(as_float)).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("library", IMPLEMENTATIONS)
class TestKornia:
    """Kornia pads with torch's F.pad: its images must be larger than the kernel."""

    @pytest.fixture(autouse=True)
    def kornia(self):
        return pytest.importorskip("kornia", reason="kornia is an oracle of these tests")

    @pytest.mark.parametrize("separable", [True, False])
    @pytest.mark.parametrize("border", ["reflect", "replicate", "constant", "circular"])
    def test_gaussian(self, library, kornia, border, separable):
        x = image(3, 21, 18).repeat(2, 1, 1, 1)
        sigma = torch.tensor([[1.5, 0.7], [3.0, 2.0]])
        got = library.gaussian_blur2d(x, (5, 7), sigma, border, separable)
        oracle = kornia.filters.gaussian_blur2d(x, (5, 7), sigma, border, separable)
        assert (got - oracle).abs().max() <= float_bound(12)

    @pytest.mark.parametrize("border", ["reflect", "replicate", "constant", "circular"])
    @pytest.mark.parametrize("distance", ["l1", "l2"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_bilateral(self, library, kornia, border, distance, channels):
        x = image(channels, 21, 18).double()
        got = library.bilateral_blur(x, (5, 7), 0.2, (1.5, 2.0), border, distance)
        oracle = kornia.filters.bilateral_blur(x, (5, 7), 0.2, (1.5, 2.0), border, distance)
        torch.testing.assert_close(got, oracle, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("distance", ["l1", "l2"])
    def test_bilateral_sigma_tensors(self, library, kornia, distance):
        x = image(3, 21, 18).double().repeat(2, 1, 1, 1)
        color = torch.tensor([0.1, 0.4], dtype=torch.float64)
        space = torch.tensor([[1.5, 0.7], [3.0, 2.0]], dtype=torch.float64)
        got = library.bilateral_blur(x, 5, color, space, "reflect", distance)
        oracle = kornia.filters.bilateral_blur(x, 5, color, space, "reflect", distance)
        torch.testing.assert_close(got, oracle, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("border", ["reflect", "replicate", "constant", "circular"])
    def test_joint_bilateral(self, library, kornia, border):
        x, guidance = image(2, 21, 18).double(), image(3, 21, 18).double()
        arguments = (x, guidance, (5, 7), 0.2, (1.5, 2.0), border, "l2")
        got = library.joint_bilateral_blur(*arguments)
        oracle = kornia.filters.joint_bilateral_blur(*arguments)
        torch.testing.assert_close(got, oracle, rtol=0, atol=1e-13)

    def test_gradients(self, library, kornia):
        results = []
        for module in (library, kornia.filters):
            x = image(3, 12, 10).double().requires_grad_()
            guidance = image(2, 12, 10).double().requires_grad_()
            color = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
            space = torch.tensor([[1.5, 0.7]], dtype=torch.float64, requires_grad=True)
            output = module.joint_bilateral_blur(x, guidance, 5, color, space)
            results.append(torch.autograd.grad(output.square().sum(), (x, guidance, color, space)))
        for ours, theirs in zip(*results):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("library", IMPLEMENTATIONS)
class TestScikitImage:
    @pytest.fixture(autouse=True)
    def skimage(self):
        return pytest.importorskip("skimage", reason="scikit-image is an oracle of these tests")

    def test_gaussian(self, library, skimage):
        x = image(1, 25, 31).double()
        # truncate=3 at sigma 2 is a radius of 6: 13 taps; "mirror" is OpenCV's REFLECT_101.
        oracle = skimage.filters.gaussian(x[0, 0].numpy(), sigma=2.0, mode="mirror", truncate=3.0)
        got = library.gaussian_blur2d(x, 13, 2.0)
        torch.testing.assert_close(got[0, 0], torch.from_numpy(oracle), rtol=0, atol=1e-13)


@pytest.mark.parametrize("library", IMPLEMENTATIONS)
@pytest.mark.parametrize("activation, module", [
    ("relu", torch.nn.ReLU()), ("leaky_relu", torch.nn.LeakyReLU(0.2)),
    ("sigmoid", torch.nn.Sigmoid()), ("tanh", torch.nn.Tanh()), ("none", torch.nn.Identity()),
    ("gelu", torch.nn.GELU()), ("gelu_tanh", torch.nn.GELU(approximate="tanh")),
    ("silu", torch.nn.SiLU()), ("hardswish", torch.nn.Hardswish()),
    ("hardsigmoid", torch.nn.Hardsigmoid()), ("relu6", torch.nn.ReLU6()),
])  # fmt: skip
def test_convolutions_are_those_of_torch(library, activation, module):
    """``torch.nn.Conv2d`` and ``ConvTranspose2d`` in float64, then a ``torch.nn`` activation."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    options = {"activation": activation, "negative_slope": 0.2}
    conv = torch.nn.Conv2d(6, 8, (3, 5), (2, 1), (1, 2), (1, 2), 2, dtype=torch.float64)
    got = library.conv2d(x, conv.weight, conv.bias, (2, 1), (1, 2), (1, 2), 2, **options)
    torch.testing.assert_close(got, module(conv(x)), rtol=0, atol=1e-13)
    deconv = torch.nn.ConvTranspose2d(
        6, 8, (3, 4), (2, 3), (1, 0), (1, 2), 2, True, (2, 1), dtype=torch.float64
    )
    got = library.conv_transpose2d(
        x, deconv.weight, deconv.bias, (2, 3), (1, 0), (1, 2), 2, (2, 1), **options
    )
    torch.testing.assert_close(got, module(deconv(x)), rtol=0, atol=1e-13)
