"""One table of everything that is tested about every operator: calls, references, error bounds.

Tests iterate over ``CASES``; a new operator adds one ``OpCase``.  The bounds live in ``bounds.py``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import bounds
import bounds_motion
import bounds_norm
import calls_conv as conv
import calls_filters as filters
import calls_motion as motion
import calls_norm as norm
import torch
from calls import Call
from torch import Tensor

from denoise_ext import ops, reference

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
IMAGES = ("input", "guidance", "previous")
LARGEST_VECTOR = 25  # pixels


def _resized(call: Call, height: int, width: int) -> Call:
    """The call for images of another size."""
    images = {n: s for n, s in call.shapes.items() if n in IMAGES}
    return call.with_shapes(**{n: (*s[:-2], height, width) for n, s in images.items()})


@dataclass(frozen=True)
class OpCase:
    """How one operator is tested."""

    name: str
    op: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    calls: dict[str, Call]
    fuzz: Callable[[random.Random], Call]
    # |result - float64 reference| at most, elementwise, before the output's own rounding.
    bound: Callable[[Call, dict[str, Tensor], torch.dtype], Tensor]
    # The same for the gradient of each argument, given the output's gradient.
    gradient_bound: Callable[[Call, dict[str, Tensor], Tensor, torch.dtype], dict[str, Tensor]]
    # Calls small enough for gradcheck's finite differences.
    small_calls: dict[str, Call]
    # Native operators that this case's gradients run; none: it has no gradient.
    backward: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = FLOATS
    # Whether uint8 results are the reference's exactly, by an integer arithmetic of their own.
    exact_uint8: bool = False
    # Output pixels where the operator is smooth; None where it is everywhere.
    smooth: Callable[[Call, dict[str, Tensor], torch.dtype], Tensor] | None = None
    # Of which results are: None: of the input's dtype. Whole numbers are the reference's exactly.
    output_dtype: torch.dtype | None = None
    resized: Callable[[Call, int, int], Call] = _resized
    # Whether PyTorch's own operators compute the gradients, which may be differentiated again.
    gradient_by_pytorch: bool = False

    @property
    def differentiable(self) -> bool:
        return bool(self.backward) or self.gradient_by_pytorch


def make_tensors(
    call: Call, dtype: torch.dtype, device: str = "cpu", layout: str = "contiguous", seed: int = 0
) -> dict[str, Tensor]:
    """Random arguments for ``call``: images in [0, 1] (uint8: 0..255), sigmas positive."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    tensors = {}
    for name, shape in call.shapes.items():
        kind = dtype
        if name == "motion":
            x = torch.randint(-LARGEST_VECTOR, LARGEST_VECTOR + 1, shape, generator=generator)
            kind = torch.int16
        elif name.startswith("sigma"):
            # Sigmas are float32 beside every image type but float64.
            kind = torch.float64 if dtype == torch.float64 else torch.float32
            scale = 255.0 if dtype == torch.uint8 else 1.0
            x = (
                uniform(shape, 0.1, 0.6) * scale
                if name == "sigma_color"
                else uniform(shape, 0.5, 3)
            )
        elif dtype == torch.uint8:
            x = torch.randint(0, 256, shape, generator=generator)
        elif name in IMAGES:
            x = uniform(shape, 0.0, 1.0)
        elif name == "weight" and len(shape) == 4:
            fan_in = max(1, shape[1] * shape[2] * shape[3])
            x = uniform(shape, -1.0, 1.0) * (3.0 / fan_in) ** 0.5
        elif name == "prelu_weight":
            x = uniform(shape, -0.5, 1.0)
        else:
            x = uniform(shape, -1.0, 1.0)
        tensors[name] = with_layout(x.to(kind).to(device), layout)
    return tensors


LAYOUTS = ("contiguous", "channels_last", "strided")


def with_layout(x: Tensor, layout: str) -> Tensor:
    """The values of ``x`` in another memory layout; tensors that are not 4-D keep theirs."""
    if x.dim() != 4 or layout == "contiguous":
        return x.contiguous()
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    # Every second column of a transposed buffer: no unit stride anywhere, an offset in front.
    n, c, h, w = x.shape
    buffer = x.new_zeros((c, n, w, 2 * h + 1))
    view = buffer.permute(1, 0, 3, 2)[:, :, 1::2]  # (n, c, h, w)
    return view.copy_(x)


def to_float64(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in float64 on the CPU: the reference's arguments."""
    plain = {name: x.detach().cpu() for name, x in tensors.items()}
    return {name: x if x.dtype == torch.int16 else x.double() for name, x in plain.items()}


_JOINT_BACKWARD = ("joint_bilateral_blur_backward",)

CASES = {
    case.name: case
    for case in (
        OpCase(
            "conv2d",
            ops.conv2d,
            reference.conv2d,
            conv.conv2d_calls(),
            conv.fuzz_conv2d,
            bounds.conv2d,
            bounds.conv2d_gradients,
            conv.conv2d_small_calls(),
            ("conv2d_backward",),
            smooth=bounds.conv2d_smooth,
        ),
        OpCase(
            "conv_transpose2d",
            ops.conv_transpose2d,
            reference.conv_transpose2d,
            conv.conv_transpose2d_calls(),
            conv.fuzz_conv_transpose2d,
            bounds.conv_transpose2d,
            bounds.conv_transpose2d_gradients,
            conv.conv_transpose2d_small_calls(),
            ("conv_transpose2d_backward",),
            smooth=bounds.conv_transpose2d_smooth,
        ),
        OpCase(
            "gaussian_blur2d",
            ops.gaussian_blur2d,
            reference.gaussian_blur2d,
            filters.gaussian_calls(),
            filters.fuzz_gaussian,
            bounds.gaussian,
            bounds.gaussian_gradients,
            filters.gaussian_small_calls(),
            ("gaussian_blur2d_backward",),
            (*FLOATS, torch.uint8),
            exact_uint8=True,
        ),
        OpCase(
            "bilateral_blur",
            ops.bilateral_blur,
            reference.bilateral_blur,
            filters.bilateral_calls(False),
            filters.fuzz_bilateral(False),
            bounds.bilateral,
            bounds.bilateral_gradients,
            filters.bilateral_small_calls(False),
            _JOINT_BACKWARD,
            (*FLOATS, torch.uint8),
        ),
        OpCase(
            "joint_bilateral_blur",
            ops.joint_bilateral_blur,
            reference.joint_bilateral_blur,
            filters.bilateral_calls(True),
            filters.fuzz_bilateral(True),
            bounds.bilateral,
            bounds.bilateral_gradients,
            filters.bilateral_small_calls(True),
            _JOINT_BACKWARD,
            (*FLOATS, torch.uint8),
        ),
        OpCase(
            "block_match",
            ops.block_match,
            reference.block_match,
            motion.block_match_calls(),
            motion.fuzz_block_match,
            bounds_motion.exact,
            bounds_motion.no_gradients,
            motion.block_match_small_calls(),
            (),
            (*FLOATS, torch.uint8),
            output_dtype=torch.int16,
            resized=motion.resized_match,
        ),
        OpCase(
            "block_warp",
            ops.block_warp,
            reference.block_warp,
            motion.block_warp_calls(),
            motion.fuzz_block_warp,
            bounds_motion.exact,
            bounds_motion.block_warp_gradients,
            motion.block_warp_small_calls(),
            ("block_warp_backward",),
            (*FLOATS, torch.uint8),
            exact_uint8=True,
            resized=motion.resized_warp,
        ),
        OpCase(
            "recurrent_fuse",
            ops.recurrent_fuse,
            reference.recurrent_fuse,
            motion.recurrent_fuse_calls(),
            motion.fuzz_recurrent_fuse,
            bounds_motion.recurrent_fuse,
            bounds_motion.recurrent_fuse_gradients,
            motion.recurrent_fuse_small_calls(),
            ("recurrent_fuse_backward",),
            resized=motion.resized_fuse,
        ),
        OpCase(
            "layer_norm2d",
            ops.layer_norm2d,
            reference.layer_norm2d,
            norm.layer_norm2d_calls(),
            norm.fuzz_layer_norm2d,
            bounds_norm.forward,
            bounds_norm.gradients,
            norm.layer_norm2d_small_calls(),
            (),
            smooth=bounds_norm.smooth,
            gradient_by_pytorch=True,
        ),
        OpCase(
            "group_norm",
            ops.group_norm,
            reference.group_norm,
            norm.group_norm_calls(),
            norm.fuzz_group_norm,
            bounds_norm.forward,
            bounds_norm.gradients,
            norm.group_norm_small_calls(),
            (),
            smooth=bounds_norm.smooth,
            gradient_by_pytorch=True,
        ),
    )
}
DIFFERENTIABLE = {name: case for name, case in CASES.items() if case.differentiable}
