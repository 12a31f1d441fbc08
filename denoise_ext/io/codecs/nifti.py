"""NIfTI-1 and NIfTI-2 volumes in one file, plain or gzipped, as stacks of slices.

Frames are the slices (Y, X) along the third axis, those of the first time point first. Header,
affine and extensions are kept byte for byte, and pixels are the stored numbers: scl_slope and
scl_inter stay in the header.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass, field
from typing import IO, Any, cast

import numpy as np

from denoise_ext.io.codecs.base import Codec, Source, holds, read_up_to
from denoise_ext.io.errors import optional
from denoise_ext.io.picture import Metadata, Picture, value_range_of

_DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"
)  # fmt: skip
_SIZES = {1: 348, 2: 540}  # of the header
_MAX_OFFSET = 1 << 26  # of the voxels: header and extensions take up to 64 MiB


@dataclass(frozen=True)
class _Volume:
    start: bytes = field(repr=False)  # all that lies before the voxels
    version: int
    dtype: np.dtype  # with its byte order


def _version(head: bytes) -> int:
    """1 or 2; 0 if these are not the first bytes of a NIfTI file."""
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return 1
    return 2 if head[4:12] in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n") else 0


def _unpacked(head: bytes) -> bytes:
    if head[:2] != b"\x1f\x8b":
        return b""
    try:
        return zlib.decompressobj(31).decompress(head, 600)  # 31: with a gzip header
    except zlib.error:
        return b""


def _header(nibabel: Any, version: int, data: bytes) -> Any:
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    return kind(data[: _SIZES[version]], check=False)


def _read_plain(source: Source) -> Picture:
    return _read(source, source.stream, "NIFTI")


def _read_gzipped(source: Source) -> Picture:
    with gzip.GzipFile(fileobj=source.stream) as stream:
        return _read(source, cast("IO[bytes]", stream), "NIFTI.GZ")


def _read(source: Source, stream: IO[bytes], name: str) -> Picture:
    nibabel = source.optional("nibabel", "medical", "is a NIfTI volume")
    start = stream.read(_SIZES[2])
    version = _version(start)
    header = _header(nibabel, version, start)
    if b"ni" in bytes(header["magic"]):
        raise source.error("is a NIfTI header without its voxels; volumes in one file are read")
    dtype = header.get_data_dtype()
    if dtype.name not in _DTYPES:
        raise source.error(f"has voxels of type {dtype}; integers and real floats are read")
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 2 or min(shape) < 1:
        raise source.error(f"has shape {shape}; two to seven dimensions are read")
    slices = math.prod(shape[2:])
    source.check_pixels(shape[0], shape[1], slices)
    offset = int(header["vox_offset"]) or _SIZES[version] + 4
    if not _SIZES[version] <= offset <= _MAX_OFFSET:
        raise source.error(f"has its voxels at byte {offset}, which cannot be")
    start += read_up_to(stream, max(0, offset - len(start)))
    rest = start[offset:]
    size = math.prod(shape) * dtype.itemsize
    data = bytearray(rest[:size])
    data += read_up_to(stream, size - len(data))
    if len(start) < offset or len(data) < size:
        raise source.error(f"is truncated: it has {len(data)} of {size} bytes of voxels")
    # the first axis runs fastest in the file
    voxels = np.frombuffer(data, dtype).reshape(slices, shape[1], shape[0])
    frames = tuple(voxels.astype(dtype.newbyteorder("="), copy=False))
    value_range = value_range_of(frames, full_scale=False)
    metadata = Metadata(native=_Volume(start[:offset], version, dtype))
    return Picture(frames, value_range, "gray", name, metadata)


def _write_plain(stream: IO[bytes], picture: Picture) -> None:
    volume = picture.metadata.native
    if not isinstance(volume, _Volume):
        raise ValueError("its metadata are not those of a NIfTI file")
    start, dtype = volume.start, volume.dtype
    kind = picture.frames[0].dtype
    if kind != dtype.newbyteorder("="):
        nibabel = optional("nibabel", "medical", "NIfTI")
        header = _header(nibabel, volume.version, start)
        header.set_data_dtype(kind)
        start = header.binaryblock + start[len(header.binaryblock) :]
        dtype = kind.newbyteorder(header.endianness)
    stream.write(start)
    for frame in picture.frames:
        stream.write(np.ascontiguousarray(frame, dtype).data)


def _write_gzipped(stream: IO[bytes], picture: Picture) -> None:
    # no name and no time in it: the same voxels, the same file
    with gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0) as packed:
        _write_plain(cast("IO[bytes]", packed), picture)


_BOTH = ("NIFTI", "NIFTI.GZ")
PLAIN = Codec(
    name="NIFTI",
    suffixes=(".nii",),
    sniff=lambda head: _version(head) > 0,
    read=_read_plain,
    write=_write_plain,
    holds=holds(("gray",), *_DTYPES),
    many_frames=True,
    only_from=_BOTH,
)
GZIPPED = Codec(
    name="NIFTI.GZ",
    suffixes=(".nii.gz",),
    sniff=lambda head: _version(_unpacked(head)) > 0,
    read=_read_gzipped,
    write=_write_gzipped,
    holds=holds(("gray",), *_DTYPES),
    many_frames=True,
    only_from=_BOTH,
)
