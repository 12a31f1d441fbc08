"""Convert numbers of any type and range to floating point with black 0 and white 1, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Range = tuple[float, float]

# Scale of the integer types. A noisy float image leaves [0, 1] by a few sigma; one on a 0..255
# scale leaves it by far more than this limit.
_FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0}
_WITH_RANGE = (
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint32, torch.uint64,
)  # fmt: skip
_EXACT = 2**53  # up to here float64 holds every integer
_LARGEST = 16.0


def check_range(value_range: object, dtype: torch.dtype) -> Range:
    """The numbers that stand for black and white: `value_range`, or those of `dtype`.

    Raises:
        TypeError: a dtype that is not read, or is only with a `value_range`.
        ValueError: a range that is not two finite numbers, the first one less.
    """
    known = dtype in _FULL_SCALE or dtype.is_floating_point
    if value_range is None:
        if known:
            return (0.0, _FULL_SCALE.get(dtype, 1.0))
        hint = "; other integers need value_range" if dtype in _WITH_RANGE else ""
        raise TypeError(
            f"image must be uint8, uint16 or floating point in [0, 1], got {dtype}{hint}"
        )
    if not known and dtype not in _WITH_RANGE:
        raise TypeError(f"image must hold integers or floating point, got {dtype}")
    try:
        low, high = (float(x) for x in value_range)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"value_range must be (black, white), two finite numbers, the first one less, got"
            f" {value_range!r}"
        )
    if not dtype.is_floating_point and max(-low, high) > _EXACT:
        raise ValueError(
            "value_range must lie within -2^53 and 2^53, where float64 is exact, got"
            f" {value_range!r}"
        )
    return (low, high)


def to_unit(
    x: Tensor, dtype: torch.dtype = torch.float32, value_range: Range | None = None
) -> Tensor:
    """`x` as floating point, black 0 and white 1: (x - black) / (white - black).

    Without `value_range`: uint8 / 255, uint16 / 65535, floats as they are.

    Raises:
        TypeError: another dtype (see `check_range`).
        ValueError: pixels that are not finite or plainly not in that range.

    Example:
        >>> x = torch.tensor([0, 1000], dtype=torch.int16)
        >>> denoise_ext.tasks.to_unit(x, value_range=(-1000, 1000))
        tensor([0.5000, 1.0000])
    """
    low, high = check_range(value_range, x.dtype)
    given = x.dtype
    if (low, high) != (0.0, 1.0):
        # half precision does not hold 65535, nor float32 all of 32 bits
        fine = (torch.int32, torch.int64, torch.uint32, torch.uint64, torch.float64)
        x = x.to(torch.float64 if given in fine else torch.float32)
        x = (x if low == 0 else x - low) / (high - low)
    if given not in _FULL_SCALE or value_range is not None:
        _check_numbers(x, low, high)
    return x.to(dtype)


def _check_numbers(x: Tensor, low: float, high: float) -> None:
    if x.numel():
        least, most = (float(end) for end in torch.aminmax(x))  # both NaN if any number is
        largest = max(-least, most)
        if not largest <= _LARGEST:  # also true of NaN
            found = (
                f"values {largest:g} times as far from black as white is (value_range states"
                " the numbers for black and white)"
                if math.isfinite(largest)
                else "NaN or infinity"
            )
            raise ValueError(
                f"image: pixels must be finite and on the [{low:g}, {high:g}] scale, got {found}"
            )


def from_unit(x: Tensor, dtype: torch.dtype, value_range: Range | None = None) -> Tensor:
    """Back to `dtype` and range: integers are clipped to those the type has and rounded half to
    even, floats neither.

    Example:
        >>> denoise_ext.tasks.from_unit(torch.tensor([-0.1, 0.5, 1.0]), torch.uint8)
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    low, high = check_range(value_range, dtype)
    if dtype.is_floating_point:
        return x.to(dtype) if (low, high) == (0.0, 1.0) else (x * (high - low) + low).to(dtype)
    limits = torch.iinfo(dtype)
    # float32 is exact for integers up to 65535, half precision is not, and float32 not beyond
    exact = torch.float32 if limits.bits <= 16 else torch.float64
    # float64 has no 2^63 - 1, and no image comes near it (`_LARGEST` times `_EXACT`)
    least, most = max(limits.min, -(2**62)), min(limits.max, 2**62)
    levels = (x.to(exact) * (high - low) + low).round().clamp(least, most)
    return levels.to(torch.int64 if limits.bits > 16 else torch.int32).to(dtype)
