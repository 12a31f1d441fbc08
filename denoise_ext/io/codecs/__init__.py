"""The table of file formats: one module per family, each with its `Codec`."""

from __future__ import annotations

from denoise_ext.io.codecs import avif, bmp, dicom, exr, jpeg, nifti, npy, png, pnm, raw, tiff, webp
from denoise_ext.io.codecs.base import Codec, Source

CODECS: tuple[Codec, ...] = (
    dicom.CODEC, png.CODEC, jpeg.CODEC, tiff.CODEC, webp.CODEC, avif.CODEC, bmp.CODEC,
    pnm.CODEC, exr.CODEC, npy.NPY, npy.NPZ, nifti.PLAIN, nifti.GZIPPED, raw.CODEC,
)  # fmt: skip
"""In the order their content is tried in: DICOM first, which may begin like a TIFF."""
_registered: dict[str, Codec] = {}

IMAGE_SUFFIXES = tuple(suffix for codec in CODECS for suffix in codec.suffixes)
FORMAT_NAMES = ", ".join(codec.name for codec in CODECS)

__all__ = ["CODECS", "FORMAT_NAMES", "IMAGE_SUFFIXES", "Codec", "Source", "all_codecs",
           "codec_named", "named_like_dicom", "register_codec", "suffix_of"]  # fmt: skip


def all_codecs() -> tuple[Codec, ...]:
    """The formats of this package, then those of `register_codec`."""
    return (*CODECS, *_registered.values())


def register_codec(codec: Codec) -> None:
    """Let this package read and write one more format.

    A codec that is registered again takes the place of the first of its name.

    Raises ValueError for the name or a suffix of another format.

    Example:
        >>> import dataclasses
        >>> png = denoise_ext.io.codec_named("PNG")
        >>> mine = dataclasses.replace(png, name="MINE", suffixes=(".mine",))
        >>> denoise_ext.io.register_codec(mine)
        >>> denoise_ext.io.codec_named("MINE").suffixes
        ('.mine',)
    """
    others = [known for known in all_codecs() if known.name != codec.name]
    if codec.name != codec.name.upper() or any(known.name == codec.name for known in CODECS):
        raise ValueError(f"codec must have a new name in capitals, got {codec.name!r}")
    taken = {suffix for known in others for suffix in known.suffixes} & set(codec.suffixes)
    if taken:
        raise ValueError(f"codec {codec.name} has suffixes of other formats: {sorted(taken)}")
    _registered[codec.name] = codec


def codec_named(name: str) -> Codec | None:
    """The codec with this name ("PNG"), in capitals or not.

    Example:
        >>> denoise_ext.io.codec_named("png").suffixes
        ('.png',)
    """
    return next((codec for codec in all_codecs() if codec.name == name.upper()), None)


def known_codec(name: str) -> Codec:
    """The codec with this name, which the table has."""
    codec = codec_named(name)
    if codec is None:
        raise KeyError(name)
    return codec


def suffix_of(name: str) -> tuple[str, Codec | None]:
    """The suffix of a file name as the table has it, and its codec; else what follows the dot."""
    lower = name.lower()
    known = [(suffix, codec) for codec in all_codecs() for suffix in codec.suffixes]
    for suffix, codec in sorted(known, key=lambda pair: -len(pair[0])):  # .nii.gz before .gz
        if lower.endswith(suffix) and len(lower) > len(suffix):
            return suffix, codec
    dot = name.rfind(".")
    return (lower[dot:] if dot > 0 else ""), None


def named_like_dicom(name: str) -> bool:
    """Whether a file may be DICOM by its name, as scanners give them: IM0001, 1.2.840.5."""
    return name.replace(".", "").isdigit() or ("." not in name and name != "DICOMDIR")
