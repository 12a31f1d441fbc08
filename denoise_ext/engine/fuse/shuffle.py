"""A convolution that writes its channels to where a pixel shuffle would move them.

Pixel (r y + i, r x + j) of channel c is channel c r^2 + i r + j of the convolution at (y, x).  In
channels_last, the r C channels of one i lie side by side: (j, c) of pixel x is value j C + c of the
r C that begin at pixel r x.  So for each i a convolution with those weights writes every r-th row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def channels_of(channels: int, factor: int, row: int) -> Tensor:
    """The convolution's channels that make row ``row`` of ``factor``, as they lie in memory."""
    order = torch.arange(channels).view(-1, factor, factor)  # (c, i, j)
    return order[:, row].t().reshape(-1)


def convolve(
    input: Tensor, factor: int, geometry: tuple[Any, ...], epilogue: tuple[Any, ...],
    residual: Tensor | None, algorithm: tuple[str, str], out: Tensor, *parts: Tensor | None,
) -> None:  # fmt: skip
    """Run ``factor`` convolutions; ``out`` and ``residual``: the shuffled image.

    ``parts`` for each: weight, packed weight, bias, slopes of PReLU.
    """
    if residual is not None and not _has_rows(residual):
        residual = residual.contiguous(memory_format=torch.channels_last)
    name, precision = algorithm
    activation, slope, position = epilogue
    for row in range(factor):
        weight, packed, bias, prelu = parts[4 * row : 4 * row + 4]
        torch.ops.denoise_ext.conv2d_out(
            input, weight, packed, bias, *geometry, activation, slope, prelu,
            None if residual is None else _rows(residual, factor, row), position, name,
            _rows(out, factor, row), precision,
        )  # fmt: skip


def _has_rows(image: Tensor) -> bool:
    """Whether the channels of neighbouring pixels lie side by side."""
    channels = image.shape[1]
    return image.stride(3) == channels and (image.stride(1) == 1 or channels == 1)


def _rows(image: Tensor, factor: int, row: int) -> Tensor:
    """Every ``factor``-th row from ``row`` on, ``factor`` pixels as one."""
    n, channels, height, width = image.shape
    of_image, _, of_row, of_pixel = image.stride()
    return image.as_strided(
        (n, factor * channels, height // factor, width // factor),
        (of_image, 1, factor * of_row, factor * of_pixel),
        image.storage_offset() + row * of_row,
    )
