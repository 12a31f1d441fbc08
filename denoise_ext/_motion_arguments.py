"""Argument checks of the motion operators, for operators, references and layers.

As in ``_arguments``: each raises ValueError or TypeError naming the argument.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoise_ext._arguments import FILTER_DTYPES, FLOAT_DTYPES, check_image, check_like_input

BLOCK = 8  # pixels: side of the blocks that motion is estimated for


def check_frames(input: Tensor, previous: Tensor) -> None:
    """Check two planes (N, 1, H, W) of one size, dtype and device."""
    check_image(input, "input", FILTER_DTYPES)
    if input.dim() != 4 or input.shape[1] != 1:
        raise ValueError(f"input must have shape (N, 1, H, W), got {tuple(input.shape)}")
    check_image(previous, "previous", FILTER_DTYPES)
    _check_shaped(previous, "previous", input, tuple(input.shape))


def check_motion(motion: Tensor, input: Tensor) -> None:
    """Check the motion of the blocks of ``input``."""
    if not isinstance(motion, Tensor):
        raise TypeError(f"motion must be a torch.Tensor, got {type(motion).__name__}")
    if input.dim() != 4:
        raise ValueError(f"input must have shape (N, C, H, W), got {tuple(input.shape)}")
    if motion.dtype != torch.int16:
        raise TypeError(f"motion must be int16, got {motion.dtype}")
    wanted = (input.shape[0], *blocks_of(input), 2)
    if tuple(motion.shape) != wanted:
        raise ValueError(f"motion must have shape {wanted}, got {tuple(motion.shape)}")
    if motion.device != input.device:
        raise ValueError(f"motion must be on input's device ({input.device}), got {motion.device}")


def check_fuse(input: Tensor, previous: Tensor, gate: Tensor) -> None:
    """Check what is fused with ``input`` (N, C, H, W), and the gate."""
    if input.dim() != 4:
        raise ValueError(f"input must have shape (N, C, H, W), got {tuple(input.shape)}")
    n, channels, height, width = input.shape
    check_image(previous, "previous", FLOAT_DTYPES)
    _check_shaped(previous, "previous", input, (n, 2 * channels + 1, height, width))
    check_image(gate, "gate", FLOAT_DTYPES)
    factor = width // gate.shape[-1] if gate.shape[-1] else 1
    _check_shaped(
        gate, "gate", input, (n, factor * factor, height // max(factor, 1), width // max(factor, 1))
    )
    if factor < 1 or height % factor or width % factor:
        raise ValueError(
            f"gate must have shape (N, r r, H / r, W / r) for an input of {height} x {width}, "
            f"got {tuple(gate.shape)}"
        )


def _check_shaped(tensor: Tensor, name: str, input: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    check_like_input(tensor, name, input)


def blocks_of(input: Tensor) -> tuple[int, int]:
    """Rows and columns of the blocks of an image (N, C, H, W); a part of a block counts as one."""
    return -(-input.shape[2] // BLOCK), -(-input.shape[3] // BLOCK)


def block_sigma(sigma: float | Tensor, input: Tensor) -> Tensor:
    """A noise level on the 0-255 scale as (N, 1, rows, columns) of blocks, expanded."""
    kind = torch.float64 if input.dtype == torch.float64 else torch.float32
    wanted = (input.shape[0], 1, *blocks_of(input))
    return _expanded(sigma, "sigma", input, wanted, kind, "rows, columns")


def pixel_level(level: float | Tensor, input: Tensor) -> Tensor:
    """A noise level as (N, 1, H, W) in the dtype of ``input``, expanded."""
    wanted = (input.shape[0], 1, *input.shape[2:])
    return _expanded(level, "level", input, wanted, input.dtype, "H, W")


def _expanded(
    value: float | Tensor,
    name: str,
    input: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    places: str,
) -> Tensor:
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        raise TypeError(f"{name} must be a number or a torch.Tensor, got {type(value).__name__}")
    if not isinstance(value, Tensor):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and >= 0, got {value}")
        return torch.full((1, 1, 1, 1), float(value), dtype=dtype, device=input.device).expand(
            shape
        )
    fits = value.dim() == 4 and all(
        size == 1 or size == full for size, full in zip(value.shape, shape)
    )
    if not fits:
        raise ValueError(
            f"{name} must be a number or have shape (1 or N, 1, {places}), each place one value or "
            f"{shape}, got {tuple(value.shape)}"
        )
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {value.dtype}")
    if value.device != input.device:
        raise ValueError(f"{name} must be on input's device ({input.device}), got {value.device}")
    return value.to(dtype).expand(shape)
