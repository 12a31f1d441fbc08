"""Which of one's own files to adapt a network to, and which network that is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from denoise_ext.io import find_pairs, list_images, read_image
from denoise_ext.io.channels import without_alpha
from denoise_ext.io.errors import reason_of
from denoise_ext.tasks.noise_analysis import profile_of
from denoise_ext.tasks.treatment import treatment_for
from denoise_ext.training.own_images import CROP

PathLike = str | os.PathLike[str]
_CHANNELS = {1: "gray", 3: "RGB"}


@dataclass(frozen=True)
class OwnFiles:
    """Files that fit together."""

    groups: list[tuple[Path, ...]]
    """The noisy file of each scene, and where there is one its partner."""
    channels: int
    """1 or 3."""
    kinds: dict[str, int]
    """How many files have each kind of noise."""
    network: str
    """The shipped network that most files are denoised with by default."""
    left_out: list[tuple[Path, str]]
    """Other files, and why."""


@dataclass(frozen=True)
class _Read:
    group: tuple[Path, ...]
    channels: int
    kind: str
    network: str


def own_files(
    images: PathLike | Iterable[PathLike], partners: Sequence[str] | None = None
) -> OwnFiles:
    """Read every file once.

    Args:
        images: files, folders and patterns, as `denoise_ext.io.list_images` takes them; with
            partners one folder.
        partners: two patterns below that folder; see `denoise_ext.io.find_pairs`.

    Raises ValueError where no file is left.
    """
    groups: list[tuple[Path, ...]]
    if partners is None:
        groups = [(path.resolve(),) for path in list_images(images)]
    elif isinstance(images, (str, os.PathLike)):
        groups = [
            (noisy.resolve(), other.resolve()) for noisy, other in find_pairs(images, *partners)
        ]
    else:
        raise ValueError("images must be one folder where pairs or takes are given")
    read: list[_Read] = []
    left_out: list[tuple[Path, str]] = []
    for group in groups:
        try:
            read.append(_read(group))
        except (ValueError, MemoryError) as error:
            left_out.append((group[0], reason_of(error)))
    count = Counter(item.channels for item in read)
    channels = 3 if count[3] >= count[1] else 1
    for item in read:
        if item.channels != channels:
            most, own = _CHANNELS[channels], _CHANNELS[item.channels]
            left_out.append((item.group[0], f"it is {own}, and most files are {most}"))
    read = [item for item in read if item.channels == channels]
    if not read:
        path, reason = left_out[0]
        raise ValueError(f"images: none of {len(groups)} files can be used; {path}: {reason}")
    kinds = Counter(item.kind for item in read)
    network = Counter(item.network for item in read).most_common(1)[0][0]
    return OwnFiles([item.group for item in read], channels, dict(kinds), network, left_out)


def _read(group: tuple[Path, ...]) -> _Read:
    """Raises ValueError with the reason for files that do not fit."""
    arrays = [without_alpha(read_image(path)) for path in group]
    first = arrays[0]
    if min(first.shape[:2]) < CROP:
        raise ValueError(
            f"{first.shape[1]} x {first.shape[0]} pixels are fewer than {CROP} x {CROP}"
        )
    for path, array in zip(group[1:], arrays[1:]):
        if array.shape[:2] != first.shape[:2]:
            a, b = array.shape, first.shape
            raise ValueError(f"{path.name} has {a[1]} x {a[0]} pixels, and this {b[1]} x {b[0]}")
        if array.shape == first.shape and np.array_equal(array, first):
            raise ValueError(f"{path.name} is the same image")
    planes = first[None] if first.ndim == 2 else first.transpose(2, 0, 1)
    profile = profile_of(torch.from_numpy(np.ascontiguousarray(planes)))
    if len(group) == 1 and profile.kind in ("impulse", "mixed"):
        raise ValueError(f"{100 * profile.impulses:.1f} % of its pixels are impulses")
    channels = 1 if profile.gray_stored_as_rgb else len(planes)
    return _Read(group, channels, profile.kind, treatment_for(profile, len(planes)).model)
