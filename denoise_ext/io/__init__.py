"""Image files in and out: `read_image`, `write_image`, `list_images`, and `ImageError`.

Nothing here changes pixel values silently: what cannot be read or written exactly is refused with
one line that names the file. (JPEG output is the exception by its nature: quality 95, 4:4:4.)
"""

from denoise_ext.io.errors import ImageError
from denoise_ext.io.find import FoundImage, find_images, list_images
from denoise_ext.io.formats import IMAGE_SUFFIXES
from denoise_ext.io.read import DEFAULT_MAX_PIXELS, ImageFile, read_image, read_image_file
from denoise_ext.io.write import check_can_write, check_target, write_atomically, write_image

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "FoundImage",
    "ImageError",
    "ImageFile",
    "check_can_write",
    "check_target",
    "find_images",
    "list_images",
    "read_image",
    "read_image_file",
    "write_atomically",
    "write_image",
]
