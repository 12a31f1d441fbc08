"""Geometries that small tables leave out, in every kernel of a convolution and on every GPU.

Slopes of PReLU beyond one block of output channels, padding and kernels that differ between the
axes, residuals laid out otherwise than the output, and numbers of multiprocessors at which blocks
begin and end inside of images, strips and blocks of output channels.
"""

from __future__ import annotations

import cuda_emulator
import pytest
import torch
from cases import CASES, Call, make_tensors, to_float64, with_layout
from op_checks import check_forward, check_gradients, dtype_name
from torch import Tensor

pytestmark = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


def _call(
    input: tuple[int, ...], weight: tuple[int, ...], output: tuple[int, ...], **options
) -> Call:
    """With a slope and a bias for each channel, and a residual."""
    channels = output[1]
    shapes = {"input": input, "weight": weight, "bias": (channels,), "prelu_weight": (channels,)}
    call = Call(shapes, {"activation": "prelu", **options})
    return call.with_shapes(residual=output)


def _up(input: tuple[int, ...], weight: tuple[int, ...], **options) -> Call:
    channels = weight[1]
    shapes = {"input": input, "weight": weight, "bias": (channels,), "prelu_weight": (channels,)}
    return Call(shapes, {"activation": "prelu", **options})


# Kernel, operator and call. 96 and 160 outputs are several blocks of 32 or 64 of them.
CALLS = {
    "rowring": ("conv_rowring", "conv2d", _call(
        (1, 16, 9, 35), (96, 16, 3, 3), (1, 96, 7, 37), padding=(0, 2))),
    "rowring_1x1": ("conv_rowring", "conv2d", _call(
        (2, 40, 5, 19), (160, 40, 1, 1), (2, 160, 5, 19), residual_position="after")),
    "rowring_5x5": ("conv_rowring", "conv2d", _call(
        (1, 24, 9, 33), (72, 24, 5, 5), (1, 72, 11, 33), padding=(3, 2))),
    "rowring_144": ("conv_rowring", "conv2d", _call(
        (1, 72, 5, 18), (144, 72, 3, 3), (1, 144, 5, 18), padding=1)),
    "first": ("conv_first", "conv2d", _call(
        (1, 3, 10, 35), (96, 3, 3, 3), (1, 96, 8, 37), padding=(0, 2))),
    "first_3x5": ("conv_first", "conv2d", _call(
        (2, 4, 9, 34), (40, 4, 3, 5), (2, 40, 9, 34), padding=(1, 2))),
    "last": ("conv_last", "conv2d", _call(
        (1, 40, 11, 35), (3, 40, 3, 3), (1, 3, 9, 37), padding=(0, 2))),
    "depthwise": ("conv_depthwise_rows", "conv2d", _call(
        (1, 104, 11, 18), (104, 1, 3, 5), (1, 104, 9, 20), padding=(0, 3), groups=104)),
    "transposed": ("conv_transpose_phases", "conv_transpose2d", _up(
        (1, 24, 5, 19), (24, 96, 4, 4), stride=2, padding=(0, 1))),
    "products": ("conv_gemm_mma", "conv2d", _call(
        (1, 24, 9, 18), (160, 24, 3, 5), (1, 160, 4, 18), padding=(0, 2), stride=(2, 1))),
    "tiled": ("conv_tiled", "conv2d", _call(
        (1, 24, 9, 18), (96, 24, 3, 5), (1, 96, 4, 18), padding=(0, 2), stride=(2, 1))),
    "parts": ("conv_parts", "conv2d", _call(
        (1, 16, 9, 18), (96, 16, 3, 3), (1, 96, 5, 20), padding=(0, 3), dilation=2)),
    "direct": ("conv_direct", "conv2d", _call(
        (1, 5, 9, 8), (70, 5, 3, 5), (1, 70, 7, 8), padding=(0, 2))),
}  # fmt: skip
PLANES = {
    f"{height}x3_stride_{stride}": _call(
        (2, 35, 17, 41), (35, 1, height, 3), (2, 35, (17 - height) // stride + 1, 42 // stride + 1),
        padding=(0, 2), groups=35, stride=stride)
    for height in (3, 5, 7) for stride in (1, 2)
}  # fmt: skip
# What takes bfloat16 at compute capability 7.5, whose tensor cores do not.
WITHOUT_TENSOR_CORES = ("conv_depthwise_rows", "conv_tiled", "conv_direct")
CAPABILITIES = (75, 80, 86, 89, 90, 120)


def _multiprocessors(capability: int) -> int:
    return 3 if capability in (75, 86, 90) else 5


@pytest.mark.rotates(each=["name"], turns=12)
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", [F16, BF16], ids=dtype_name)
@pytest.mark.parametrize("name", CALLS)
def test_16_bit_elements(name, dtype, capability):
    kernel, op, call = CALLS[name]
    if dtype == BF16 and capability == 75 and kernel not in WITHOUT_TENSOR_CORES:
        pytest.skip("tensor cores of compute capability 7.5 take no bfloat16")
    _check(kernel, op, call, dtype, capability)


@pytest.mark.rotates(each=["name"])
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", [n for n in CALLS if CALLS[n][0] != "conv_gemm_mma"])
def test_float32(name, capability):
    _check(*CALLS[name], F32, capability)


@pytest.mark.rotates(each=["name"])
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=dtype_name)
@pytest.mark.parametrize("name", PLANES)
def test_depthwise_planes(name, dtype):
    _check("conv_depthwise_planes", "conv2d", PLANES[name], dtype, 90, "contiguous")


def _check(kernel: str, op: str, call: Call, dtype: torch.dtype, capability: int,
           layout: str = "channels_last") -> None:  # fmt: skip
    tensors = make_tensors(call, dtype, layout=layout)
    options = {"compute_capability": capability, "variant": kernel,
               "multiprocessors": _multiprocessors(capability)}  # fmt: skip
    # The vectors of the depthwise kernel are the residual's, too.
    others = [] if kernel == "conv_depthwise_rows" else ["contiguous", "strided"]
    for seed, residual in enumerate([layout, *others] if "residual" in tensors else [layout]):
        if "residual" in tensors:
            tensors["residual"] = with_layout(tensors["residual"], residual)
        with cuda_emulator.emulated_cuda(seed, **options) as machine:
            check_forward(CASES[op], call, tensors, f"{kernel}, residual {residual}")
            assert kernel in machine.variants()


WEIGHT_GRADIENTS = {
    "mma": ("conv_weight_grad_mma", (2, 40, 5, 70), (72, 40, 3, 3), (0, 1)),
    "mma_1x1": ("conv_weight_grad_mma", (2, 40, 5, 70), (72, 40, 1, 1), (0, 0)),
    "gemm": ("conv_weight_grad_gemm", (2, 24, 9, 19), (40, 24, 3, 5), (0, 2)),
}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [F16, BF16], ids=dtype_name)
@pytest.mark.parametrize("name", WEIGHT_GRADIENTS)
def test_weight_gradients(name, dtype, capability):
    kernel, input, weight, padding = WEIGHT_GRADIENTS[name]
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        x = torch.rand(shape, generator=generator, dtype=F64) * 2 - 1
        return x.to(dtype).contiguous(memory_format=torch.channels_last)

    x, w = uniform(*input), uniform(*weight)
    grad = uniform(*torch.nn.functional.conv2d(x.double(), w.double(), padding=padding).shape)
    options = {"compute_capability": capability, "variant": kernel, "multiprocessors": 3}
    with cuda_emulator.emulated_cuda(1, **options) as machine:
        got = torch.ops.denoise_ext.conv2d_backward(
            grad, x, w, None, None, [1, 1], list(padding), [1, 1], 1, "none", 0.0,
            [False, True, True, False, False],
        )  # fmt: skip
        assert kernel in machine.variants()

    def exact(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.convolution_backward(
            grad.double(), x.double(), w.double(), [len(w)], [1, 1], list(padding), [1, 1], False,
            [0, 0], 1, [False, True, True],
        )[1:]  # fmt: skip

    # A sum over all pixels in float32 of products that are exact there, rounded once.
    pixels, eps = grad.numel() // len(w), torch.finfo(F32).eps
    for ours, theirs, terms in zip(got[1:], exact(grad, x), exact(grad.abs(), x.abs())):
        bound = (pixels + 16) * eps * terms + torch.finfo(dtype).eps * theirs.abs()
        assert ((ours.double() - theirs).abs() <= bound).all()


@pytest.mark.parametrize("border", ["reflect", "replicate", "constant", "circular"])
@pytest.mark.parametrize("dtype", [F64, F32, torch.uint8], ids=dtype_name)
def test_direct_gaussian(dtype, border):
    """Of several images with a sigma each, and its gradients."""
    call = Call({"input": (2, 3, 11, 9), "sigma": (2, 2)},
                {"kernel_size": (7, 5), "border_type": border})  # fmt: skip
    tensors = make_tensors(call, dtype)
    with cuda_emulator.emulated_cuda(
        variant="gaussian_direct gaussian_sigma_grad_direct"
    ) as machine:
        check_forward(CASES["gaussian_blur2d"], call, tensors)
        if dtype.is_floating_point:
            check_gradients(CASES["gaussian_blur2d"], call, tensors)
            assert "gaussian_sigma_grad_direct" in machine.variants()
        assert "gaussian_direct" in machine.variants()


ROUNDED = [name for name in CALLS if name not in ("rowring_144", "rowring_5x5", "first_3x5")]


@pytest.mark.rotates()
@pytest.mark.parametrize("name", ROUNDED)
def test_bfloat16_is_rounded_to_nearest(name):
    """The errors of many outputs cancel; those of truncation add up to half an ulp of the mean."""
    kernel, op, call = CALLS[name]
    epilogue = ("activation", "residual_position")
    options = {key: value for key, value in call.options.items() if key not in epilogue}
    call = Call({key: call.shapes[key] for key in ("input", "weight")}, options)
    tensors = make_tensors(call, BF16, layout="channels_last")
    with cuda_emulator.emulated_cuda(compute_capability=80, variant=kernel):
        got = CASES[op].op(**tensors, **call.options).double()
    exact = CASES[op].reference(**to_float64(tensors), **call.options)
    ulp = torch.exp2(torch.floor(torch.log2(exact.abs().clamp_min(1e-30)))) * 2**-7
    errors = ((got - exact) * exact.sign() / ulp)[exact.abs() > 1e-6]
    # Uniform between -1/2 and 1/2: a standard deviation of 12^-1/2, of the mean by the root less.
    assert errors.abs().max() < 0.6
    assert errors.mean().abs() < 6 * 12**-0.5 / errors.numel() ** 0.5
