"""Camera raw files, read only: developed by LibRaw (rawpy) into 16-bit sRGB.

The camera's white balance, no automatic brightening, upright.
"""

from __future__ import annotations

import contextlib

import numpy as np

from denoise_ext.io.codecs import tiff_tags
from denoise_ext.io.codecs.base import Codec, Source
from denoise_ext.io.picture import Metadata, Picture

# maker, model, software, date, artist, copyright, EXIF and GPS
_IN_EXIF = (271, 272, 305, 306, 315, 33432, tiff_tags.EXIF_IFD, tiff_tags.GPS_IFD)
_MAGICS = (
    b"II*\0", b"MM\0*", b"IIRO", b"IIRS", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb",
    b"II\x1a\0\0\0HEAPCCDR", b"\0MRM",
)  # fmt: skip


def _read(source: Source) -> Picture:
    rawpy = source.optional("rawpy", "raw", "is a camera raw file")
    source.stream.seek(0)
    with rawpy.imread(source.stream) as raw:
        sizes = raw.sizes
        source.check_pixels(max(sizes.raw_width, sizes.width), max(sizes.raw_height, sizes.height))
        pixels = raw.postprocess(output_bps=16, use_camera_wb=True, no_auto_bright=True)
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"development gave {pixels.dtype} {pixels.shape}")
    metadata = Metadata(exif=_exif(source))
    return Picture((pixels.copy(),), (0.0, 65535.0), "rgb", "RAW", metadata)


def _exif(source: Source) -> bytes | None:
    with contextlib.suppress(ValueError):  # not all of them are TIFF files
        _, pages = tiff_tags.read_pages(source.stream)
        tags = {code: pages[0].tags[code] for code in _IN_EXIF if code in pages[0].tags}
        return tiff_tags.exif_block(tags, pages[0].order) if tags else None
    return None


CODEC = Codec(
    name="RAW",
    suffixes=(
        ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2",
        ".pef", ".srw", ".x3f", ".iiq", ".3fr", ".erf", ".mrw", ".kdc", ".dcr", ".mef", ".mos",
    ),
    # tried after TIFF, which most of them are: only the name differs
    sniff=lambda head: head.startswith(_MAGICS) or head[4:12] == b"ftypcrx ",
    read=_read,
    write=None,
    holds={},
)  # fmt: skip
