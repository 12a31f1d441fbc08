"""Read and write image files: `read_picture` and `write_picture` keep everything a file holds.

`read_image` and `write_image` are for plain arrays, `list_images` finds files. Pixel values never
change silently. A file that cannot be read or written exactly is an `ImageError`, one line that
names the file. JPEG and AVIF are the exceptions (quality 95, 4:4:4), and
files that are written with a ``quality``.
"""

from denoise_ext.io.atomic import check_target, write_atomically
from denoise_ext.io.codecs import CODECS, IMAGE_SUFFIXES, codec_named, register_codec
from denoise_ext.io.errors import ImageError
from denoise_ext.io.find import FoundImage, find_images, list_images
from denoise_ext.io.pairs import find_pairs
from denoise_ext.io.picture import Metadata, Picture, picture_of
from denoise_ext.io.read import (
    DEFAULT_MAX_PIXELS,
    ImageFile,
    read_image,
    read_image_file,
    read_picture,
)
from denoise_ext.io.resized import resized
from denoise_ext.io.write import check_can_write, format_for, write_image, write_picture

__all__ = [
    "CODECS",
    "DEFAULT_MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "FoundImage",
    "ImageError",
    "ImageFile",
    "Metadata",
    "Picture",
    "check_can_write",
    "check_target",
    "codec_named",
    "find_images",
    "find_pairs",
    "format_for",
    "list_images",
    "picture_of",
    "read_image",
    "read_image_file",
    "read_picture",
    "register_codec",
    "resized",
    "write_atomically",
    "write_image",
    "write_picture",
]
