"""Which image formats are known, by Pillow's format name and by file suffix."""

from __future__ import annotations

# suffix -> Pillow format. Reading looks at the content; the suffix decides only what a folder
# listing takes in and what is written.
SUFFIX_FORMAT = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".pgm": "PPM",
    ".ppm": "PPM",
    ".pnm": "PPM",
}
IMAGE_SUFFIXES = tuple(SUFFIX_FORMAT)

# Handed to Image.open, so no other decoder ever sees the bytes of an unknown file. A JPEG with
# several pictures (MPO) comes in as JPEG.
READ_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
FORMAT_NAMES = "PNG, JPEG, BMP, TIFF, WebP, PGM/PPM"
