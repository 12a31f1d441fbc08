"""Tensors whose elements lie more than 2^31 apart: offsets must be computed in 64 bits.

The memory is reserved, not filled: only the pages of the few rows that exist are ever touched.
"""

from __future__ import annotations

import cuda_emulator
import pytest
import torch

from denoise_ext import ops

ROWS = 6
PITCH = 2**29 + 64  # elements between rows, so that row 4 begins beyond element 2^31


def weights(*sizes: int) -> torch.Tensor:
    return torch.linspace(-1, 1, torch.Size(sizes).numel(), dtype=torch.float16).view(sizes)


def spread(x: torch.Tensor, device: str) -> torch.Tensor:
    """``x`` (N, C, H, W) with its rows PITCH elements apart, in the same order of memory."""
    n, c, h, w = x.shape
    assert n == 1 and h == ROWS
    # One plane or pixel row is a run of its own; planes of an NCHW image interleave.
    nhwc = x.is_contiguous(memory_format=torch.channels_last) and c > 1
    strides = (h * PITCH, 1 if nhwc else w, PITCH, c if nhwc else 1)
    span = (h - 1) * PITCH + c * w
    memory = torch.empty(span, dtype=x.dtype, device=device)
    view = memory.as_strided(x.shape, strides)
    view.copy_(x)
    return view


CALLS = {
    "conv2d": lambda x: ops.conv2d(x, weights(64, 64, 3, 3).to(x), padding=1, activation="relu"),
    "conv2d_first": lambda x: ops.conv2d(x[:, :3], weights(64, 3, 3, 3).to(x), padding=1),
    "conv2d_last": lambda x: ops.conv2d(x, weights(3, 64, 3, 3).to(x), padding=1),
    "conv2d_depthwise": lambda x: ops.conv2d(x, weights(64, 1, 3, 3).to(x), padding=1, groups=64),
    "conv2d_stride": lambda x: ops.conv2d(x, weights(8, 64, 3, 3).to(x), stride=2),
    "conv_transpose2d": lambda x: ops.conv_transpose2d(
        x, weights(64, 32, 4, 4).to(x), stride=2, padding=1
    ),
    "gaussian_blur2d": lambda x: ops.gaussian_blur2d(x[:, :3], 5, 1.0),
    "bilateral_blur": lambda x: ops.bilateral_blur(x[:, :3], 5, 0.2, 1.0),
    "joint_bilateral_blur": lambda x: ops.joint_bilateral_blur(x[:, :1], x[:, 1:4], 5, 0.2, 1.0),
}


@pytest.fixture(params=["contiguous", "channels_last"])
def image(request) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    x = torch.rand((1, 64, ROWS, 24), generator=generator).half()
    layout = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    return x.contiguous(memory_format=layout[request.param])


@pytest.mark.parametrize("name", CALLS)
def test_same_values_and_gradients_as_close_together(name, image, device, request):
    if "cuda-emulated" in request.node.callspec.id and cuda_emulator.mode() == "shadow":
        pytest.skip("the checker keeps notes on every byte of the span; the asan build runs this")
    outputs, gradients = [], []
    for x in (image.to(device), spread(image, device)):
        x = x.requires_grad_()
        y = CALLS[name](x)
        outputs.append(y.detach())
        gradients += torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
