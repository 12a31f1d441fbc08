"""TIFF and BigTIFF: 1- to 64-bit integers and floats, gray and colour, any number of pages.

Pillow decodes what it decodes exactly, and OpenImageIO the rest. Files are written here (Deflate),
so that every tag of every page is kept: resolution, ICC profile, EXIF and GPS, XMP, axes (ImageJ,
OME, tifffile), geographic and private tags. Tags of the old pixel storage are left out, and so are
pictures besides the pages (SubIFDs: thumbnails, pyramids).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import (
    Image,
    TiffImagePlugin,  # noqa: F401  Image.open(formats=...) does not load it itself
)

from denoise_ext.io.codecs import oiio, tiff_tags
from denoise_ext.io.codecs.base import ALL_MODES, Codec, Source, holds
from denoise_ext.io.codecs.pillow import load, open_image, pixels_of
from denoise_ext.io.codecs.tiff_tags import Directory, Tag, Writer
from denoise_ext.io.orientation import INVERSE, upright
from denoise_ext.io.picture import Metadata, Picture, mode_of, value_range_of

# Tag numbers: TIFF 6.0, sections 3 to 23; TIFF/EP and DNG for the last ones.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_DESCRIPTION, _STRIPS, _ORIENTATION, _SAMPLES = 270, 273, 274, 277
_ROWS_PER_STRIP, _STRIP_BYTES = 278, 279
_X_RESOLUTION, _Y_RESOLUTION, _PLANAR, _RESOLUTION_UNIT = 282, 283, 284, 296
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_PREDICTOR, _SUB_IFDS, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 317, 330, 338, 339
_XMP, _ICC, _DNG_VERSION = 700, 34675, 50706
_OF_THE_PIXELS = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, _STRIPS, _SAMPLES, _ROWS_PER_STRIP,
    _STRIP_BYTES, _PLANAR, 290, 291, 292, 293, _PREDICTOR, 320, _TILE_WIDTH, _TILE_HEIGHT, 324,
    325, _SUB_IFDS, _EXTRA_SAMPLES, _SAMPLE_FORMAT, 340, 341, 342, 347, *range(512, 522),
    *range(529, 533),
}  # fmt: skip
# The tags of an EXIF block's first directory: maker, model, orientation, software, date,
# artist, copyright, and the directories for EXIF and GPS.
_IN_EXIF = (271, 272, 274, 305, 306, 315, 33432, tiff_tags.EXIF_IFD, tiff_tags.GPS_IFD)
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_PHOTOMETRICS = {
    4: "a transparency mask", 5: "CMYK pixels", 8: "Lab pixels", 9: "Lab pixels",
    10: "Lab pixels", 32803: "camera raw pixels", 34892: "camera raw pixels",
}  # fmt: skip
_DTYPES = (
    "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"
)  # fmt: skip
_FORMAT_CODES = {"u": 1, "b": 1, "i": 2, "f": 3}
_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha
_STRIP_SIZE = 1 << 20
_CLASSIC_LIMIT = 4_000_000_000  # of pixel data; offsets have 32 bits


@dataclass(frozen=True)
class _Pages:
    order: str
    big: bool
    tags: tuple[dict[int, Tag], ...]  # of each page, without those of the pixels


@dataclass(frozen=True)
class _Page:
    """How a page's pixels are stored."""

    bits: int
    samples: int
    number: int  # 1 unsigned, 2 signed, 3 floating point
    photometric: int
    extra: tuple[int, ...]
    planar: bool

    @property
    def for_pillow(self) -> bool:
        """Whether Pillow decodes it without loss."""
        colours = 3 if self.photometric in (_RGB, _YCBCR) else 1
        if self.planar or self.extra not in ((), (_UNASSOCIATED,)):
            return False
        if self.samples != colours + len(self.extra):
            return False
        if self.number == 3:
            return self.bits == 32 and self.samples == 1 and self.photometric == _MIN_IS_BLACK
        if self.number != 1:
            return False
        return self.bits == 8 or (self.samples == 1 and self.bits in (1, 2, 4, 16))

    @property
    def what(self) -> str:
        kind = {1: "unsigned", 2: "signed", 3: "floating-point"}[self.number]
        return f"has {self.samples} x {self.bits}-bit {kind} pixels"


def _read(source: Source) -> Picture:
    layout, directories = tiff_tags.read_pages(source.stream)
    if _DNG_VERSION in directories[0].tags:
        raise source.error("is a camera raw file (DNG); it is read as one if its name ends in .dng")
    _check_stack(source, directories)
    pages, total = [], 0
    for directory in directories:
        width, height = directory.integer(_WIDTH, 0), directory.integer(_HEIGHT, 0)
        total = source.check_pixels(width, height, others=total)
        # decoders take memory for a whole tile, however small the page
        source.check_pixels(directory.integer(_TILE_WIDTH, 1), directory.integer(_TILE_HEIGHT, 1))
        pages.append(_page(source, directory))
    pillow_opens = not (layout.big and layout.order == ">")
    frames = _decode(source, pages, directories, pillow_opens)
    kinds = sorted({f"{mode_of(frame)} {frame.dtype.name}" for frame in frames})
    if len(kinds) > 1:
        raise source.error(f"holds pages of different kinds: {', '.join(kinds)}")
    kept = tuple(
        {code: tag for code, tag in d.tags.items() if code not in _OF_THE_PIXELS}
        for d in directories
    )
    dropped = any(_SUB_IFDS in d.tags for d in directories)
    notes = ("pictures beside its pages (SubIFDs) are not read",) if dropped else ()
    metadata = _metadata(directories[0], pages[0], _Pages(layout.order, layout.big, kept))
    return Picture(
        tuple(frames), value_range_of(frames), mode_of(frames[0]), "TIFF", metadata, notes
    )


def _check_stack(source: Source, directories: list[Directory]) -> None:
    """Refuse files that keep more images than pages: they would come out cut short."""
    description = directories[0].text(_DESCRIPTION)
    images = re.search(r"^images=(\d+)", description, re.MULTILINE)
    cut = description.startswith("ImageJ=") and images and int(images[1]) > len(directories)
    if cut or re.search(r'^\{.*"truncated": *true', description):
        raise source.error(
            f"keeps a stack behind {len(directories)} page(s) only; save it with one page per image"
        )


def _page(source: Source, directory: Directory) -> _Page:
    samples = directory.integer(_SAMPLES, 1)
    bits = set(directory.integers(_BITS, (1,)))
    numbers = {n if n in (1, 2, 3) else 1 for n in directory.integers(_SAMPLE_FORMAT, (1,))}
    photometric = directory.integer(_PHOTOMETRIC, _MIN_IS_BLACK)
    if photometric in _PHOTOMETRICS:
        raise source.error(f"has {_PHOTOMETRICS[photometric]}; gray, RGB and palettes are read")
    if photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR):
        raise source.error(f"has pixels of photometric kind {photometric}, which is not known")
    if not 1 <= samples <= 4:
        raise source.error(f"has {samples} channels; 1 to 4 are read")
    if len(bits) != 1 or len(numbers) != 1:
        raise source.error("has channels of different depths")
    page = _Page(
        bits.pop(), samples, numbers.pop(), photometric, directory.integers(_EXTRA_SAMPLES),
        samples > 1 and directory.integer(_PLANAR, 1) == 2,
    )  # fmt: skip
    depths = {1: (1, 2, 4, 8, 16, 32), 2: (8, 16, 32), 3: (16, 32, 64)}[page.number]
    if page.bits not in depths or (page.bits < 8 and samples > 1):
        raise source.error(f"{page.what}; 1, 2, 4, 8, 16 and 32 bits are read (float 16, 32, 64)")
    if photometric == _PALETTE and page.bits > 8:
        raise source.error(f"has a palette of {page.bits} bits; up to 8 are read")
    return page


def _decode(
    source: Source, pages: list[_Page], directories: list[Directory], pillow_opens: bool
) -> list[np.ndarray]:
    frames: dict[int, np.ndarray] = {}
    others = [number for number, page in enumerate(pages) if not (pillow_opens and page.for_pillow)]
    if len(others) < len(pages):
        with open_image(source, "TIFF") as image:
            for number, page in enumerate(pages):
                if number not in others:
                    image.seek(number)
                    turned = directories[number].integer(_ORIENTATION, 1)
                    pixels = _pillow_pixels(image, page)
                    # Pillow turns them on loading
                    frames[number] = upright(pixels, INVERSE.get(turned, turned))
    if others:
        what = pages[others[0]].what
        for number, frame in zip(others, oiio.decode(source, what, ".tif", others)):
            frames[number] = _bright_is_white(frame, pages[number])
    for number, directory in enumerate(directories):
        stated = directory.integer(_HEIGHT, 0), directory.integer(_WIDTH, 0)
        if frames[number].shape[:2] != stated:
            raise ValueError(f"page {number + 1} is not {stated[1]} x {stated[0]} as it says")
    return [frames[number] for number in range(len(pages))]


def _pillow_pixels(image: Image.Image, page: _Page) -> np.ndarray:
    load(image)
    if page.bits == 16:  # Pillow inverts MinIsWhite for 8 bits only
        return _bright_is_white(np.asarray(image).astype(np.uint16), page)
    if page.bits in (1, 32) and page.photometric != _PALETTE:
        return pixels_of(image, image.mode)
    if page.photometric == _PALETTE:
        return pixels_of(image, "RGBA" if page.extra else "RGB")
    plain = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    return pixels_of(image, plain[page.samples])


def _bright_is_white(frame: np.ndarray, page: _Page) -> np.ndarray:
    if page.photometric != _MIN_IS_WHITE:
        return frame
    if frame.dtype.kind != "u" or frame.ndim != 2:
        raise ValueError("white is zero, which is read for unsigned gray only")
    return np.iinfo(frame.dtype).max - frame


def _metadata(first: Directory, page: _Page, native: _Pages) -> Metadata:
    def block(code: int) -> bytes | None:
        tag = first.tags.get(code)
        return tag.value if tag is not None and isinstance(tag.value, bytes) else None

    in_exif = {code: first.tags[code] for code in _IN_EXIF if code in first.tags}
    return Metadata(
        icc_profile=block(_ICC),
        exif=tiff_tags.exif_block(in_exif, first.order) if in_exif else None,
        xmp=block(_XMP),
        pixels_per_metre=_resolution(first),
        premultiplied=page.extra[-1:] == (_ASSOCIATED,),
        native=native,
    )


def _resolution(directory: Directory) -> tuple[float, float] | None:
    per_metre = {2: 1 / 0.0254, 3: 100.0}.get(directory.integer(_RESOLUTION_UNIT, 2))
    found = []
    for code in (_X_RESOLUTION, _Y_RESOLUTION):
        tag = directory.tags.get(code)
        if tag is None or tag.type != tiff_tags.RATIONAL or tag.count != 1 or per_metre is None:
            return None
        assert isinstance(tag.value, bytes)  # of RATIONAL
        top, bottom = np.frombuffer(tag.value, directory.order + "u4").tolist()
        if not top or not bottom:
            return None
        found.append(top / bottom * per_metre)
    return found[0], found[1]


def _write(stream: IO[bytes], picture: Picture) -> None:
    native = picture.metadata.native
    size = sum(frame.nbytes for frame in picture.frames)
    if isinstance(native, _Pages):
        order, big, pages = native.order, native.big, native.tags
        xmp, first = picture.metadata.xmp, pages[0]
        own = first.get(_XMP)
        if xmp is not None and (own is None or own.value != xmp):
            pages = ({**first, _XMP: _xmp_tag(xmp)}, *pages[1:])
    else:
        order, big = "<", False
        pages = (_new_tags(picture.metadata),) + ({},) * (len(picture.frames) - 1)
    writer = Writer(stream, order, big or size > _CLASSIC_LIMIT)
    for frame, tags in zip(picture.frames, pages, strict=True):
        layout = _layout(writer, frame, picture)
        native_order = np.ascontiguousarray(frame)
        offsets, lengths = writer.data(_strips(native_order, order))
        layout[_STRIPS], layout[_STRIP_BYTES] = writer.integers(offsets), writer.integers(lengths)
        writer.page(tags | layout)


def _layout(writer: Writer, frame: np.ndarray, picture: Picture) -> dict[int, Tag]:
    height, width = frame.shape[:2]
    samples = 1 if frame.ndim == 2 else frame.shape[2]
    bits = 1 if frame.dtype == np.bool_ else frame.dtype.itemsize * 8
    short = tiff_tags.SHORT
    tags = {
        _WIDTH: [width], _HEIGHT: [height], _ROWS_PER_STRIP: [_rows_per_strip(frame)],
    }  # fmt: skip
    shorts = {
        _BITS: [bits] * samples,
        _COMPRESSION: [8],  # Deflate
        _PHOTOMETRIC: [_RGB if samples >= 3 else _MIN_IS_BLACK],
        _SAMPLES: [samples],
        _PLANAR: [1],
        _PREDICTOR: [2 if _has_predictor(frame) else 1],
        _SAMPLE_FORMAT: [_FORMAT_CODES[frame.dtype.kind]] * samples,
    }
    if samples in (2, 4):
        kind = _ASSOCIATED if picture.metadata.premultiplied else _UNASSOCIATED
        shorts[_EXTRA_SAMPLES] = [kind]
    layout = {code: writer.integers(values) for code, values in tags.items()}
    return layout | {code: writer.integers(values, short) for code, values in shorts.items()}


def _has_predictor(frame: np.ndarray) -> bool:
    return frame.dtype.kind in "ui"


def _rows_per_strip(frame: np.ndarray) -> int:
    return min(frame.shape[0], max(1, _STRIP_SIZE // (frame.nbytes // frame.shape[0])))


def _strips(frame: np.ndarray, order: str) -> Iterator[bytes]:
    """Compressed rows, (rows, W[, C]) at a time; integers as differences to the left pixel."""
    step = _rows_per_strip(frame)
    for top in range(0, frame.shape[0], step):
        rows = frame[top : top + step]
        if rows.dtype == np.bool_:
            rows = np.packbits(rows, axis=1)
        if _has_predictor(frame):
            rows = np.diff(rows, axis=1, prepend=rows.dtype.type(0))
        stored = rows.dtype.newbyteorder("<" if order == "<" else ">")
        yield zlib.compress(np.ascontiguousarray(rows, stored).data)


def _new_tags(metadata: Metadata) -> dict[int, Tag]:
    """The tags of a first page for metadata that came with another format."""
    tags: dict[int, Tag] = {}
    if metadata.exif:
        found, order = tiff_tags.exif_tags(metadata.exif)
        found = {code: tag for code, tag in found.items() if code not in _OF_THE_PIXELS}
        tags |= tiff_tags.swapped(found, order, "<")
    if metadata.icc_profile:
        size = len(metadata.icc_profile)
        tags[_ICC] = Tag(tiff_tags.UNDEFINED, size, metadata.icc_profile)
    if metadata.xmp:
        tags[_XMP] = _xmp_tag(metadata.xmp)
    if metadata.pixels_per_metre:
        for code, value in zip((_X_RESOLUTION, _Y_RESOLUTION), metadata.pixels_per_metre):
            ratio = np.array([round(value * 100), 10_000], "<u4")  # per centimetre
            tags[code] = Tag(tiff_tags.RATIONAL, 1, ratio.tobytes())
        tags[_RESOLUTION_UNIT] = Tag(tiff_tags.SHORT, 1, b"\3\0")
    return tags


def _xmp_tag(xmp: bytes) -> Tag:
    return Tag(tiff_tags.BYTE, len(xmp), xmp)


CODEC = Codec(
    name="TIFF",
    suffixes=(".tif", ".tiff", ".btf"),
    sniff=lambda head: head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    read=_read,
    write=_write,
    holds=holds(ALL_MODES, *_DTYPES) | {"gray": ("bool", *_DTYPES)},
    many_frames=True,
    keeps=("icc", "exif", "xmp", "resolution"),
    alpha=("straight", "premultiplied"),
)
