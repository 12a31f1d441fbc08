"""Compress pictures with a network that removes their noise: files with the suffix ``.dxc``.

`encode` and `decode` are for arrays, `encode_picture` and `decode_picture` keep metadata. After
`register_format`, `denoise_ext.io` reads and writes such files. docs/compression.md introduces the
codec, docs/format_dxc.md specifies the files.
"""

from denoise_ext.codec.coded_network import CodedNetwork, load_codec
from denoise_ext.codec.container import DXC, DamagedError
from denoise_ext.codec.pictures import (
    DEFAULT_QUALITY,
    decode,
    decode_picture,
    encode,
    encode_picture,
)
from denoise_ext.codec.registration import register_format

__all__ = [
    "DEFAULT_QUALITY",
    "DXC",
    "CodedNetwork",
    "DamagedError",
    "decode",
    "decode_picture",
    "encode",
    "encode_picture",
    "load_codec",
    "register_format",
]
