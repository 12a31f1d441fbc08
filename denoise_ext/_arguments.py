"""Argument checks that operators, their references and the layers share.

Each check returns the argument in the one form the rest of the package uses and raises ValueError
or TypeError naming the argument, what was got and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoise_ext._choices import check_choice
from denoise_ext._precision import ALGORITHMS

ACTIVATIONS = (
    "none", "relu", "leaky_relu", "prelu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu",
    "hardswish", "hardsigmoid", "relu6",
)  # fmt: skip
BORDERS = ("reflect", "replicate", "constant", "circular")
COLOR_DISTANCES = ("l1", "l2")
WINDOWS = ("square", "circle")
RESIDUAL_POSITIONS = ("before", "after")

# The largest arguments, as in csrc/params/limits.h. Extents are strides, paddings, dilations, and
# the rows and columns of images (padded or not) and of kernels with their dilation.
LARGEST_EXTENT = 2**30
MOST_TAPS = 2**24
MOST_WEIGHTS = 2**31
MOST_OUTPUTS = 2**48
LARGEST_GAUSSIAN = 65535
LARGEST_BILATERAL = 1023
MOST_GUIDE_CHANNELS = 2**16

FLOAT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FILTER_DTYPES = (*FLOAT_DTYPES, torch.uint8)
_LEAST_SIDE = 24  # in pixels: of fewer, many channels are as likely as a picture

Sigma = float | Sequence[float] | Tensor


def check_activation(activation: str, negative_slope: float = 0.01) -> str:
    """Check the name of an activation and the slope that ``leaky_relu`` would use."""
    check_choice("activation", activation, ACTIVATIONS)
    # The backward of leaky_relu reads the sign of the input from the output: slopes below zero
    # would fold the two halves onto each other.
    if activation == "leaky_relu" and not 0.0 <= negative_slope < math.inf:
        raise ValueError(f"negative_slope must be a finite number >= 0, got {negative_slope}")
    return activation


def check_border(border_type: str) -> str:
    """Check the name of a border rule."""
    return check_choice("border_type", border_type, BORDERS)


def check_color_distance(color_distance_type: str) -> str:
    """Check the name of a colour distance."""
    return check_choice("color_distance_type", color_distance_type, COLOR_DISTANCES)


def check_window(window: str, kernel_size: tuple[int, int]) -> str:
    """Check the name of a bilateral window; a circle has one radius, hence one kernel size."""
    check_choice("window", window, WINDOWS)
    if window == "circle" and kernel_size[0] != kernel_size[1]:
        raise ValueError(
            f"kernel_size must be the same in both directions for window='circle', "
            f"got {tuple(kernel_size)}"
        )
    return window


def check_residual_position(residual_position: str) -> str:
    """Check where the residual is added."""
    return check_choice("residual_position", residual_position, RESIDUAL_POSITIONS)


def check_precision(precision: str) -> str:
    """Check the name of a precision of convolutions."""
    return check_choice("precision", precision, ALGORITHMS)


# Non-strict export passes sizes as SymInt; NumPy's integers count as ints in torch too.
_SymInt: type[object] = torch.SymInt  # object: annotations name the plain int
_INTS = (int, torch.SymInt, np.integer)


def int_pair(
    value: int | Sequence[int], name: str, minimum: int, largest: int = LARGEST_EXTENT
) -> tuple[int, int]:
    """Return ``value`` (an int, or two of them) as a pair, each ``minimum`` to ``largest``."""
    # What nearly every call passes, at once; a SymInt is none of these classes.
    given: Any = value
    if given.__class__ is int and minimum <= given <= largest:
        return given, given
    if given.__class__ is tuple and len(given) == 2:
        first, second = given
        if first.__class__ is int is second.__class__ and (
            minimum <= first <= largest and minimum <= second <= largest
        ):
            return given
    if isinstance(value, _INTS):
        pair = (value, value)
    elif isinstance(value, (tuple, list)) and 1 <= len(value) <= 2:
        pair = (value[0], value[-1])  # torch takes a sequence of one for both directions
    else:
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    if not (isinstance(pair[0], _INTS) and isinstance(pair[1], _INTS)):
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    if pair[0] < minimum or pair[1] < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    for extent in pair:
        if extent.__class__ is not _SymInt and extent > largest:
            _at_most(extent, largest, name)
    return pair


def _at_most(value: int, most: int, what: str) -> None:
    # A traced size is left to the operator: to compare it here would limit the exported program.
    if value.__class__ is not _SymInt and value > most:
        raise ValueError(f"{what} must be at most {most}, got {value}")


def check_fake_conv(weight: Tensor, groups: int = 1, **pairs: Sequence[int]) -> None:
    """Check for a fake kernel what the operator does, and its Python function did before."""
    check_weight_size(weight)
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups must divide weight.shape[0] ({weight.shape[0]}), got {groups}")
    for name, pair in pairs.items():
        int_pair(pair, name, 0 if "padding" in name else 1)


def check_fake_mask(output_mask: Sequence[bool], count: int) -> None:
    """Check for a backward's fake kernel that the mask has an entry for each gradient."""
    if len(output_mask) != count:
        raise ValueError(f"output_mask must hold {count} booleans, got {len(output_mask)}")


def conv_output_size(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Check the extents of a convolution; return the rows and columns of its output."""
    image, (_, _, kh, kw) = input.shape, weight.shape
    h, w = image[-2], image[-1]
    reach_y, reach_x = dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1
    padded_y, padded_x = h + 2 * padding[0], w + 2 * padding[1]
    if not (
        padded_y.__class__ is not _SymInt
        and padded_x.__class__ is not _SymInt
        and reach_y.__class__ is not _SymInt
        and reach_x.__class__ is not _SymInt
        and padded_y <= LARGEST_EXTENT
        and padded_x <= LARGEST_EXTENT
        and reach_y <= LARGEST_EXTENT
        and reach_x <= LARGEST_EXTENT
    ):
        for extent, reach, padded in ((h, reach_y, padded_y), (w, reach_x, padded_x)):
            _at_most(extent, LARGEST_EXTENT, "input's extent")
            _at_most(reach, LARGEST_EXTENT, "dilation times weight's extent")
            _at_most(padded, LARGEST_EXTENT, "padding and input's extent together")
    return (padded_y - reach_y) // stride[0] + 1, (padded_x - reach_x) // stride[1] + 1


def conv_transpose_output_size(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Check the extents of a transposed convolution; return the rows and columns of its output."""
    image, (_, _, kh, kw) = input.shape, weight.shape
    h, w = image[-2], image[-1]
    reach_y, reach_x = dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1
    rows = (h - 1) * stride[0] - 2 * padding[0] + reach_y + output_padding[0]
    columns = (w - 1) * stride[1] - 2 * padding[1] + reach_x + output_padding[1]
    if not (
        rows.__class__ is not _SymInt
        and columns.__class__ is not _SymInt
        and reach_y.__class__ is not _SymInt
        and reach_x.__class__ is not _SymInt
        and h <= LARGEST_EXTENT
        and w <= LARGEST_EXTENT
        and rows <= LARGEST_EXTENT
        and columns <= LARGEST_EXTENT
        and reach_y <= LARGEST_EXTENT
        and reach_x <= LARGEST_EXTENT
    ):
        for extent, reach, output in ((h, reach_y, rows), (w, reach_x, columns)):
            _at_most(extent, LARGEST_EXTENT, "input's extent")
            _at_most(reach, LARGEST_EXTENT, "dilation times weight's extent")
            _at_most(output, LARGEST_EXTENT, "stride times input's extent, the output's extent,")
    return rows, columns


def check_output_size(shape: tuple[int, ...]) -> None:
    """Check the number of elements of a convolution's output."""
    elements = math.prod(shape)
    if elements.__class__ is _SymInt or elements > MOST_OUTPUTS:
        _at_most(elements, MOST_OUTPUTS, "output's elements")


def check_weight_size(weight: Tensor) -> None:
    """Check the number of elements and taps of a convolution's weight."""
    elements = weight.numel()
    if elements.__class__ is not _SymInt and 0 < elements <= MOST_TAPS:  # so few are the taps too
        return
    _, _, rows, columns = weight.shape
    _at_most(rows * columns, MOST_TAPS, "weight's rows times columns")
    _at_most(elements, MOST_WEIGHTS, "weight's number of elements")


def odd_kernel_size(kernel_size: int | Sequence[int], largest: int) -> tuple[int, int]:
    """Return a filter's kernel size as a pair (height, width) of odd ints from 1 to ``largest``."""
    pair = int_pair(kernel_size, "kernel_size", 1, largest)
    if pair[0] % 2 == 0 or pair[1] % 2 == 0:
        raise ValueError(f"kernel_size must be odd (the window has a centre), got {kernel_size!r}")
    return pair


def _positive(value: object, name: str) -> float:
    if not isinstance(value, (int, float)):
        if not isinstance(value, (np.number, torch.SymFloat, torch.SymInt)):
            raise TypeError(f"{name} must be a number, got {value!r}")
        value = float(value)
    if not 0.0 < value < math.inf:  # false for NaN too
        raise ValueError(f"{name} must be finite and > 0, got {value}")
    return value


def positive_sigma(value: Sigma, name: str, length: int) -> float | tuple[float, float] | Tensor:
    """Check a sigma: one number per image (``length`` 1) or one per direction (``length`` 2).

    Numbers come back as a float (length 1) or a pair of floats (length 2).  A tensor comes back
    unchanged once its rank is right; the operator checks its values, where it needs them anyway.
    """
    if isinstance(value, Tensor):
        if value.dim() < 2 or (length == 2 and value.dim() == 2 and value.shape[1] == 2):
            return value
        shapes = "(B,), (1, 2) or (B, 2)" if length == 2 else "(1,) or (B,)"
        raise ValueError(f"{name} must have shape {shapes}, got {tuple(value.shape)}")
    if length == 1:
        return _positive(value, name)
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(
                f"{name} must be a number or a pair (vertical, horizontal), got {value!r}"
            )
        return _positive(value[0], name), _positive(value[1], name)
    value = _positive(value, name)
    return value, value


def check_sigma_values(sigma: Tensor, name: str) -> None:
    """Check the values of a sigma tensor, except where a traced or meta tensor has none."""
    if torch.compiler.is_compiling() or sigma.is_meta:
        return
    if not bool((sigma > 0).all() & sigma.isfinite().all()):
        raise ValueError(
            f"{name} must be finite and > 0 everywhere, got {sigma.detach().flatten().tolist()}"
        )


def sigma_tensor(
    value: Sigma, name: str, length: int, input: Tensor, numbers_on: str | None = None
) -> Tensor:
    """Return a sigma as the tensor the operators take, for a 4-D ``input`` (B, C, H, W).

    Returns:
        (1,) or (B,) for ``length`` 1, (1, 2) or (B, 2) for ``length`` 2; float64 for float64 input,
        float32 otherwise.  A tensor ``value`` is on the input's device, and gradients flow through
        to it; numbers become a tensor on ``numbers_on`` (by default the input's device).
    """
    value = positive_sigma(value, name, length)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    if not isinstance(value, Tensor):
        rows = [list(value)] if isinstance(value, tuple) else [value]
        return torch.tensor(rows, dtype=dtype, device=numbers_on or input.device)
    if value.is_complex():
        raise TypeError(f"{name} must be real, got {value.dtype}")
    if value.device != input.device:
        raise ValueError(
            f"{name} must be on the input's device ({input.device}), got {value.device}"
        )
    value = value.to(dtype)
    if value.dim() == 0:
        value = value.reshape(1)
    if value.shape[0] != 1 and value.shape[0] != input.shape[0]:
        raise ValueError(
            f"{name} must hold one value or one per image ({input.shape[0]}), "
            f"got shape {tuple(value.shape)}"
        )
    if length == 2 and value.dim() == 1:
        value = value.unsqueeze(1).expand(-1, 2)
    return value.contiguous()


def check_like_input(x: Tensor, name: str, input: Tensor) -> None:
    """Check that ``x`` is a tensor with the input's dtype and device."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype is not input.dtype:
        raise TypeError(f"{name} must have input's dtype ({input.dtype}), got {x.dtype}")
    if x.device != input.device:
        raise ValueError(f"{name} must be on input's device ({input.device}), got {x.device}")


def check_image(input: Tensor, name: str, dtypes: tuple[torch.dtype, ...]) -> None:
    """Check that ``input`` is a (B, C, H, W) or (C, H, W) tensor of one of ``dtypes``."""
    if not isinstance(input, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(input).__name__}")
    if input.dim() != 4 and input.dim() != 3:
        raise ValueError(
            f"{name} must have shape (N, C, H, W) or (C, H, W), got {tuple(input.shape)}"
        )
    if input.dtype not in dtypes:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} must be one of {allowed}, got {input.dtype}")
    if input.dtype is torch.uint8:
        _check_channels_first(input, name)


def _check_channels_first(input: Tensor, name: str) -> None:
    """Refuse a uint8 image (H, W, C), as decoders and OpenCV give it: it would pass for H channels.

    That is what a width of at most 4 pixels beside height and channels of 24 or more means.
    """
    channels, height, width = input.shape[-3:]
    if 0 < width <= 4 and channels >= _LEAST_SIDE and height >= _LEAST_SIDE:
        order = "0, 3, 1, 2" if input.dim() == 4 else "2, 0, 1"
        raise ValueError(
            f"{name} must have shape (N, C, H, W) or (C, H, W), got {tuple(input.shape)}, which"
            f" looks like channels last: pass {name}.permute({order})"
        )


def bilateral_kernel_size(
    kernel_size: int | Sequence[int], input: Tensor, guidance: Tensor
) -> tuple[int, int]:
    """Return a bilateral window's size as a pair; check it and the channels that it compares."""
    name = "input" if guidance is input else "guidance"
    if guidance.dim() > 2:  # of another rank in a raw call, whose operator refuses it
        _at_most(guidance.shape[-3], MOST_GUIDE_CHANNELS, f"{name}'s channels")
    return odd_kernel_size(kernel_size, LARGEST_BILATERAL)


def check_guidance(input: Tensor, guidance: Tensor) -> None:
    """Check that ``guidance`` goes with ``input``: same batch, size, dtype and device."""
    check_image(guidance, "guidance", FILTER_DTYPES)
    if guidance.dim() != input.dim():
        raise ValueError(
            f"guidance must have as many dimensions as input ({input.dim()}), got {guidance.dim()}"
        )
    batch = input.shape[:-3]
    if guidance.shape[:-3] != batch or guidance.shape[-2:] != input.shape[-2:]:
        raise ValueError(
            f"guidance must have input's batch and size (input: {tuple(input.shape)}), "
            f"got {tuple(guidance.shape)}"
        )
    check_like_input(guidance, "guidance", input)
