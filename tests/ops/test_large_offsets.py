"""Tensors whose elements lie more than 2^31 apart: offsets must be computed in 64 bits.

The memory is reserved, not filled: only the pages of the few elements that exist are ever touched.
"""

from __future__ import annotations

import pytest
import torch

from denoise_ext import ops

IMAGES, CHANNELS, ROWS = 2, 64, 6
# Elements between neighbours along an axis: the last one begins beyond element 2^31.
PITCHES = {"images": 2**31 + 64, "channels": 2**31 // (CHANNELS - 1) + 64, "rows": 2**29 + 64}
AXES = {"images": 0, "channels": 1, "rows": 2}


def weights(*sizes: int) -> torch.Tensor:
    return torch.linspace(-1, 1, torch.Size(sizes).numel(), dtype=torch.float16).view(sizes)


def spread(x: torch.Tensor, axis: str, device: str) -> torch.Tensor:
    """``x`` (N, C, H, W) with its images, channels or rows a pitch apart."""
    strides = list(x.stride())
    strides[AXES[axis]] = PITCHES[axis]
    if axis == "rows":  # one row of pixels is a run of its own; an image begins behind the last
        strides[0] = 64 * x.shape[1] * x.shape[3]
        strides[1] = 1 if x.stride(1) == 1 else x.shape[3]
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, strides, strict=True))
    view = torch.empty(span, dtype=x.dtype, device=device).as_strided(x.shape, strides)
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
# Their gradients are PyTorch's, of dense copies.
NORMS = {
    "layer_norm2d": ops.layer_norm2d,
    "group_norm": lambda x: ops.group_norm(x, 8),
}


@pytest.fixture(params=["contiguous", "channels_last"])
def image(request) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    x = torch.rand((IMAGES, CHANNELS, ROWS, 24), generator=generator).half()
    layout = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    return x.contiguous(memory_format=layout[request.param])


@pytest.mark.rotates(each=["name", "axis", "device"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", CALLS)
def test_same_values_and_gradients_as_close_together(name, axis, image, device):
    if axis == "channels" and image.stride(1) == 1:
        pytest.skip("channels that lie beside each other are not apart")
    outputs, gradients = [], []
    for x in (image.to(device), spread(image, axis, device)):
        x = x.requires_grad_()
        y = CALLS[name](x)
        outputs.append(y.detach())
        gradients += torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


@pytest.mark.rotates(each=["name", "axis", "device"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", NORMS)
def test_normalisations_are_as_close_together(name, axis, image, device):
    if axis == "channels" and image.stride(1) == 1:
        pytest.skip("channels that lie beside each other are not apart")
    together = NORMS[name](image.to(device))
    apart = NORMS[name](spread(image, axis, device))
    # Rows that are apart are not one long row: the same sums in another order, and half an ulp.
    torch.testing.assert_close(apart, together, rtol=2**-10, atol=2**-16)
