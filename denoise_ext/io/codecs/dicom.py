"""DICOM: gray and colour images of one or several frames, through pydicom.

Pixels are the stored numbers: rescale and window stay in the tags. A written file is a derived
image in a series of its own. Tags are kept, except those that mark it as derived (PS3.3 C.7.6.1,
C.12.1.1.9).
"""

from __future__ import annotations

import copy
import hashlib
import io
import zlib
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from denoise_ext.io.codecs.base import Codec, Source, holds
from denoise_ext.io.codecs.codestream import stated_size
from denoise_ext.io.errors import optional
from denoise_ext.io.picture import Metadata, Picture, mode_of, value_range_of

_DERIVATION = "Noise reduced with denoise_ext"
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_PIXEL_DATA = 0x7FE00010
_MAX_METADATA = 1 << 26  # bytes that a deflated file may hold beside its pixels: 64 MiB
_MAX_PIXEL_BYTES = 12  # three channels of 32 bits
_MAX_DESCRIPTION = 1024  # of a value of kind ST


@dataclass(frozen=True, eq=False)
class _Tags:
    dataset: Any = field(repr=False)  # pydicom's, without the pixels
    padding: tuple[tuple[np.ndarray, np.ndarray], ...] | None = field(repr=False)
    """Per frame, where the stored number means "outside of the picture", and these numbers."""


def _read(source: Source) -> Picture:
    pydicom = source.optional("pydicom", "medical", "is a DICOM file")
    dataset = pydicom.dcmread(_inflated(source, pydicom))
    _check(source, dataset)
    _check_codestreams(source, pydicom, dataset)
    pixels = _stored_pixels(source, pydicom, dataset)
    count = int(dataset.get("NumberOfFrames") or 1)
    stack = pixels if count > 1 else pixels[None]
    frames = tuple(np.ascontiguousarray(frame, frame.dtype.newbyteorder("=")) for frame in stack)
    frames = tuple(frame if frame.flags.writeable else frame.copy() for frame in frames)
    tags = _kept(dataset, frames)
    inside = frames
    if tags.padding is not None:
        pairs = zip(frames, tags.padding)
        inside = tuple(f[~mask] for f, (mask, _) in pairs if not mask.all()) or frames
    value_range = value_range_of(inside, full_scale=frames[0].ndim == 3)
    return Picture(frames, value_range, mode_of(frames[0]), "DICOM", Metadata(native=tags))


def _inflated(source: Source, pydicom: Any) -> IO[bytes]:
    """The file, or a deflated one as it is without: pydicom would inflate whatever there is.

    As much is inflated as metadata may take, and then as the pixels take that the metadata state.
    """
    stream, reader = source.stream, pydicom.filereader
    reader.read_preamble(stream, force=False)
    meta = reader.read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
    if meta.get("TransferSyntaxUID") != pydicom.uid.DeflatedExplicitVRLittleEndian:
        stream.seek(0)
        return stream
    packed = zlib.decompressobj(-zlib.MAX_WBITS)
    data = packed.decompress(stream.read(), _MAX_METADATA)
    body = io.BytesIO(data)
    tags = reader.read_dataset(body, False, True, stop_when=lambda tag, *_: tag >= _PIXEL_DATA)
    frames = int(tags.get("NumberOfFrames") or 1)
    pixels = source.check_pixels(int(tags.get("Columns") or 0), int(tags.get("Rows") or 0), frames)
    allowed = body.tell() + pixels * _MAX_PIXEL_BYTES + _MAX_METADATA
    data += packed.decompress(packed.unconsumed_tail, allowed - len(data))
    if not packed.eof and len(data) >= allowed:
        raise source.error(
            f"inflates to more than the {allowed} bytes that its {pixels} pixels and"
            f" {_MAX_METADATA} bytes of metadata can need"
        )
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    plain = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(plain, meta, enforce_standard=False)
    return io.BytesIO(bytes(128) + b"DICM" + plain.getvalue() + data)


def _check(source: Source, dataset: Any) -> None:
    if "PixelData" not in dataset:
        raise source.error("is a DICOM file without an image (no Pixel Data)")
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    source.check_pixels(columns, rows, int(dataset.get("NumberOfFrames") or 1))
    samples, bits = dataset.get("SamplesPerPixel"), dataset.get("BitsAllocated")
    kind = dataset.get("PhotometricInterpretation")
    if bits not in (8, 16, 32):
        raise source.error(f"has {bits} bits per pixel; 8, 16 and 32 are read")
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    colour = kind in ("RGB", "PALETTE COLOR") or (compressed and str(kind).startswith("YBR"))
    if not (kind in _GRAY or colour) or samples != (1 if kind in (*_GRAY, "PALETTE COLOR") else 3):
        raise source.error(
            f"has {samples} channels of kind {kind}; gray, RGB and palettes are read"
        )


def _check_codestreams(source: Source, pydicom: Any, dataset: Any) -> None:
    """Compressed frames must have the size that the tags state: decoders go by the stream's."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == pydicom.uid.RLELossless:  # RLE states no size
        return
    expected = (int(dataset.Columns), int(dataset.Rows), int(dataset.SamplesPerPixel))
    count = int(dataset.get("NumberOfFrames") or 1)
    frames = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=count)
    for number, data in enumerate(frames):
        found = stated_size(data)
        if found != expected:
            what = "no size" if found is None else "{}x{} and {} channels".format(*found)
            raise source.error(
                f"states {expected[0]}x{expected[1]} and {expected[2]} channels,"
                f" and {what} in the stream of frame {number}"
            )


def _stored_pixels(source: Source, pydicom: Any, dataset: Any) -> np.ndarray:
    if dataset.PhotometricInterpretation != "PALETTE COLOR":
        return dataset.pixel_array
    coloured = pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset)
    if coloured.shape[-1] != 3:
        raise source.error("has a palette with alpha; RGB palettes are read")
    return coloured


def _kept(dataset: Any, frames: tuple[np.ndarray, ...]) -> _Tags:
    outside = dataset.get("PixelPaddingValue")
    padding = None
    if outside is not None and frames[0].ndim == 2:
        last = dataset.get("PixelPaddingRangeLimit", outside)
        low, high = sorted((int(outside), int(last)))
        masks = ((frame >= low) & (frame <= high) for frame in frames)
        padding = tuple((mask, frame[mask]) for mask, frame in zip(masks, frames))
    del dataset.PixelData
    return _Tags(dataset, padding)


def _write(stream: IO[bytes], picture: Picture) -> None:
    pydicom = optional("pydicom", "medical", "DICOM")
    tags = picture.metadata.native
    if not isinstance(tags, _Tags):
        raise ValueError("its metadata are not those of a DICOM file")
    frames = _fitting(picture.frames, tags)
    data = b"".join(np.ascontiguousarray(f, f.dtype.newbyteorder("<")).tobytes() for f in frames)
    dataset = copy.deepcopy(tags.dataset)
    _describe_pixels(dataset, frames)
    dataset.add_new(0x7FE00010, "OB" if frames[0].dtype.itemsize == 1 else "OW", data)
    if len(data) % 2:
        dataset.PixelData += b"\0"
    _derive(pydicom, dataset, hashlib.sha256(data).hexdigest())
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)


def _fitting(frames: tuple[np.ndarray, ...], tags: _Tags) -> list[np.ndarray]:
    """Frames inside the stored bits, and as they were outside of the picture."""
    dataset, result = tags.dataset, []
    bits = int(dataset.get("BitsStored") or 16)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if dataset.PixelRepresentation else (
        0, (1 << bits) - 1)  # fmt: skip
    for number, frame in enumerate(frames):
        if frame.ndim == 2 and bits < frame.dtype.itemsize * 8:
            frame = frame.clip(low, high)
        if tags.padding is not None:
            mask, numbers = tags.padding[number]
            frame = frame.copy()
            frame[mask] = numbers
        result.append(frame)
    return result


def _describe_pixels(dataset: Any, frames: list[np.ndarray]) -> None:
    colour = frames[0].ndim == 3
    bits = frames[0].dtype.itemsize * 8
    if dataset.BitsAllocated != bits or colour:  # a palette gives colours of its own depth
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
    if colour:
        dataset.PhotometricInterpretation = "RGB"
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        dataset.PixelRepresentation = 0
        for code in range(0x00281101, 0x00281224):  # the tables of a palette
            if code in dataset:
                del dataset[code]
    for name, extreme in (("SmallestImagePixelValue", min), ("LargestImagePixelValue", max)):
        if name in dataset and not colour:  # stated more widely than need be by many devices
            values = [int(frame.min() if extreme is min else frame.max()) for frame in frames]
            setattr(dataset, name, extreme(int(dataset[name].value), *values))


def _derive(pydicom: Any, dataset: Any, pixels: str) -> None:
    """Mark the image as derived from the original. The same pixels give the same UIDs."""
    uids = pydicom.uid
    old, series = str(dataset.get("SOPInstanceUID", "")), str(dataset.get("SeriesInstanceUID", ""))
    new = uids.generate_uid(entropy_srcs=[old, pixels])
    if old:
        reference = pydicom.Dataset()
        reference.ReferencedSOPClassUID = dataset.get("SOPClassUID")
        reference.ReferencedSOPInstanceUID = old
        dataset.SourceImageSequence = pydicom.Sequence([reference])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = new
    if series:  # one new series for all images of an old one
        dataset.SeriesInstanceUID = uids.generate_uid(entropy_srcs=[series, _DERIVATION])
    kind = dataset.get("ImageType") or ["ORIGINAL", "PRIMARY"]
    kind = [kind] if isinstance(kind, str) else list(kind)
    dataset.ImageType = ["DERIVED", *kind[1:]]
    before = dataset.get("DerivationDescription")
    text = f"{before}; {_DERIVATION}" if before else _DERIVATION
    dataset.DerivationDescription = text[-_MAX_DESCRIPTION:]
    dataset.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian


CODEC = Codec(
    name="DICOM",
    suffixes=(".dcm", ".dicom"),
    sniff=lambda head: head[128:132] == b"DICM",
    read=_read,
    write=_write,
    holds={
        **holds(("gray",), "uint8", "int8", "uint16", "int16", "uint32", "int32"),
        **holds(("rgb",), "uint8", "uint16"),
    },
    many_frames=True,
    only_from=("DICOM",),
)
