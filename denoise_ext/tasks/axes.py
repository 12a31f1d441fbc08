"""Name the axes of an array by letters: those of a picture, and those that count pictures.

    Y, X    rows and columns of a picture; both are needed
    S       samples of a picture: 1 gray, 2 gray + alpha, 3 RGB, 4 RGB + alpha
    C       channels of any number, each a gray picture
    T, Z, N time, depth, number; each step is a picture

The letters are those of OME-TIFF and tifffile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
from torch import Tensor

from denoise_ext.io import Picture

_LETTERS = "NTZCSYX"


def check_axes(axes: object) -> str | None:
    """`axes` if it is None or letters as above, each at most once; TypeError or ValueError if not.

    >>> check_axes("TZCYX")
    'TZCYX'
    """
    if axes is None:
        return None
    if not isinstance(axes, str):
        raise TypeError(f"axes must be letters, as 'ZYX', or None, got {axes!r}")
    good = set(axes) <= set(_LETTERS) and len(set(axes)) == len(axes) and {"Y", "X"} <= set(axes)
    if not good:
        raise ValueError(
            f"axes must be letters of {_LETTERS}, each once at most, Y and X among them, got"
            f" {axes!r}"
        )
    return axes


def check_count(axes: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless there are as many letters as `shape` has axes."""
    if len(axes) != len(shape):
        raise ValueError(f"axes: {axes!r} has {len(axes)} letters, the image has shape {shape}")


def by_pictures(x: Tensor, axes: str) -> Tensor:
    """The axes that count pictures first, then channels (the samples S, or one), Y, X: a view."""
    outer = [i for i, letter in enumerate(axes) if letter not in "SYX"]
    x = x.permute(*outer, *(axes.index(letter) for letter in "SYX" if letter in axes))
    return x if "S" in axes else x.unsqueeze(-3)


def batch_of(x: Tensor, axes: str) -> Tensor:
    """All pictures as (N, C, H, W): a view where the memory allows one, else a copy."""
    x = by_pictures(x, axes)
    return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])


def parts_of(picture: Picture, axes: str | None) -> list[Picture]:
    """What is denoised at a time: each frame, or with `axes` each array of the file.

    Raises:
        ValueError: no `axes`, where the file holds an array whose axes are not plain.
    """
    if axes is not None:
        if len(picture.shapes) <= 1:
            return [picture]
        frames = iter(picture.frames)
        return [replace(picture, frames=_taken(frames, s), shapes=(s,)) for s in picture.shapes]
    for shape in picture.shapes:
        if not _plain(shape):
            letters = (
                'axes="ZYX" (slices) or axes="YXC" (channels last)'
                if len(shape) == 3
                else f"axes, a letter of {_LETTERS} for each of the {len(shape)}"
            )
            raise ValueError(f"image: an array of shape {shape} has no plain axes: give {letters}")
    return [replace(picture, frames=(frame,), shapes=()) for frame in picture.frames]


def _taken(frames: Iterator[np.ndarray], shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """As many frames as an array of this shape has."""
    taken = [next(frames)]
    taken += islice(frames, math.prod(shape) // taken[0].size - 1)
    return tuple(taken)


def _plain(shape: tuple[int, ...]) -> bool:
    """Whether a bare array can mean one thing: (H, W), (N, H, W), and with 1 to 4 samples last.

    (A, B, C) with the shortest axis last, as (64, 64, 5), could be slices and channels.
    """
    if shape[-1] <= 4:
        return len(shape) <= 4
    return len(shape) == 2 or (len(shape) == 3 and shape[2] >= min(shape[:2]))


def array_of(picture: Picture, axes: str) -> tuple[np.ndarray, str]:
    """The one array that a picture's frames are, and its axes: pages are one axis, N."""
    frames = picture.frames
    first = frames[0]
    if picture.shapes:
        return np.stack(frames).reshape(picture.shapes[0]), axes
    array = np.stack(frames) if len(frames) > 1 else first
    inner = axes[len(axes) - first.ndim :]
    if len(axes) > array.ndim and set(inner) <= set("SYX"):
        array, axes = np.stack(frames), "N" + inner  # pages of several axes, as a TIFF has them
    return array, axes
