"""Pixel types: integers on their full scale <-> floating point in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

# Scale of the integer types. A noisy float image leaves [0, 1] by a few sigma; one on a 0..255
# scale leaves it by far more than this limit.
_FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0}
_LARGEST_FLOAT = 16.0


def to_unit(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`x` as floating point in [0, 1]: uint8 / 255, uint16 / 65535, floats as they are.

    Raises:
        TypeError: another dtype.
        ValueError: a float image that is not finite or plainly not on the 0..1 scale.
    """
    if x.dtype in _FULL_SCALE:
        # uint16 has few operations in PyTorch; int32 holds it
        wide = x.to(torch.int32) if x.dtype == torch.uint16 else x
        return wide.to(dtype) / _FULL_SCALE[x.dtype]
    if not x.is_floating_point():
        raise TypeError(f"image must be uint8, uint16 or floating point in [0, 1], got {x.dtype}")
    if x.numel():
        largest = float(x.abs().max())
        if not largest <= _LARGEST_FLOAT:  # also true of NaN
            raise ValueError(
                "image: floating-point pixels must be finite and on the [0, 1] scale, got"
                f" values up to {largest:g}"
            )
    return x.to(dtype)


def from_unit(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Back to `dtype`: integers are clipped to the scale and rounded half to even, floats kept."""
    if dtype not in _FULL_SCALE:
        return x.to(dtype)
    scale = _FULL_SCALE[dtype]
    # float32 is exact for integers up to 65535, half precision is not
    levels = (x.to(torch.float32) * scale).round().clamp(0, scale)
    return levels.to(torch.int32).to(dtype)
