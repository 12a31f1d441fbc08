"""OpenEXR: half and float pixels, gray or colour, any number of parts.

Through OpenImageIO. The numbers are scene-linear: 1.0 is diffuse white, and light sources are
brighter. Attributes, data and display windows are kept; a lossy compression becomes ZIP.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from denoise_ext.io.codecs.base import ALL_MODES, Codec, Source, holds
from denoise_ext.io.codecs.oiio import pixels_of
from denoise_ext.io.errors import ImageError, optional
from denoise_ext.io.picture import Metadata, Picture, mode_of

_MODES = {("Y",): "gray", ("Y", "A"): "gray+alpha", ("R", "G", "B"): "rgb",
          ("R", "G", "B", "A"): "rgba"}  # fmt: skip
_CHANNELS = {mode: channels for channels, mode in _MODES.items()}
_LOSSLESS = ("none", "rle", "zip", "zips", "piz", "htj2k")
_DTYPES = {"half": "float16", "float": "float32"}
_TYPES = {dtype: name for name, dtype in _DTYPES.items()}
_WINDOW = ("x", "y", "full_x", "full_y", "full_width", "full_height")
# Of how the pixels were stored, and what OpenImageIO makes up.
_NOT_KEPT = ("compression", "openexr:chunkCount", "openexr:lineOrder", "oiio:subimages",
             "oiio:RowsPerChunk", "openexr:dwaCompressionLevel")  # fmt: skip


@dataclass(frozen=True)
class _Part:
    window: tuple[int, ...]
    compression: str
    channels: tuple[str, ...]
    attributes: tuple[tuple[str, str, object], ...]  # (name, type, value)


def _read(source: Source) -> Picture:
    oiio = source.optional("OpenImageIO", "io", "is an EXR image")
    with source.as_file(".exr") as path:
        file = oiio.ImageInput.open(path)
        if file is None:
            raise ValueError(oiio.geterror() or "OpenImageIO cannot open it")
        try:
            specs = _headers(source, file)
            frames = tuple(
                pixels_of(file, number, spec, "part") for number, spec in enumerate(specs)
            )
        finally:
            file.close()
    modes = sorted({f"{mode_of(frame)} {frame.dtype.name}" for frame in frames})
    if len(modes) > 1:
        raise source.error(f"holds parts of different kinds: {', '.join(modes)}")
    native, lost = zip(*(_part(oiio, spec) for spec in specs))
    names = sorted({name for part in lost for name in part})
    notes = (f"attributes left out: {', '.join(map(ascii, names))}",) if names else ()
    metadata = Metadata(premultiplied=True, native=native)
    return Picture(frames, (0.0, 1.0), mode_of(frames[0]), "EXR", metadata, notes)


def _headers(source: Source, file: Any) -> list[Any]:
    """The specification of every part, once all of them fit the limits."""
    specs: list[Any] = []
    total = 0
    while file.seek_subimage(len(specs), 0):
        spec = file.spec()
        total = source.check_pixels(spec.width, spec.height, spec.depth, total)
        # the decoder takes memory for a whole tile, however small the part
        source.check_pixels(max(1, spec.tile_width), max(1, spec.tile_height))
        names = tuple(spec.channelnames)
        types = {str(t) for t in spec.channelformats} or {str(spec.format)}
        if spec.deep or (len(names) > 1 and names not in _MODES):
            what = "deep pixels" if spec.deep else f"channels {', '.join(names)}"
            raise source.error(f"has {what}; gray, RGB and RGBA are read")
        if len(types) != 1 or not types <= set(_DTYPES):
            raise source.error(f"has channels of type {', '.join(sorted(types))}; one type is read")
        specs.append(spec)
    file.geterror()  # that there is no further part
    if not specs:
        raise ValueError("it has no part")
    return specs


def _part(oiio: Any, spec: Any) -> tuple[_Part, list[str]]:
    """What is kept of a part, and the names of attributes that cannot be."""
    attributes, lost = [], []
    scratch = oiio.ImageSpec()
    for item in sorted(spec.extra_attribs, key=lambda item: item.name):
        if item.name in _NOT_KEPT:
            continue
        try:
            scratch.attribute(item.name, oiio.TypeDesc(str(item.type)), item.value)
            attributes.append((item.name, str(item.type), item.value))
        except TypeError:  # of a kind that the Python interface does not take
            lost.append(item.name)
    compression = str(spec.getattribute("compression") or "zip")
    window = tuple(getattr(spec, name) for name in _WINDOW)
    return _Part(window, compression, tuple(spec.channelnames), tuple(attributes)), lost


def _write(stream: IO[bytes], picture: Picture) -> None:
    oiio = optional("OpenImageIO", "io", "EXR")
    native = picture.metadata.native
    parts: Sequence[_Part | None] = (None,) * len(picture.frames)
    if isinstance(native, tuple) and all(isinstance(part, _Part) for part in native):
        parts = native
    specs = [_spec(oiio, *pair) for pair in zip(picture.frames, parts, strict=True)]
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        output = oiio.ImageOutput.create(file.name)
        _done(output, output.open(file.name, tuple(specs)))
        for number, (spec, frame) in enumerate(zip(specs, picture.frames)):
            if number:
                _done(output, output.open(file.name, spec, "AppendSubimage"))
            pixels = np.ascontiguousarray(frame).reshape(spec.height, spec.width, spec.nchannels)
            _done(output, output.write_image(pixels))
        _done(output, output.close())
        with open(file.name, "rb") as written:
            shutil.copyfileobj(written, stream)


def _spec(oiio: Any, frame: np.ndarray, part: _Part | None) -> Any:
    height, width = frame.shape[:2]
    channels = _CHANNELS[mode_of(frame)] if part is None else part.channels
    spec = oiio.ImageSpec(width, height, len(channels), _TYPES[frame.dtype.name])
    spec.channelnames = channels
    spec.attribute("DateTime", "")  # else it is the time of writing
    if part is None:
        spec.attribute("compression", "zip")
        return spec
    for name, place in zip(_WINDOW, part.window):
        setattr(spec, name, place)
    for name, kind, value in part.attributes:
        spec.attribute(name, oiio.TypeDesc(kind), value)
    name = part.compression.split(":")[0]
    spec.attribute("compression", name if name in _LOSSLESS else "zip")
    return spec


def _done(output: Any, worked: bool) -> None:
    if not worked:
        raise ImageError(output.geterror() or "OpenImageIO failed")


CODEC = Codec(
    name="EXR",
    suffixes=(".exr",),
    sniff=lambda head: head.startswith(b"\x76\x2f\x31\x01"),
    read=_read,
    write=_write,
    holds=holds(ALL_MODES, *_DTYPES.values()),
    many_frames=True,
    alpha=("premultiplied",),
)
