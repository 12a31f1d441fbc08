"""Motion between two frames: block matching, motion compensation, recurrent fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from denoise_ext._arguments import FILTER_DTYPES, FLOAT_DTYPES, check_image
from denoise_ext._motion_arguments import (
    block_sigma,
    blocks_of,
    check_frames,
    check_fuse,
    check_motion,
    pixel_level,
)
from denoise_ext.ops._layout import empty_as, output_format
from denoise_ext.ops._library import (
    forbid_double_backward,
    kernel_devices,
    native_op,
    raise_no_kernel,
)

_match_op, _match_available = native_op("block_match")
_warp_op, _warp_available = native_op("block_warp")
_warp_backward_op, _warp_backward_available = native_op("block_warp_backward")
_fuse_op, _fuse_available = native_op("recurrent_fuse")
_fuse_backward_op, _fuse_backward_available = native_op("recurrent_fuse_backward")
_match_devices = kernel_devices("block_match")
_warp_devices = kernel_devices("block_warp")
_fuse_devices = kernel_devices("recurrent_fuse")


def block_match(input: Tensor, previous: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
    """Find for each 8x8 block of ``input`` where it was in ``previous``.

    Hierarchical block matching by sums of absolute differences of 8-bit values, over windows of
    twice the block's size: +-16 pixels at a quarter of the resolution, then +-2 and +-1 pixels at
    half and at full resolution.  A vector that is not zero has to win by a margin that grows with
    ``sigma``, so that vectors of flat areas do not follow the noise.  All arithmetic is in
    integers: results are the same on every device, for any number of threads.  Not differentiable.

    =========  ===================================================================================
    argument   constraint
    =========  ===================================================================================
    input      (N, 1, H, W), black 0 and white 1 (values beyond count as these, NaN as 0), or uint8;
               float32, float64, bfloat16, float16, uint8; any strides; N may be 0
    previous   like input
    sigma      standard deviation of the noise of input on the 0-255 scale: a number >= 0, or a
               floating-point tensor (N, 1, ceil(H / 8), ceil(W / 8)), or of 1 in place of any of
               these; in a tensor values below 0 and NaN count as 0
    =========  ===================================================================================

    Returns:
        int16 (N, ceil(H / 8), ceil(W / 8), 2), (dy, dx) of each block: ``input[y, x]`` was at
        ``previous[y + dy, x + dx]``.  Both are within +-19.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or value.
        RuntimeError: the native library is missing (the message has the reason).

    Example:
        >>> previous = torch.rand(1, 1, 64, 64)
        >>> frame = previous.roll(3, dims=-1)  # moved to the right by 3
        >>> motion = denoise_ext.ops.block_match(frame, previous)
        >>> motion[0, 4, 4]  # (dy, dx): where the block was
        tensor([ 0, -3], dtype=torch.int16)
    """
    check_frames(input, previous)
    if input.device.type not in _match_devices:
        raise_no_kernel("block_match", input, _match_devices)
    return _match_op(input.detach(), previous.detach(), block_sigma(sigma, input).detach())


def block_warp(input: Tensor, motion: Tensor) -> Tensor:
    """Move each 8x8 block by its vector: motion compensation in whole pixels.

    ``output[y, x] = input[y + dy, x + dx]`` with the vector (dy, dx) of the block of (y, x).
    Places outside the image are those of the nearest pixel inside.  Differentiable once in input
    (not uint8).

    =========  ===================================================================================
    argument   constraint
    =========  ===================================================================================
    input      (N, C, H, W); float32, float64, bfloat16, float16, uint8; any strides; N may be 0
    motion     int16 (N, ceil(H / 8), ceil(W / 8), 2), as :func:`block_match` returns
    =========  ===================================================================================

    Returns:
        The input's shape, dtype and layout.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or value.
        RuntimeError: the native library is missing (the message has the reason).

    Example:
        >>> previous = torch.rand(1, 3, 64, 64)
        >>> motion = torch.zeros(1, 8, 8, 2, dtype=torch.int16)
        >>> motion[..., 1] = -3  # each block was 3 pixels to the left
        >>> moved = denoise_ext.ops.block_warp(previous, motion)
        >>> torch.equal(moved[..., 3:], previous[..., :-3])
        True
    """
    check_image(input, "input", FILTER_DTYPES)
    check_motion(motion, input)
    if input.device.type not in _warp_devices:
        raise_no_kernel("block_warp", input, _warp_devices)
    return _warp_op(input, motion)


def recurrent_fuse(input: Tensor, previous: Tensor, gate: Tensor, level: float | Tensor) -> Tensor:
    """Average a noisy frame with what earlier frames left, and follow the noise that remains.

    ``previous`` holds the last output, the last fused frame and its noise level, moved to where
    ``input`` is.  With the weight ``w = gate`` of a pixel::

        fused = input + w (previous_fused - input)
        fused_level = sqrt(((1 - w) level)^2 + (w previous_level)^2)

    ``w`` counts as 0 where either level is 0.  A previous level of 0 means that nothing is known
    of earlier frames: a state of zeros is that before the first frame.  The last output is passed
    on, or input where nothing is known.  Differentiable once in all arguments.

    =========  ===================================================================================
    argument   constraint
    =========  ===================================================================================
    input      (N, C, H, W); float32, float64, bfloat16, float16; any strides; N may be 0
    previous   (N, 2 C + 1, H, W), dtype of input: last output, last fused frame, its level
    gate       (N, r r, H / r, W / r) for a whole r, dtype of input: weights in [0, 1], r x r
               pixels beside one another as channels (``torch.nn.functional.pixel_unshuffle``)
    level      standard deviation of the noise in input, in its units: a number >= 0, or a tensor
               (N, 1, H, W), or of 1 in place of any of these
    =========  ===================================================================================

    Returns:
        (N, 2 C + 1, H, W): last output, fused frame, its level; dtype and layout of previous.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or value.
        RuntimeError: the native library is missing (the message has the reason).

    Example:
        >>> frames, gate = torch.rand(2, 1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.5)
        >>> state = torch.zeros(1, 3, 16, 16)  # nothing is known before the first frame
        >>> for frame in frames:
        ...     state = denoise_ext.ops.recurrent_fuse(frame, state, gate, level=0.1)
        >>> torch.allclose(state[:, 1:2], frames.mean(0)), round(float(state[0, 2].mean()), 4)
        (True, 0.0707)
    """
    check_image(input, "input", FLOAT_DTYPES)
    check_fuse(input, previous, gate)
    if input.device.type not in _fuse_devices:
        raise_no_kernel("recurrent_fuse", input, _fuse_devices)
    return _fuse_op(input, previous, gate, pixel_level(level, input))


def _match_fake(input: Tensor, previous: Tensor, sigma: Tensor) -> Tensor:
    return input.new_empty((input.shape[0], *blocks_of(input), 2), dtype=torch.int16)


def _warp_fake(input: Tensor, motion: Tensor) -> Tensor:
    return empty_as(input, input.shape, output_format(input))


def _warp_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _warp_backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    (motion,) = ctx.saved_tensors
    return _warp_backward_op(grad_output, motion), None


def _fuse_fake(input: Tensor, previous: Tensor, gate: Tensor, level: Tensor) -> Tensor:
    return empty_as(input, previous.shape, output_format(previous))


def _fuse_backward_fake(
    grad_output: Tensor, input: Tensor, previous: Tensor, gate: Tensor, level: Tensor,
    output_mask: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    return tuple(
        empty_as(x, x.shape, output_format(x)) if wanted else x.new_empty(0)
        for x, wanted in zip((input, previous, gate, level), output_mask, strict=True)
    )


def _fuse_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _fuse_backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    mask = list(ctx.needs_input_grad)
    gradients = _fuse_backward_op(grad_output, *ctx.saved_tensors, mask)
    return tuple(grad if wanted else None for grad, wanted in zip(gradients, mask, strict=True))


if _match_available:
    torch.library.register_fake("denoise_ext::block_match", _match_fake)
if _warp_available and _warp_backward_available:
    torch.library.register_fake("denoise_ext::block_warp", _warp_fake)
    torch.library.register_fake("denoise_ext::block_warp_backward", _warp_fake)
    torch.library.register_autograd(
        "denoise_ext::block_warp", _warp_backward, setup_context=_warp_setup_context
    )
    forbid_double_backward("block_warp_backward")
if _fuse_available and _fuse_backward_available:
    torch.library.register_fake("denoise_ext::recurrent_fuse", _fuse_fake)
    torch.library.register_fake("denoise_ext::recurrent_fuse_backward", _fuse_backward_fake)
    torch.library.register_autograd(
        "denoise_ext::recurrent_fuse", _fuse_backward, setup_context=_fuse_setup_context
    )
    forbid_double_backward("recurrent_fuse_backward")
