"""Why a kernel cannot run: the reasons that only sizes beyond any memory give, and rare options.

No emulated call has such sizes.  ``ops.explain`` takes tensors without data.
"""

from __future__ import annotations

import re

import pytest
import torch

from denoise_ext import ops
from denoise_ext._loader import native

pytestmark = pytest.mark.skipif(
    not native().build_info()["cuda"], reason="the build has no CUDA kernels"
)
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def _conv(dtype, input, weight, architecture="sm_90", op=ops.conv2d, **options):
    """What is said of a convolution of channels_last tensors without data."""
    _, channels, rows, cols = input
    x = torch.empty(1, dtype=dtype, device="meta").as_strided(
        input, (channels * rows * cols, 1, cols * channels, channels)
    )
    w = torch.empty(weight, dtype=dtype, device="meta")
    return ops.explain(op, x, w, device=architecture, **options)


def _up(dtype, input, weight, **options):
    return _conv(dtype, input, weight, op=ops.conv_transpose2d, **options)


LONG = 2**30
# Kernel, its reason, and what is said of a call.
REASONS = {
    "first_9x9": ("conv_first", "kernel must be at most 7 x 7",
                  lambda: _conv(F16, (1, 3, 16, 16), (8, 3, 9, 9))),
    "first_bf16": ("conv_first", "bfloat16 needs a GPU of compute capability 8.0",
                   lambda: _conv(BF16, (1, 3, 16, 16), (8, 3, 3, 3), "sm_75")),
    "first_large": ("conv_first", "image is too large",
                    lambda: _conv(F32, (1, 3, 2**22, 2**20), (8, 3, 3, 3))),
    "first_outputs": ("conv_first", "so many output channels need more shared memory",
                      lambda: _conv(F16, (1, 3, 16, 16), (4096, 3, 3, 3))),
    "last_large": ("conv_last", "image is too large",
                   lambda: _conv(F32, (1, 8, 2**22, 2**20), (3, 8, 3, 3))),
    "last_inputs": ("conv_last", "so many input channels need more shared memory",
                    lambda: _conv(F16, (1, 8192, 16, 16), (3, 8192, 3, 3))),
    "depthwise_9x9": ("conv_depthwise_rows", "kernel must be at most 7 x 7",
                      lambda: _conv(F16, (1, 16, 16, 16), (16, 1, 9, 9), groups=16)),
    "depthwise_75": ("conv_depthwise_rows", "the kernel size and stride need more shared memory",
                     lambda: _conv(F16, (1, 64, 32, 32), (64, 1, 7, 7), "sm_75", groups=64,
                                   stride=2)),
    "gemm_stride": ("conv_gemm_mma", "takes strides of conv_transpose2d up to 16 only",
                    lambda: _up(F16, (1, 16, 4, 4), (16, 16, 3, 3), stride=17)),
    "gemm_channels": ("conv_gemm_mma", "below 2^29 only",
                      lambda: _conv(F16, (1, 2**26, 3, 3), (1, 2**26, 3, 3))),
    "rowring_long": ("conv_rowring", "takes images, channels and padding below 2^29 only",
                     lambda: _conv(F16, (1, 16, 4, LONG), (16, 16, 3, 3))),
    "phases_long": ("conv_transpose_phases", "takes images, channels and padding below 2^29 only",
                    lambda: _up(F16, (1, 16, 4, LONG // 2), (16, 16, 2, 2), stride=2)),
    "bilateral_long": ("bilateral_tile", "it counts rows and columns in 32 bits",
                       lambda: _filter(3, (1, 1, 4, LONG))),
    "bilateral_wide": ("bilateral_tile", "does not fit a block's shared memory",
                       lambda: _filter(301, (1, 1, 512, 512))),
}  # fmt: skip


def _filter(size, shape):
    x = torch.empty(1, device="meta").as_strided(shape, (0, 0, shape[3], 1))
    return ops.explain(ops.bilateral_blur, x, size, 0.1, 2.0, device="sm_90")


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_given(name):
    kernel, reason, explained = REASONS[name]
    text = explained()
    assert re.search(rf"^{kernel}: .*{re.escape(reason)}", text, re.M), text
