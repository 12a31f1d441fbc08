"""Convolutions that memory bounds - depthwise, first and last layers, stride 2 transposed.

The calls are large enough for the CUDA kernels written for them to be chosen, and small enough to
be emulated: tiles that are cut off at the right and below, channels that do not fill a block.
"""

from __future__ import annotations

import pytest
import torch
from calls import Call
from cases import CASES, make_tensors
from op_checks import check_forward, dtype_name

from denoise_ext import ops
from denoise_ext._loader import native

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _call(input: tuple[int, ...], weight: tuple[int, ...], **options: object) -> Call:
    channels = weight[1] if options.pop("transposed", False) else weight[0]
    return Call({"input": input, "weight": weight, "bias": (channels,)}, options)


def _with_residual(call: Call, rows: int, cols: int, position: str) -> Call:
    batch, channels = call.shapes["input"][0], call.shapes["weight"][0]
    call = call.with_shapes(residual=(batch, channels, rows, cols))
    return call.with_options(residual_position=position)


def _depthwise(channels: int, size: tuple[int, int], kernel: tuple[int, int], **options: object):
    return _call((1, channels, *size), (channels, 1, *kernel), groups=channels, **options)


def _transposed(channels: tuple[int, int], size: tuple[int, int], kernel: int, **options: object):
    weight = (*channels, kernel, kernel)
    return _call((1, channels[0], *size), weight, stride=2, transposed=True, **options)


_PRELU = _depthwise(40, (31, 33), (5, 5), padding=2, activation="prelu")
# Kernel, layout and call.
CALLS = {
    "depthwise_3x3": ("conv_depthwise_rows", "channels_last", _with_residual(
        _depthwise(72, (24, 32), (3, 3), padding=1, activation="relu"), 24, 32, "after")),
    "depthwise_5x5": ("conv_depthwise_rows", "channels_last", _PRELU.with_shapes(
        prelu_weight=(40,))),
    "depthwise_7x7": ("conv_depthwise_rows", "channels_last",
        _depthwise(64, (16, 30), (7, 7), padding=(3, 2), activation="tanh")),
    "depthwise_stride": ("conv_depthwise_rows", "channels_last",
        _depthwise(32, (31, 61), (3, 3), padding=1, stride=2, activation="sigmoid")),
    "depthwise_4x6": ("conv_depthwise_rows", "channels_last",
        _depthwise(64, (20, 37), (4, 6), padding=(1, 3))),
    "depthwise_planes_3x3": ("conv_depthwise_planes", "contiguous", _with_residual(
        _depthwise(3, (59, 61), (3, 3), padding=1, activation="relu"), 59, 61, "before")),
    "depthwise_planes_5x2": ("conv_depthwise_planes", "contiguous",
        _depthwise(2, (63, 65), (5, 2), padding=(2, 1), activation="tanh")),
    "depthwise_planes_7x7_stride": ("conv_depthwise_planes", "contiguous",
        _depthwise(2, (61, 119), (7, 7), padding=3, stride=2)),
    "first_gray": ("conv_first", "channels_last", _call(
        (1, 1, 14, 62), (64, 1, 3, 3), padding=1, activation="relu")),
    "first_colour": ("conv_first", "channels_last", _with_residual(_call(
        (1, 3, 17, 61), (40, 3, 3, 3), padding=1, activation="leaky_relu", negative_slope=0.1),
        17, 61, "before")),
    "first_5x5": ("conv_first", "channels_last", _call(
        (2, 4, 16, 60), (36, 4, 5, 5), padding=2, activation="sigmoid")),
    "last_gray": ("conv_last", "channels_last", _with_residual(_call(
        (1, 64, 16, 62), (1, 64, 3, 3), padding=1), 16, 62, "after")),
    "last_colour": ("conv_last", "channels_last", _call(
        (2, 40, 31, 32), (3, 40, 3, 3), padding=1, activation="tanh")),
    "last_4": ("conv_last", "channels_last", _call((1, 24, 34, 35), (4, 24, 3, 3))),
    "transposed_2x2": ("conv_transpose_phases", "channels_last", _transposed(
        (40, 32), (8, 31), 2, activation="relu")),
    "transposed_3x3": ("conv_transpose_phases", "channels_last", _transposed(
        (32, 40), (7, 32), 3, padding=1, output_padding=1, activation="tanh")),
    "transposed_4x4": ("conv_transpose_phases", "channels_last", _transposed(
        (64, 32), (7, 29), 4, padding=1)),
    # Blocks that go on to the next tile, row of tiles and image, with two chunks of input channels.
    "transposed_tiles": ("conv_transpose_phases", "channels_last", _call(
        (2, 40, 9, 67), (40, 32, 3, 3), stride=2, padding=1, transposed=True, activation="relu")),
    # Weights that do not all fit shared memory.
    "transposed_chunks": ("conv_transpose_phases", "channels_last", _transposed(
        (96, 32), (9, 33), 4, padding=1)),
}  # fmt: skip
TABLE = [
    pytest.param(CASES["conv_transpose2d" if "transposed" in name else "conv2d"], *entry, id=name)
    for name, entry in CALLS.items()
]


def _tensors(call: Call, layout: str, dtype: torch.dtype, device: str = "cpu"):
    tensors = make_tensors(call, dtype, device, layout)
    if layout == "channels_last" and tensors["input"].shape[1] == 1:
        # One channel: both layouts have the same memory, and only the strides tell which is meant.
        x = tensors["input"]
        tensors["input"] = x.as_strided(x.shape, (x.shape[2] * x.shape[3], 1, x.shape[3], 1))
    return tensors


@pytest.mark.rotates(each=["kernel", "dtype", "device"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("case, kernel, layout, call", TABLE)
def test_matches_reference(case, kernel, layout, call, dtype, device):
    check_forward(case, call, _tensors(call, layout, dtype, device), kernel)


@pytest.mark.skipif(not native().build_info()["cuda"], reason="the build has no CUDA kernels")
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("case, kernel, layout, call", TABLE)
def test_kernel_is_chosen(case, kernel, layout, call, dtype):
    tensors = _tensors(call, layout, dtype)
    text = ops.explain(case.op, device="sm_90", **tensors, **call.options)
    assert text.startswith(f"{kernel}: chosen"), text
