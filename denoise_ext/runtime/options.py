"""How networks run: device, precision, backend, memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from denoise_ext._choices import check_choice
from denoise_ext._precision import PRECISIONS
from denoise_ext.runtime.device import check_backend

Tile = str | int | None


@dataclass(frozen=True)
class RunOptions:
    """Where and how a network runs; the same for `Denoiser`, the command line and clusters.

    Raises:
        TypeError, ValueError: an option out of its range. The device is checked when it is used.

    Example:
        >>> options = denoise_ext.runtime.RunOptions(device="cpu", tile=512, max_memory=256 << 20)
        >>> options.precision
        'default'
    """

    device: str | torch.device | None = "auto"
    """As in `choose_device`."""
    precision: str = "default"
    """A name of `PRECISIONS`."""
    backend: str = "native"
    """"native" or "torch"."""
    tile: Tile = "auto"
    """"auto": by the memory; a number: side of a tile in pixels; None: whole images."""
    max_memory: int | None = None
    """Bytes of working memory; None: `runtime.memory` decides."""

    def __post_init__(self) -> None:
        check_backend(self.backend)
        check_choice("precision", self.precision, PRECISIONS)
        _check_tile(self.tile)
        object.__setattr__(self, "max_memory", _checked_memory(self.max_memory))


def _check_tile(tile: object) -> None:
    if tile is None or tile == "auto":
        return
    if isinstance(tile, bool) or not isinstance(tile, int):
        raise TypeError(f'tile must be "auto", None or a side in pixels, got {tile!r}')
    if tile < 1:
        raise ValueError(f'tile must be "auto", None or a side of 1 pixel at least, got {tile!r}')


def _checked_memory(max_memory: object) -> int | None:
    if max_memory is None:
        return None
    if isinstance(max_memory, bool) or not isinstance(max_memory, (int, float)):
        raise TypeError(f"max_memory must be a number of bytes or None, got {max_memory!r}")
    if not 1 <= max_memory < float("inf"):
        raise ValueError(f"max_memory must be a number of bytes >= 1, got {max_memory!r}")
    return int(max_memory)
