"""Choose the tiles of an image by the available memory."""

from __future__ import annotations

from denoise_ext.runtime.memory import ENOUGH, available
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.runtime.tiling import Grid, Rule, grid, window_for

# Beside tiles whose windows are 1.5 times what is kept of them, larger ones are worth memory.
_LARGEST_OVERLAP = 1.5
# Bytes. An image on the CPU that takes no more is computed as a whole, without reading how much is
# free: that took 0.3 ms, a hundredth of a small network's time.
_LITTLE = 1 << 26
_ANOTHER = "choose a model with a finite receptive field (listed by `denoise-ext models`)"


def cut(
    session: Session,
    shape: tuple[int, int, int],
    options: RunOptions,
    share: int = 1,
    batch: int = 1,
) -> tuple[Grid, int]:
    """Return the tiles for images of `shape` (N, H, W), and how many images to compute at a time.

    Args:
        options: tile and max_memory are used.
        share: number of images that are computed at the same time and share the memory.
        batch: number of network inputs that one image makes.

    Raises:
        ValueError: a tile or memory that is too small for the network, or an image that needs more
            memory than there is and cannot be tiled. The message gives the reason.
    """
    images, height, width = shape
    tile, max_memory = options.tile, options.max_memory
    if tile is None:
        return _whole(height, width), images
    if isinstance(tile, int):
        if tile >= max(height, width):
            return _whole(height, width), images
        return grid(height, width, (tile, tile), _rule(session, height, width)), 1
    each = batch * session.bytes_per_pixel
    at_hand = max_memory
    little = images * height * width * each * share <= _LITTLE
    if at_hand is None and little and session.device.type == "cpu":
        return _whole(height, width), images
    if at_hand is None:
        free = available(session.device)
        at_hand = ENOUGH * share if free is None else free // 2
    most = at_hand // share
    limit = _limit(at_hand, share, max_memory is not None)
    wanted = most if max_memory is not None else min(most, ENOUGH)
    if height * width * each <= wanted:
        return _whole(height, width), max(1, min(images, int(wanted / (height * width * each))))
    if session.untileable:
        if height * width * each <= most:
            return _whole(height, width), 1
        raise ValueError(
            f"image of {width} x {height} pixels takes about {_size(height * width * each)} with"
            f" this model, more than {limit}, and cannot be computed in tiles:"
            f" {session.untileable}; allow more memory, or {_ANOTHER}"
        )
    tiles = _rule(session, height, width)
    pixels = wanted / each
    if max_memory is None:
        pixels = max(pixels, min(most / each, _for_overlap(tiles)), tiles.smallest**2)
    least = min(height, tiles.smallest) * min(width, tiles.smallest)
    if pixels < least:
        raise ValueError(
            f"{limit} is not enough: the smallest tile of this network,"
            f" {tiles.smallest} x {tiles.smallest} pixels, takes about {_size(least * each)}"
        )
    window = window_for(height, width, pixels)
    return grid(height, width, window, tiles), 1


def _rule(session: Session, height: int, width: int) -> Rule:
    if session.untileable:
        raise ValueError(
            f"tile: an image of {width} x {height} pixels cannot be computed in tiles by this"
            f" model: {session.untileable}; leave tile out, or {_ANOTHER}"
        )
    return session.tile_rule


def _for_overlap(tiles: Rule) -> float:
    """Pixels of the window that is `_LARGEST_OVERLAP` times what is kept of it."""
    side = 2 * tiles.radius / (1 - _LARGEST_OVERLAP**-0.5)
    return (side + tiles.alignment) ** 2


def _whole(height: int, width: int) -> Grid:
    return grid(height, width, (height, width), Rule(0, 1))


def _limit(at_hand: int, share: int, given: bool) -> str:
    what = f"max_memory of {_size(at_hand)}" if given else f"half of what is free, {_size(at_hand)}"
    return what if share == 1 else f"{what} for {share} images at a time"


def _size(size: float) -> str:
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"
