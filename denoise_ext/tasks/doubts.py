"""Warn once of an accepted argument that looks like a mistake."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from denoise_ext.runtime.tiling import Grid
from denoise_ext.tasks.images import ImageView
from denoise_ext.tasks.sampling import sample_of
from denoise_ext.tasks.sigma import Sigma
from denoise_ext.tasks.value_range import Range

_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_caller: ContextVar[dict[str, Any] | None] = ContextVar("_caller", default=None)
_BLOCK = 8  # side in pixels: the mean of a block has an eighth of the noise
_LOW, _HIGH = -0.25, 2.0  # a block's mean in a noisy image in [0, 1] comes nowhere near
_SHARE = 0.01  # of the blocks
_ROW = 7  # the pixels of every seventh row are counted: a pattern repeats in 2, 4, 8 rows rather
_REPEATED = 10  # times that a pixel is computed, in the mean
# Of the pixels, for values around zero whose blocks average out. In a black image in [0, 1] this
# many pixels are below _LOW at a noise level of 121, on the 0-255 scale.
_SHARE_OF_PIXELS = 0.3


def warn_of_doubts(opened: ImageView, sigma: Sigma, value_range: Range | None) -> None:
    """Warn of an image on another scale, and of a sigma on another scale than the image."""
    source = opened.source
    plain = source.is_floating_point() and value_range is None and not opened.from_file
    if plain:
        warn_of_range(source[0, 0])
    if plain or source.dtype == torch.uint8:
        warn_of_sigma(sigma)


def warn_of_sigma(sigma: object) -> None:
    """Warn of a level between 0 and 1, which is what noise has on a scale from 0 to 1."""
    if isinstance(sigma, (int, float)) and 0 < sigma < 1:
        _warn(
            f"sigma={sigma:g} is on the 0-255 scale, where it is less than one 8-bit level; on a"
            f" scale from 0 to 1 it would be sigma={255 * sigma:g} here"
        )


def warn_of_tile(tile: int, grid: Grid, pixels: int) -> None:
    """Warn of tiles that are little more than the overlap with their neighbours.

    Args:
        tile: as given. grid: the tiles of an image of so many pixels.
    """
    rows, columns = (sum(s.stop - s.start for s in spans) for spans in (grid.rows, grid.columns))
    if rows * columns > _REPEATED * pixels:
        _warn(
            f"tile={tile}: with this network tiles of that size are nearly all overlap, and"
            f" {rows * columns / pixels:.0f} times the image's pixels are computed; take larger"
            ' tiles, or tile="auto"'
        )


def warn_of_range(channel: Tensor) -> None:
    """Warn of floating-point pixels (H, W) that are not in [0, 1], give or take the noise."""
    parts = [part.detach().cpu() for part in sample_of(channel) if min(part.shape) >= _BLOCK]
    if all(_within(part) for part in parts):
        return
    blocks = torch.cat([_blocks(part) for part in parts])
    pixels = torch.cat([part[::_ROW].flatten() for part in parts])
    if (
        _share((blocks < _LOW) | (blocks > _HIGH)) > _SHARE
        or _share(pixels < _LOW) > _SHARE_OF_PIXELS
    ):
        _warn(
            "image: many pixels are far outside of [0, 1], as in images in [-1, 1] or normalised by"
            " mean and deviation; value_range=(black, white) states the numbers for black and white"
        )


def _within(part: Tensor) -> bool:
    """Whether all pixels are where the mean of a block may be."""
    least, most = (float(x) for x in torch.aminmax(part))
    return least >= _LOW and most <= _HIGH


def _share(where: Tensor) -> float:
    return int(where.count_nonzero()) / where.numel()


def _blocks(part: Tensor) -> Tensor:
    """The means of its whole blocks, in float32."""
    height, width = (size // _BLOCK for size in part.shape)
    rows = part[: height * _BLOCK, : width * _BLOCK].unflatten(0, (height, _BLOCK))
    sums = rows.sum(1, dtype=torch.float32).unflatten(1, (width, _BLOCK)).sum(2)
    return sums.flatten() / _BLOCK**2


def _warn(text: str) -> None:
    warnings.warn_explicit(text, UserWarning, **(_caller.get() or caller()))


def caller() -> dict[str, Any]:
    """The line outside of this package that made the call: Python warns once for each."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:  # the package itself is what runs
        return {"filename": "sys", "lineno": 1}
    return {
        "filename": frame.f_code.co_filename, "lineno": frame.f_lineno,
        "module": frame.f_globals.get("__name__", "<unknown>"),
        "registry": frame.f_globals.setdefault("__warningregistry__", {}),
    }  # fmt: skip


@contextmanager
def called_from(place: dict[str, Any]) -> Iterator[None]:
    """Within, warnings name this `caller`: in threads of the package there is none to find."""
    token = _caller.set(place)
    try:
        yield
    finally:
        _caller.reset(token)
