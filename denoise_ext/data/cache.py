"""Decoded images: once, in one block of memory or one file that is mapped into it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from denoise_ext.io import read_image, write_atomically
from denoise_ext.io.channels import to_gray, without_alpha

File = str | Path
_FORMAT = b"denoise_ext images 3"  # at both ends of a cache file; of an even length
_ALIGNMENT = 2  # bytes: where images begin
_DTYPES = {dtype.name: dtype for dtype in (np.dtype(np.uint8), np.dtype(np.uint16))}


class ImageCache(Sequence[np.ndarray]):
    """All images decoded; ``cache[i]`` is a view (H, W, C), uint8 or uint16 as the file is.

    Args:
        files: image files; or tuples of files of one size (noisy file, target), whose channels are
            put behind one another: C = 2 * channels. Where one has 16 bits, both get 16.
        channels: 1 (colour images are converted to gray as Pillow's mode "L" does: ITU-R 601
            luma) or 3 (gray images are repeated).
        scales: every image is there at each of these sizes (Lanczos): image i at ``scales[k]`` is
            ``cache[k * len(files) + i]``.
        normalise: "range" (the file's full range) or "stretch" (0.1 and 99.9 percentiles of the
            image become black and white; of a tuple, those of its first file).
        treat: called with every decoded group of files, (H, W, C), before it is scaled; returns an
            image of the same shape and dtype. ``treatment`` names it, all that it does, for the
            cache.
        folder: keep the decoded images there, in a file named by the arguments and by path, size
            and modification time of every image file, and map it; it is written once, whole or not
            at all, so that several processes may do so at a time. None: in memory.

    Raises:
        ValueError: a file that is missing or not an image, files of a tuple that differ in size.

    Example:
        >>> files = denoise_ext.data.list_image_files("photos")
        >>> images = denoise_ext.data.ImageCache(files, channels=1, scales=(1.0, 0.5))
        >>> len(images), images[0].shape, images[2].shape
        (4, (48, 64, 1), (24, 32, 1))
    """

    def __init__(
        self,
        files: Sequence[File | tuple[File, ...]],
        channels: int,
        *,
        scales: Sequence[float] = (1.0,),
        normalise: str = "range",
        treat: Callable[[np.ndarray], np.ndarray] | None = None,
        treatment: str = "",
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        if normalise not in ("range", "stretch"):
            raise ValueError(f"normalise must be 'range' or 'stretch', got {normalise!r}")
        self.channels = channels
        self.groups: list[tuple[Path, ...]] = [
            tuple(map(Path, f)) if isinstance(f, tuple) else (Path(f),) for f in files
        ]
        self._scales = len(scales)

        def decoded(group: tuple[Path, ...]) -> np.ndarray:
            image = _decode_group(group, channels, normalise)
            return image if treat is None else treat(image)

        # All sizes of an image, then the next: one is in memory, and decoded once.
        images = (_scaled(image, scale) for image in map(decoded, self.groups) for scale in scales)
        if folder is None:
            self._keep_in_memory(list(images))
            return
        settings = [channels, scales, normalise, *([treatment] if treatment else [])]
        key = _key(self.groups, *settings)
        path = Path(folder) / f"{key}.images"
        if not self._map(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"cannot make the cache {path.parent}: {error.strerror}") from None
            write_atomically(path, lambda stream: _write(stream, images), overwrite=True)
            if not self._map(path):
                raise ValueError(f"{path}: the cache just written cannot be read back")

    def _keep_in_memory(self, images: list[np.ndarray]) -> None:
        self._set_table([_entry(image) for image in images])
        self._bytes = np.empty(self._offsets[-1], np.uint8)
        for start, image in zip(self._offsets, images):
            self._bytes[start : start + image.nbytes] = _as_bytes(image)

    def _set_table(self, entries: Sequence[tuple[str, Sequence[int]]]) -> None:
        """Raises KeyError, TypeError or ValueError where it is none."""
        self._dtypes = [_DTYPES[name] for name, _ in entries]
        self._shapes = [tuple(shape) for _, shape in entries]
        self._sizes = [
            int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            for shape, dtype in zip(self._shapes, self._dtypes, strict=True)
        ]
        aligned = [size + _padding(size) for size in self._sizes]
        self._offsets = np.concatenate([[0], np.cumsum(aligned)]).astype(np.int64)

    def _map(self, path: Path) -> bool:
        """Map a cache file; False where there is none, or one that is not whole."""
        try:
            with open(path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - len(_FORMAT) - 8))
                length = int.from_bytes(file.read(8), "little")
                end = size - len(_FORMAT) - 8 - length
                if file.read() != _FORMAT or end < len(_FORMAT):
                    return False
                file.seek(end)
                self._set_table(json.loads(file.read(length)))
        except (OSError, ValueError, TypeError, KeyError):
            return False
        if int(self._offsets[-1]) != end - len(_FORMAT):
            return False
        whole = np.memmap(path, dtype=np.uint8, mode="r")
        self._bytes = whole[len(_FORMAT) : end]
        return True

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"image index {index} out of range for {len(self)} images")
        scale, group = divmod(index, len(self.groups))
        place = group * self._scales + scale
        start = self._offsets[place]
        stored = self._bytes[start : start + self._sizes[place]]
        return stored.view(self._dtypes[place]).reshape(self._shapes[place])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


def _write(stream: IO[bytes], images: Iterator[np.ndarray]) -> None:
    """Format, pixels of all images, their dtypes and shapes as JSON, its length, format.

    One file's image at a time is in memory, and one of its sizes.
    """
    entries = []
    stream.write(_FORMAT)
    for image in images:
        entries.append(_entry(image))
        stream.write(_as_bytes(image).data)
        stream.write(bytes(_padding(image.nbytes)))
    table = json.dumps(entries).encode()
    stream.write(table + len(table).to_bytes(8, "little") + _FORMAT)


def _entry(image: np.ndarray) -> tuple[str, tuple[int, ...]]:
    return image.dtype.name, image.shape


def _as_bytes(image: np.ndarray) -> np.ndarray:
    """(bytes,) uint8."""
    return np.ascontiguousarray(image).reshape(-1).view(np.uint8)


def _padding(size: int) -> int:
    return -size % _ALIGNMENT


def _key(groups: list[tuple[Path, ...]], *settings: object) -> str:
    facts = []
    for path in (path for group in groups for path in group):
        try:
            state = path.stat()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        facts.append([str(path.resolve()), state.st_size, state.st_mtime_ns])
    text = json.dumps([[len(group) for group in groups], facts, [str(s) for s in settings]])
    return hashlib.sha256(_FORMAT + text.encode()).hexdigest()[:32]


def _decode_group(group: tuple[Path, ...], channels: int, normalise: str) -> np.ndarray:
    """Files of one scene, their channels behind one another: (H, W, len(group) * channels)."""
    arrays = [without_alpha(read_image(path)) for path in group]
    if any(array.dtype == np.uint16 for array in arrays):
        arrays = [as_16_bit(array) for array in arrays]
    if normalise == "stretch":
        low, high = np.percentile(arrays[0], (0.1, 99.9))
        white = white_of(arrays[0])
        gain = white / max(float(high - low), 1e-9)
        arrays = [np.clip((a - low) * gain, 0, white).round().astype(a.dtype) for a in arrays]
    images = [_as_channels(array, channels) for array in arrays]
    for path, image in zip(group, images):
        if image.shape != images[0].shape:
            a, b = images[0].shape, image.shape
            raise ValueError(f"{path} is {b[1]} x {b[0]}, but {group[0]} {a[1]} x {a[0]} pixels")
    return images[0] if len(images) == 1 else np.concatenate(images, axis=2)


def _as_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, channels)."""
    if channels == 1 and array.ndim == 3:
        array = to_gray(array)
    if channels == 3 and array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return array[..., None] if array.ndim == 2 else array


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1.0:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    # Pillow resamples 8-bit planes and float32 ones, which hold 16 bits exactly.
    kind = np.uint8 if image.dtype == np.uint8 else np.float32
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., c], kind)) for c in range(image.shape[2])
    ]
    resized = [np.asarray(p.resize(size, Image.Resampling.LANCZOS)) for p in planes]
    stacked = np.stack(resized, axis=2)
    if image.dtype == np.uint8:
        return stacked
    return stacked.round().clip(0, white_of(image)).astype(image.dtype)


def white_of(image: np.ndarray) -> int:
    """The value of white: 255 or 65535."""
    return int(np.iinfo(image.dtype).max)


def as_16_bit(image: np.ndarray) -> np.ndarray:
    """uint8 as uint16, the full range as the full range; uint16 as it is."""
    return image if image.dtype == np.uint16 else image * np.uint16(257)  # 65535 / 255
