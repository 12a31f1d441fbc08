"""NPY and NPZ: NumPy arrays of any real dtype as images or stacks of images.

(H, W) is a gray image; (H, W, 1..4) gray, gray + alpha, RGB or RGBA; all axes before these count
images: (N, H, W), (N, H, W, 1..4), ... Written again in the same shape and order. An array has
no names for its axes: `Picture.shapes` has its shape, by which denoising refuses what is ambiguous.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from typing import IO

import numpy as np

from denoise_ext.io.codecs.base import ALL_MODES, Codec, Source, holds, read_up_to
from denoise_ext.io.picture import Metadata, Picture, mode_of, value_range_of

_DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64",
)  # fmt: skip
_MAX_MEMBERS = 100_000
_MAX_AXES = 8
_MAX_HEADER = 10_000  # bytes; NumPy's own limit, which it applies after reading


@dataclass(frozen=True)
class _Array:
    """How one array lay in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype  # with its byte order
    fortran: bool
    frames: int


def _read_npy(source: Source) -> Picture:
    array, frames, _ = _load(source, source.stream, "", 0)
    return _picture(source, [array], frames, "NPY")


def _read_npz(source: Source) -> Picture:
    arrays, frames, pixels = [], [], 0
    with zipfile.ZipFile(source.stream) as archive:
        members = archive.infolist()
        if not 1 <= len(members) <= _MAX_MEMBERS:
            raise source.error(f"holds {len(members)} arrays; 1 to {_MAX_MEMBERS} are read")
        for member in members:
            with archive.open(member) as stream:
                array, new, pixels = _load(source, stream, member.filename, pixels)
            arrays.append(array)
            frames += new
    return _picture(source, arrays, frames, "NPZ")


def _load(source: Source, stream: IO[bytes], name: str, others: int):
    """One array as frames, read to its stated size and no further."""
    where = f"its array {name!r} " if name else ""
    shape, fortran, dtype = _header(source, stream, where)
    if dtype.name not in _DTYPES:
        raise source.error(f"{where}has dtype {dtype}; real numbers are read")
    channels = shape[-1] if len(shape) > 2 and shape[-1] <= 4 else 0
    spatial = shape[:-1] if channels else shape
    if not 2 <= len(shape) <= _MAX_AXES or min(shape) < 1:
        raise source.error(f"{where}has shape {shape}; (..., H, W) or (..., H, W, 1..4) is read")
    count = math.prod(spatial[:-2])
    total = source.check_pixels(spatial[-1], spatial[-2], count, others)
    size = math.prod(shape) * dtype.itemsize
    data = read_up_to(stream, size)
    if len(data) != size:
        raise source.error(f"{where}is truncated: {len(data)} of {size} bytes of pixels")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    array = np.ascontiguousarray(array, dtype=dtype.newbyteorder("="))
    stack = array.reshape(count, *spatial[-2:], *((channels,) if channels > 1 else ()))
    return _Array(name, shape, dtype, fortran, count), list(stack), total


def _header(source: Source, stream: IO[bytes], where: str):
    """Shape, whether in Fortran's order, and dtype; the length is checked before it is read."""
    start = stream.read(np.lib.format.MAGIC_LEN)
    version = np.lib.format.read_magic(io.BytesIO(start))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise source.error(f"{where}has NPY version {version}; 1.0 to 3.0 are read")
    length = stream.read(2 if version == (1, 0) else 4)
    size = int.from_bytes(length, "little")
    if size > _MAX_HEADER:
        raise source.error(f"{where}has a header of {size} bytes; {_MAX_HEADER} are read")
    read_header = {
        1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0,
        3: np.lib.format.read_array_header_2_0,  # 3.0 differs in the encoding of field names only
    }[version[0]]  # fmt: skip
    return read_header(io.BytesIO(length + stream.read(size)))


def _picture(source: Source, arrays: list[_Array], frames: list[np.ndarray], name: str) -> Picture:
    modes = sorted({mode_of(frame) for frame in frames})
    if len(modes) > 1:
        raise source.error(f"holds images of different kinds: {', '.join(modes)}")
    metadata = Metadata(native=tuple(arrays))
    return Picture(
        tuple(frames), value_range_of(frames), modes[0], name, metadata,
        shapes=tuple(array.shape for array in arrays),
    )  # fmt: skip


def _write_npy(stream: IO[bytes], picture: Picture) -> None:
    ((_, array),) = _arrays(picture, 1)
    _save(stream, array)


def _write_npz(stream: IO[bytes], picture: Picture) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in _arrays(picture, None):
            member = zipfile.ZipInfo(name)  # with a fixed date: the same pixels, the same file
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as out:
                _save(out, array)


def _save(stream: IO[bytes], array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
    stream.write(buffer.getvalue())
    stream.write(np.ascontiguousarray(array.T if not array.flags.c_contiguous else array).data)


def _arrays(picture: Picture, limit: int | None) -> list[tuple[str, np.ndarray]]:
    """(name, array) of the arrays to write: laid out as they were, else as a stack."""
    layouts = picture.metadata.native
    known = isinstance(layouts, tuple) and all(isinstance(a, _Array) for a in layouts)
    if not known and picture.shapes and (limit is None or len(picture.shapes) <= limit):
        return _by_shapes(picture)
    if not known or (limit and len(layouts) > limit):
        stacked = picture.frames[0] if len(picture.frames) == 1 else np.stack(picture.frames)
        return [("image.npy", stacked)]
    arrays, at = [], 0
    for layout in layouts:
        frames = picture.frames[at : at + layout.frames]
        at += layout.frames
        array = np.stack(frames).reshape(layout.shape)
        if array.dtype == layout.dtype.newbyteorder("="):
            array = array.astype(layout.dtype, copy=False)
        array = np.asfortranarray(array) if layout.fortran else array
        arrays.append((layout.name or "image.npy", array))
    return arrays


def _by_shapes(picture: Picture) -> list[tuple[str, np.ndarray]]:
    """The arrays of a picture at another size, by their new shapes."""
    frames, arrays = list(picture.frames), []
    for number, shape in enumerate(picture.shapes):
        count = math.prod(shape) // frames[0].size
        taken, frames = frames[:count], frames[count:]
        arrays.append((f"arr_{number}.npy", np.stack(taken).reshape(shape)))
    return arrays


_HOLDS = holds(ALL_MODES, *_DTYPES)
NPY = Codec(
    name="NPY",
    suffixes=(".npy",),
    sniff=lambda head: head.startswith(b"\x93NUMPY"),
    read=_read_npy,
    write=_write_npy,
    holds=_HOLDS,
    many_frames=True,
)
NPZ = Codec(
    name="NPZ",
    suffixes=(".npz",),
    sniff=lambda head: head.startswith((b"PK\x03\x04", b"PK\x05\x06")),
    read=_read_npz,
    write=_write_npz,
    holds=_HOLDS,
    many_frames=True,
)
