"""``.dxc`` among the formats of `denoise_ext.io`."""

from __future__ import annotations

import os
from typing import IO

from denoise_ext.codec.container import DXC, MAGIC
from denoise_ext.codec.pictures import DEFAULT_QUALITY, decode_picture, encode_picture
from denoise_ext.io import Picture
from denoise_ext.io.codecs import Codec, Source, register_codec
from denoise_ext.io.codecs.base import ALL_MODES, holds


def register_format(
    model: str | os.PathLike[str] | None = None,
    sigma: float | None = None,
    partial: bool = False,
) -> None:
    """Let `denoise_ext.io` read and write ``.dxc`` files with a codec.

    `denoise_ext.io.write_picture` then takes ``.dxc``, with ``quality`` from 0 to 100. A later call
    replaces an earlier one.

    Args:
        model: a file of a sealed codec. None: the one that ships. It is loaded when it is used.
        sigma: of pictures that are written, as for `encode`. None: estimated.
        partial: read files with damaged tiles, as for `decode`. The notes name these.

    Example:
        >>> denoise_ext.codec.register_format("codec.safetensors")
        >>> denoise_ext.io.codec_named("DXC").suffixes
        ('.dxc',)
    """

    def read(source: Source) -> Picture:
        data = source.stream.read()
        limit = source.max_pixels
        return decode_picture(
            data, model=model, partial=partial, max_pixels=limit, name=source.name
        )

    def write(stream: IO[bytes], picture: Picture) -> None:
        stream.write(encode_picture(picture, DEFAULT_QUALITY, sigma, model=model))

    def write_lossy(stream: IO[bytes], picture: Picture, quality: int) -> None:
        stream.write(encode_picture(picture, quality, sigma, model=model))

    register_codec(
        Codec(
            name=DXC,
            suffixes=(".dxc",),
            sniff=lambda head: head.startswith(MAGIC),
            read=read,
            write=write,
            holds=holds(ALL_MODES, "uint8", "uint16"),
            keeps=("icc", "exif", "xmp", "resolution"),
            write_lossy=write_lossy,
            exact=False,
        )
    )
