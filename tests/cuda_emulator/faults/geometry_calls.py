"""Calls of the geometries that small tables leave out; each is compared with the float64 reference.

Slopes of PReLU beyond one block of channels, padding and kernels that differ between the axes,
residuals laid out otherwise than the output, several images, tiles and blocks of output channels,
tensors that span more than 2^31 elements, rounding of results, gradients that are not finite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cuda_emulator.faults.images import compare, gradient, image
from denoise_ext import ops, reference

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def _finished(op: Callable, oracle: Callable, x: Tensor, weight: Tensor, outputs: int, **options):
    """With bias, a slope of PReLU for each channel, and a residual in the other layout."""
    exact = oracle(x.double(), weight.double(), **options)
    bias, slopes = (image((outputs, 1, 1, n), x.dtype)[..., 0].flatten() for n in (1, 2))
    residual = image(
        tuple(exact.shape), x.dtype, not x.is_contiguous(memory_format=torch.channels_last)
    )

    def run(function: Callable) -> Callable:
        return lambda a, w, b, s, r: function(
            a, w, b, **options, activation="prelu", prelu_weight=s,
            **({"residual": r} if function in (ops.conv2d, reference.conv2d) else {}),
        )  # fmt: skip

    return compare(run(op), run(oracle), x, weight, bias, slopes, residual)


def row_ring_blocks_f16() -> float:
    """Three blocks of output channels, and blocks of threads that go from one to the next."""
    x, weight = image((1, 16, 9, 70), F16), image((160, 16, 3, 3), F16)
    return _finished(ops.conv2d, reference.conv2d, x, weight, 160, padding=1)


def row_ring_1x1_f16() -> float:
    """Weights of all taps fit shared memory; one multiprocessor has both blocks of outputs."""
    x, weight = image((2, 16, 9, 70), F16), image((96, 16, 1, 1), F16)
    return _finished(ops.conv2d, reference.conv2d, x, weight, 96)


def row_ring_padding_f16() -> float:
    x, weight = image((1, 16, 9, 35), F16), image((24, 16, 3, 3), F16)
    return compare(ops.conv2d, reference.conv2d, x, weight, padding=(0, 2))


def row_ring_odd_f16() -> float:
    """Channels that are no multiple of what one matrix product sums over."""
    x, weight = image((1, 24, 6, 35), F16), image((16, 24, 3, 3), F16)
    return compare(ops.conv2d, reference.conv2d, x, weight, padding=1)


def _row_ring_end(dtype: torch.dtype, outputs: int) -> float:
    """A residual in the output's layout, and ReLU: vectors of channels at the end."""
    x, weight = image((1, 16, 9, 35), dtype), image((outputs, 16, 3, 3), dtype)
    residual = image((1, outputs, 9, 35), dtype)

    def conv(function: Callable) -> Callable:
        options = {"padding": 1, "activation": "relu"}
        return lambda a, w, r: function(a, w, **options, residual=r)

    return compare(conv(ops.conv2d), conv(reference.conv2d), x, weight, residual)


def row_ring_end_f16() -> float:
    return _row_ring_end(F16, 40)


def row_ring_end_f32() -> float:
    return _row_ring_end(F32, 36)


def row_ring_streamed_f16() -> float:
    """Weights that do not all fit shared memory."""
    x, weight = image((1, 48, 4, 19), F16), image((4, 48, 5, 5), F16)
    return compare(ops.conv2d, reference.conv2d, x, weight, padding=2)


def first_layer_finished_f16() -> float:
    x, weight = image((1, 3, 9, 35), F16), image((64, 3, 3, 3), F16)
    return _finished(ops.conv2d, reference.conv2d, x, weight, 64, padding=(1, 0))


def first_layer_tiles_f16() -> float:
    x, weight = image((2, 3, 19, 131), F16), image((20, 3, 3, 3), F16)
    return compare(ops.conv2d, reference.conv2d, x, weight, padding=1)


def transposed_finished_f16() -> float:
    x, weight = image((1, 16, 5, 20), F16), image((16, 64, 4, 4), F16)
    options = {"stride": 2, "padding": (0, 1)}
    return _finished(ops.conv_transpose2d, reference.conv_transpose2d, x, weight, 64, **options)


def depthwise_rectangle_f32() -> float:
    x, weight = image((1, 2, 9, 35), F32, False), image((2, 1, 3, 5), F32, False)
    return _finished(ops.conv2d, reference.conv2d, x, weight, 2, padding=(1, 2), groups=2)


def weight_gradient_images_f16() -> float:
    """Two images, and padding along one axis."""
    x, weight = image((2, 32, 4, 70), F16), image((64, 32, 3, 3), F16)
    return gradient(x, weight, None, "weight", padding=(0, 1))


def slopes_gradient() -> float:
    """Of PReLU per channel, in vectors of channels and in vectors of columns: all three results."""
    worst = 0.0
    for dtype, channels_last in ((F16, True), (F32, False)):
        x, saved = (image((2, 16, 5, n), dtype, channels_last) for n in (9, 8))
        grad, slopes = image((2, 16, 5, 8), dtype, channels_last), image((16, 1, 1, 3), dtype)
        slopes = slopes[..., 0].flatten()
        got = torch.ops.denoise_ext.conv2d_backward(
            grad, x[..., :8], image((16, 16, 1, 1), dtype), saved, slopes, [1, 1], [0, 0], [1, 1],
            1, "prelu", 0.0, [False, False, True, True, True],
        )  # fmt: skip
        z, g = saved.double(), grad.double()
        negative = z <= 0
        before = torch.where(negative, g * slopes.double().view(1, -1, 1, 1), g)
        exact = (before.sum((0, 2, 3)), (g * z * negative).sum((0, 2, 3)), before)
        errors = [(a.double() - b).abs().max() / b.abs().max() for a, b in zip(got[2:], exact)]
        worst = max(worst, float(max(errors)))
    return worst


def infinite_gradient() -> float:
    """Infinite where ReLU is off: the share of elements that are not 0 there."""
    saved = image((1, 9, 5, 7), F32).relu()
    grad = torch.where(saved > 0, saved, torch.inf)
    got = torch.ops.denoise_ext.conv2d_backward(
        grad, saved, image((9, 9, 1, 1), F32), saved, None, [1, 1], [0, 0], [1, 1], 1, "relu", 0.0,
        [False, False, False, False, True],
    )[4]  # fmt: skip
    return float((got != saved).double().mean())


def rounding_bf16() -> float:
    """A fiftieth of the mean signed error in ulps; truncation makes that 0.01."""
    x, weight = image((1, 32, 19, 34), BF16), image((32, 1, 3, 3), BF16)
    got = ops.conv2d(x, weight, padding=1, groups=32).double()
    exact = reference.conv2d(x.double(), weight.double(), padding=1, groups=32)
    last_place = torch.exp2(torch.floor(torch.log2(exact.abs()))) * 2**-7
    return abs(float(((got - exact) * exact.sign() / last_place).mean())) / 50


def _far_apart(x: Tensor, axis: int, pitch: int) -> Tensor:
    """The same values, `pitch` elements apart along the axis; nothing lies between."""
    strides = list(x.stride())
    strides[axis] = pitch
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, strides))
    return torch.empty(span, dtype=x.dtype).as_strided(x.shape, strides).copy_(x)


def far_images_f16() -> float:
    x, weight = image((2, 8, 5, 9), F16), image((8, 8, 3, 3), F16)
    return compare(ops.conv2d, reference.conv2d, _far_apart(x, 0, 2**31 + 64), weight)


def gaussian_far_rows() -> float:
    x = _far_apart(image((1, 1, 6, 9), F16, False), 2, 2**29 + 64)
    return compare(_gaussian(), _gaussian(reference), x)


def _gaussian(library=ops, **options: str) -> Callable:
    return lambda x: library.gaussian_blur2d(x, (7, 5), 1.5, **options)


def gaussian_circular() -> float:
    options = {"border_type": "circular"}
    x = image((1, 2, 19, 21), F32, False)
    return compare(_gaussian(**options), _gaussian(reference, **options), x)


def gaussian_sigma_gradient() -> float:
    """Of a narrow image, whose blocks have a number of threads that is no power of 2."""

    def sigmas(library, dtype: torch.dtype) -> Tensor:
        x, sigma = image((1, 1, 33, 11), F32, False).to(dtype), torch.tensor([[1.5, 1.0]])
        sigma = sigma.to(dtype).requires_grad_()
        output = library.gaussian_blur2d(x, (7, 5), sigma)
        weights = image(tuple(output.shape), F32, False).to(dtype)
        return torch.autograd.grad(output, sigma, weights)[0]

    got, exact = sigmas(ops, F32), sigmas(reference, torch.float64)
    return float((got - exact).abs().max() / exact.abs().max())


def gaussian_adjoint() -> float:
    """The gradient of two images with a sigma each, whose borders reflect."""

    def gradients(library, dtype: torch.dtype) -> Tensor:
        x = image((2, 1, 19, 21), F32, False).to(dtype).requires_grad_()
        sigma = torch.tensor([[1.5, 1.0], [0.7, 2.0]], dtype=dtype)
        output = library.gaussian_blur2d(x, (7, 5), sigma)
        weights = image(tuple(output.shape), F32, False).to(dtype)
        return torch.autograd.grad(output, x, weights)[0]

    got, exact = gradients(ops, F32), gradients(reference, torch.float64)
    return float((got - exact).abs().max() / exact.abs().max())


def _bilateral(library=ops) -> Callable:
    return lambda x, color: library.bilateral_blur(x, (3, 7), color, 1.5)


def bilateral_rectangle() -> float:
    """Another radius along each axis, and another sigma for each of two images."""
    x, color = image((2, 3, 37, 35), F32), torch.tensor([0.1, 0.6])
    return compare(_bilateral(), _bilateral(reference), x, color)


def bilateral_small() -> float:
    """Numbers whose squares are 0 in float32."""
    x = image((1, 3, 17, 35), F32) * 1e-25

    def blur(function: Callable) -> Callable:
        return lambda x: function(x, 5, 2e-26, 1.5)

    return compare(blur(ops.bilateral_blur), blur(reference.bilateral_blur), x)


CALLS = {
    function.__name__: function
    for function in (
        row_ring_odd_f16, row_ring_end_f16, row_ring_end_f32, bilateral_small,
        row_ring_blocks_f16, row_ring_1x1_f16, row_ring_padding_f16, row_ring_streamed_f16,
        first_layer_finished_f16, first_layer_tiles_f16, transposed_finished_f16,
        depthwise_rectangle_f32, weight_gradient_images_f16, slopes_gradient, infinite_gradient,
        rounding_bf16, far_images_f16, gaussian_far_rows, gaussian_circular,
        gaussian_sigma_gradient, gaussian_adjoint, bilateral_rectangle,
    )
}  # fmt: skip
