"""Small calls that the faults are tried on; each is compared with the float64 reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cuda_emulator.faults import geometry_calls, norm_calls, packed_calls
from cuda_emulator.faults.images import compare, gradient, image
from denoise_ext import ops, reference

F16, F32 = torch.float16, torch.float32


def _conv(x: Tensor, weight: Tensor, **options: object) -> float:
    return compare(ops.conv2d, reference.conv2d, x, weight, **options)


def bias_gradient() -> float:
    x, weight = image((2, 3, 9, 40), F32, False), image((4, 3, 3, 3), F32, False)
    return gradient(x, weight, image((4, 1, 1, 1), F32, False).flatten(), "bias")


def _masked_gradients(x: Tensor, weight: Tensor) -> float:
    """The worst of the gradients of input, weight and bias behind ReLU."""
    outputs = weight.shape[0]
    output = image((x.shape[0], outputs, *x.shape[2:]), x.dtype).mul(3).relu()
    grad = torch.empty_like(output).copy_(torch.linspace(-1, 1, output.numel()).view(output.shape))
    got = torch.ops.denoise_ext.conv2d_backward(
        grad, x, weight, output, None, [1, 1], [1, 1], [1, 1], 1, "relu", 0.0,
        [True, True, True, False, False],
    )  # fmt: skip
    exact = torch.ops.aten.convolution_backward(
        (grad * (output > 0)).double(), x.double(), weight.double(), [outputs], [1, 1], [1, 1],
        [1, 1], False, [0, 0], 1, [True, True, True],
    )  # fmt: skip
    errors = [(a.double() - b).abs().max() / b.abs().max() for a, b in zip(got, exact)]
    return float(max(errors))


def masked_gradients_f16() -> float:
    """No masked copy precedes conv_rowring."""
    return _masked_gradients(image((1, 40, 9, 70), F16), image((64, 40, 3, 3), F16))


def bias_gradient_f16() -> float:
    """Two blocks of input channels, of which one has the bias."""
    return _masked_gradients(image((1, 72, 3, 18), F16), image((16, 72, 3, 3), F16))


def weight_gradient_f16() -> float:
    return gradient(image((1, 32, 6, 70), F16), image((64, 32, 3, 3), F16), None, "weight")


def weight_gradient_f16_odd() -> float:
    return gradient(image((1, 24, 4, 70), F16), image((40, 24, 3, 3), F16), None, "weight")


def weight_gradient_f32() -> float:
    return gradient(image((1, 20, 6, 7), F32), image((20, 20, 3, 3), F32), None, "weight")


def weight_gradient_last_f32() -> float:
    return gradient(image((1, 24, 6, 7), F32), image((3, 24, 3, 3), F32), None, "weight")


def weight_gradient_depthwise_f16() -> float:
    x, weight = image((2, 33, 7, 9), F16), image((33, 1, 3, 3), F16)
    return gradient(x, weight, None, "weight", groups=33)


def weight_gradient_geometry_f32() -> float:
    """Planes; everything that differs along y and x; two images and groups; two parts of pixels."""
    x, weight = image((2, 6, 27, 19), F32, False), image((10, 3, 3, 2), F32, False)
    options = {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 3), "groups": 2}
    return gradient(x, weight, None, "weight", **options)


def first_layer_f16() -> float:
    return _conv(image((1, 3, 9, 35), F16), image((32, 3, 3, 3), F16), padding=1)


def last_layer_f16() -> float:
    return _conv(image((1, 64, 18, 40), F16), image((1, 64, 3, 3), F16), padding=1)


def row_ring_activations_f16() -> float:
    """The worst of the long activations; the convolution's values are from below -3 to above 6."""
    x, weight = image((1, 64, 6, 35), F16) * 4, image((64, 64, 3, 3), F16)
    names = ("gelu", "gelu_tanh", "silu", "hardswish", "hardsigmoid", "relu6")
    return max(_conv(x, weight, padding=1, activation=name) for name in names)


def row_ring_f16() -> float:
    return _conv(image((1, 64, 12, 70), F16), image((64, 64, 3, 3), F16), padding=1)


def row_ring_planes_f16() -> float:
    return _conv(image((1, 16, 6, 35), F16, False), image((16, 16, 3, 3), F16), padding=1)


def row_ring_f32() -> float:
    """Divided factors: 1000 times the error, for that of a single tf32 product would pass."""
    return 1000 * _conv(image((1, 40, 6, 35), F32), image((24, 40, 3, 3), F32), padding=1)


def depthwise_f16() -> float:
    return _conv(image((1, 32, 9, 18), F16), image((32, 1, 3, 3), F16), padding=1, groups=32)


def depthwise_f32() -> float:
    x, weight = image((1, 2, 9, 35), F32, False), image((2, 1, 3, 3), F32, False)
    return _conv(x, weight, padding=1, groups=2)


def dilated_f16() -> float:
    options = {"padding": (2, 3), "dilation": (2, 3)}
    return _conv(image((1, 16, 9, 22), F16), image((8, 16, 3, 3), F16), **options)


def grouped_f16() -> float:
    x, weight, bias = (
        image((1, 16, 5, 17), F16),
        image((24, 8, 3, 3), F16),
        image((24, 1, 1, 1), F16),
    )
    return compare(ops.conv2d, reference.conv2d, x, weight, bias.flatten(), padding=1, groups=2)


def product_f32() -> float:
    """Two blocks of channels and of pixels, PReLU per channel; the last chunk is not full."""
    x, weight = image((1, 20, 13, 41), F32), image((70, 20, 3, 3), F32)
    bias, slopes = (image((70, 1, 1, 1), F32).flatten() for _ in range(2))

    def conv(function: Callable) -> Callable:
        options = {"stride": 2, "padding": (1, 0), "activation": "prelu"}
        return lambda x, w, b, s: function(x, w, b, **options, prelu_weight=s)

    return compare(conv(ops.conv2d), conv(reference.conv2d), x, weight, bias, slopes)


def product_planes_f32() -> float:
    x, weight = image((1, 20, 13, 11), F32, False), image((70, 20, 3, 3), F32, False)
    return _conv(x, weight, stride=2, padding=(1, 0))


def product_groups_f32() -> float:
    x, weight = image((1, 12, 9, 11), F32), image((18, 6, 3, 3), F32)
    return _conv(x, weight, groups=2, dilation=2)


def product_common_factor_f32() -> float:
    x, weight = image((1, 8, 5, 6), F32), image((8, 8, 5, 5), F32)
    options = {"stride": 4, "dilation": 2}
    return compare(ops.conv_transpose2d, reference.conv_transpose2d, x, weight, **options)


def product_transposed_f16() -> float:
    x, weight = image((1, 16, 7, 9), F16), image((16, 40, 3, 3), F16)
    options = {"stride": (2, 3), "padding": (1, 0)}
    return compare(ops.conv_transpose2d, reference.conv_transpose2d, x, weight, **options)


def transposed_planes_f16() -> float:
    x, weight = image((1, 16, 5, 18), F16, False), image((16, 8, 2, 2), F16, False)
    return compare(ops.conv_transpose2d, reference.conv_transpose2d, x, weight, stride=2)


def transposed_f16() -> float:
    x, weight = image((1, 64, 5, 20), F16), image((64, 32, 4, 4), F16)
    options = {"stride": 2, "padding": 1}
    return compare(ops.conv_transpose2d, reference.conv_transpose2d, x, weight, **options)


def transposed_tiles_f16() -> float:
    """More tiles than blocks that share them; the last of a block's lies in the second image."""
    x, weight = image((2, 16, 9, 35), F16), image((16, 8, 2, 2), F16)
    return compare(ops.conv_transpose2d, reference.conv_transpose2d, x, weight, stride=2)


def transposed_chunks_f16() -> float:
    """Weights that do not all fit shared memory."""
    x, weight = image((1, 96, 3, 5), F16), image((96, 8, 4, 4), F16)
    options = {"stride": 2, "padding": 1}
    return compare(ops.conv_transpose2d, reference.conv_transpose2d, x, weight, **options)


def _gaussian(channels_last: bool) -> float:
    def blur(function: Callable) -> Callable:
        return lambda x: function(x, (7, 5), 1.5)

    x = image((1, 3, 70, 21), F32, channels_last)
    return compare(blur(ops.gaussian_blur2d), blur(reference.gaussian_blur2d), x)


def gaussian() -> float:
    return _gaussian(channels_last=False)


def gaussian_channels_last() -> float:
    return _gaussian(channels_last=True)


def _bilateral(window: str) -> float:
    def blur(function: Callable) -> Callable:
        return lambda x: function(x, 5, 0.2, 1.5, window=window)

    x = image((1, 3, 37, 35), F32)
    return compare(blur(ops.bilateral_blur), blur(reference.bilateral_blur), x)


def bilateral() -> float:
    return _bilateral("square")


def bilateral_circle() -> float:
    return _bilateral("circle")


def bilateral_gradient() -> float:
    """The worst of the gradients of three channels guided by one, and of the sigmas."""

    def gradients(function: Callable, dtype: torch.dtype) -> tuple[Tensor, ...]:
        images = [image((1, channels, 37, 35), F32, False) for channels in (3, 1)]
        sigmas = [torch.tensor([0.2]), torch.tensor([[1.5, 1.0]])]
        leaves = [x.to(dtype).requires_grad_() for x in (*images, *sigmas)]
        x, guide, color, space = leaves
        output = function(x, guide, 5, color, space)
        weights = image(tuple(output.shape), F32, False).to(dtype)
        return torch.autograd.grad(output, leaves, weights)

    got = gradients(ops.joint_bilateral_blur, F32)
    exact = gradients(reference.joint_bilateral_blur, torch.float64)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, exact, strict=True))


def _moved(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A frame, and the frame before that from 4 rows above and 6 columns to the right."""
    whole = image((2, 1, size + 8, size + 8), dtype).add(0.5)
    smooth = torch.nn.functional.avg_pool2d(whole.float(), 5, 1, 2).to(dtype)
    return smooth[..., 4 : size + 4, :size], smooth[..., :size, 6 : size + 6]


def motion() -> float:
    frame, previous = _moved(40, F32)
    sigma = torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    got = ops.block_match(frame, previous, sigma)
    exact = reference.block_match(frame, previous, sigma)
    return float((got != exact).any())


def _vectors(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(-12, 13, (*shape, 2), generator=generator).to(torch.int16)


def warp() -> float:
    x, vectors = image((2, 3, 20, 43), F32, False), _vectors(2, 3, 6)
    return float((ops.block_warp(x, vectors) != reference.block_warp(x, vectors)).any())


def warp_gradient() -> float:
    x, vectors = image((1, 2, 20, 150), F32, False), _vectors(1, 3, 19)

    def gradient(function: Callable, x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
        return torch.autograd.grad(function(leaf, vectors), leaf, weights)[0]

    got, exact = gradient(ops.block_warp, x), gradient(reference.block_warp, x.double())
    return float((got.double() - exact).abs().max() / exact.abs().max())


def _fusion() -> list[Tensor]:
    x, previous = image((2, 2, 8, 36), F32).add(1), image((2, 5, 8, 36), F32).add(1)
    previous[:, -1, ::3] = 0
    return [x, previous, image((2, 16, 2, 9), F32).add(0.5), image((2, 1, 8, 36), F32).add(0.6)]


def fuse() -> float:
    return compare(ops.recurrent_fuse, reference.recurrent_fuse, *_fusion())


def fuse_gradients() -> float:
    def gradients(function: Callable, tensors: list[Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in tensors]
        output = function(*leaves)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        return list(torch.autograd.grad(output, leaves, weights))

    got = gradients(ops.recurrent_fuse, _fusion())
    exact = gradients(reference.recurrent_fuse, [x.double() for x in _fusion()])
    errors = [(a.double() - b).abs().max() / b.abs().max() for a, b in zip(got, exact)]
    return float(max(errors))


CALLS = {
    function.__name__: function
    for function in (
        bias_gradient, bias_gradient_f16, masked_gradients_f16,
        weight_gradient_f16, weight_gradient_f16_odd, weight_gradient_f32,
        weight_gradient_last_f32, weight_gradient_depthwise_f16, weight_gradient_geometry_f32,
        first_layer_f16, last_layer_f16, row_ring_f16, row_ring_planes_f16,
        row_ring_activations_f16, row_ring_f32, depthwise_f16, depthwise_f32,
        dilated_f16, grouped_f16, transposed_planes_f16,
        product_f32, product_planes_f32, product_groups_f32, product_common_factor_f32,
        product_transposed_f16,
        transposed_f16, transposed_tiles_f16, transposed_chunks_f16, gaussian,
        gaussian_channels_last, bilateral, bilateral_circle,
        bilateral_gradient, motion, warp, warp_gradient, fuse, fuse_gradients,
    )
} | geometry_calls.CALLS | norm_calls.CALLS | packed_calls.CALLS  # fmt: skip
# float16 results of up to 600 products summed in float32: an ulp or two, far below a wrong one.
TOLERANCE = 4e-3
