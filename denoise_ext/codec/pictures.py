"""Pictures to the bytes of ``.dxc`` files and back."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from denoise_ext.codec.coded_network import CodedNetwork, load_codec
from denoise_ext.codec.container import (
    ALPHA,
    DXC,
    EXIF,
    ICC,
    LARGEST_TILE,
    RESOLUTION,
    STRIDE,
    XMP,
    Contents,
    DamagedError,
    Header,
    pack_alpha,
    read_file,
    read_header,
    unpack_alpha,
    write_file,
)
from denoise_ext.io import DEFAULT_MAX_PIXELS, ImageError, Metadata, Picture, picture_of
from denoise_ext.io.channels import colour_channels
from denoise_ext.tasks import estimate_sigma

DEFAULT_QUALITY = 50
DEFAULT_TILE = 512
_SMALLEST = 8  # rows and columns whose noise can be estimated
_RESOLUTION = struct.Struct("<2d")
Model = CodedNetwork | str | os.PathLike[str] | None


def encode(
    image: np.ndarray | Picture,
    quality: int = DEFAULT_QUALITY,
    sigma: float | None = None,
    *,
    model: Model = None,
    tile: int = DEFAULT_TILE,
) -> bytes:
    """Compress an image and remove its noise: the bytes of a ``.dxc`` file.

    Args:
        image: uint8 or uint16, (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4)
            RGB and alpha; or a `denoise_ext.io.Picture` of one frame. Alpha is kept without a loss.
        quality: 0 to 100; more bits for higher ones.
        sigma: standard deviation of the noise on the 0-255 scale. 0: the image is clean. None:
            estimated (`denoise_ext.tasks.estimate_sigma`).
        model: a file of a sealed codec, or `load_codec`'s result. None: the one that ships.
        tile: side in pixels of the parts with a checksum of their own, a multiple of 16.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.

    Example:
        >>> image = denoise_ext.io.read_image("photo.png")
        >>> data = denoise_ext.codec.encode(image, quality=60, model="codec.safetensors")
        >>> data[1:4]
        b'DXC'
    """
    picture = image if isinstance(image, Picture) else picture_of(_checked_array(image))
    return encode_picture(picture, quality, sigma, model=model, tile=tile)


def encode_picture(
    picture: Picture,
    quality: int = DEFAULT_QUALITY,
    sigma: float | None = None,
    *,
    model: Model = None,
    tile: int = DEFAULT_TILE,
) -> bytes:
    """`encode` for a picture, with its ICC profile, EXIF, XMP and resolution.

    Example:
        >>> picture = denoise_ext.io.read_picture("photo.png")
        >>> data = denoise_ext.codec.encode_picture(picture, model="codec.safetensors")
        >>> data[1:4]
        b'DXC'
    """
    _check_whole("quality", quality, 0, 100)
    _check_whole("tile", tile, STRIDE, LARGEST_TILE)
    if tile % STRIDE:
        raise ValueError(f"tile must be a multiple of {STRIDE}, got {tile}")
    if len(picture.frames) != 1:
        raise ValueError(f"image must have one frame, got {len(picture.frames)}")
    (frame,) = picture.frames
    frame = _checked_array(frame * np.uint8(255) if frame.dtype == np.bool_ else frame)
    pixels = frame if frame.ndim == 3 else frame[..., None]
    channels = pixels.shape[2]
    colour = np.ascontiguousarray(pixels[..., : colour_channels(channels)])
    colour = colour[..., 0] if colour.shape[2] == 1 else colour
    codec = model if isinstance(model, CodedNetwork) else load_codec(model)
    level = _level(colour, sigma)
    height, width = frame.shape[:2]
    depth = frame.dtype.itemsize * 8
    header = Header(width, height, channels, depth, quality, tile, codec.digest)
    latents = codec.latents(colour, level, quality)

    def encode_tile(place: tuple[slice, slice]) -> bytes:
        return codec.encode_tile(latents[place], quality)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        tiles = list(pool.map(encode_tile, [place for _, place in header.places()]))
    chunks = _chunks(picture.metadata)
    if channels in (2, 4):
        chunks[ALPHA] = pack_alpha(pixels[..., -1])
    return write_file(header, chunks, tiles)


def decode(
    data: bytes,
    *,
    model: Model = None,
    partial: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> np.ndarray:
    """The image of a ``.dxc`` file: uint8 or uint16, (H, W) or (H, W, 2..4).

    Args:
        data: the bytes of the file.
        model: the codec that made the file, as for `encode`.
        partial: decode a file with damaged tiles, which are flat there.
        max_pixels: refuse larger pictures before anything is decoded.

    Raises:
        DamagedError: (an ImageError, a ValueError) tiles are damaged, which ``tiles`` names.
        ImageError: no such file, or one of another codec.

    Example:
        >>> image = denoise_ext.io.read_image("photo.png")
        >>> data = denoise_ext.codec.encode(image, model="codec.safetensors")
        >>> denoise_ext.codec.decode(data, model="codec.safetensors").shape == image.shape
        True
    """
    picture = decode_picture(data, model=model, partial=partial, max_pixels=max_pixels)
    return picture.frames[0]


def decode_picture(
    data: bytes,
    *,
    model: Model = None,
    partial: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    name: str = "the file",
) -> Picture:
    """`decode` with the metadata. With ``partial``, what is damaged is in the picture's notes.

    ``name`` is that of the file in messages.

    Example:
        >>> image = denoise_ext.io.read_image("photo.png")
        >>> data = denoise_ext.codec.encode(image, model="codec.safetensors")
        >>> denoise_ext.codec.decode_picture(data, model="codec.safetensors").format
        'DXC'
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must be the bytes of a file, got {type(data).__name__}")
    data = bytes(data)
    header = read_header(data, name)
    pixels = header.width * header.height
    if pixels > max_pixels:
        raise ImageError(
            f"{name} states {header.width} x {header.height} = {pixels} pixels, more than the limit"
            f" of {max_pixels} (max_pixels)"
        )
    contents = read_file(data, name)
    codec = model if isinstance(model, CodedNetwork) else load_codec(model)
    if header.network != codec.digest:
        raise ImageError(
            f"{name} was made with the codec {header.network.hex()}, and model is"
            f" {codec.digest.hex()} (the first 8 bytes of the SHA-256 of their files)"
        )
    latents, damaged = _latents(contents, codec)
    notes = [f"tile {place} (row, column) is damaged" for place in damaged]
    notes += [f"{part} is damaged" for part in contents.damaged]
    alpha = None
    if header.channels in (2, 4):
        try:
            alpha = unpack_alpha(contents.chunks[ALPHA], header)
        except (KeyError, ValueError):
            notes.append("alpha is damaged")
            alpha = np.full((header.height, header.width), np.iinfo(header.dtype).max, header.dtype)
    if notes and not partial:
        raise DamagedError(
            f"{name}: {'; '.join(notes[:4])}{'; ...' if notes[4:] else ''}; partial=True decodes"
            " the rest",
            damaged,
        )
    shape: tuple[int, ...] = (header.height, header.width)
    if header.channels > 2:
        shape = (*shape, 3)
    frame = codec.pixels(latents, header.quality, shape, np.dtype(header.dtype))
    if alpha is not None:
        frame = np.dstack([frame, alpha])
    picture = picture_of(frame, format=DXC, metadata=_metadata(contents.chunks))
    return _noted(picture, notes)


def _latents(
    contents: Contents, codec: CodedNetwork
) -> tuple[torch.Tensor, tuple[tuple[int, int], ...]]:
    """The latents of a picture, zeros where a tile is damaged, and the damaged tiles."""
    header = contents.header
    height, width = (-(-length // STRIDE) for length in (header.height, header.width))
    # The caller's inference mode does not reach the threads, which write to this tensor.
    with torch.inference_mode(False):
        latents = torch.zeros(height, width, codec.network.latents, dtype=torch.int16)

    def decode_tile(work: tuple[tuple[Any, tuple[slice, slice]], bytes | None]) -> bool:
        (_, place), data = work
        there = latents[place]
        if data is None:
            return False
        try:
            there.copy_(codec.decode_tile(data, there.shape[0], there.shape[1], header.quality))
        except ValueError:
            return False
        return True

    places = list(header.places())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        sound = list(pool.map(decode_tile, zip(places, contents.tiles)))
    return latents, tuple(place for (place, _), good in zip(places, sound) if not good)


def _level(colour: np.ndarray, sigma: float | None) -> float:
    if sigma is None:
        return estimate_sigma(colour) if min(colour.shape[:2]) >= _SMALLEST else 0.0
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)):
        raise TypeError(f"sigma must be a number or None, got {sigma!r}")
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"sigma must be finite and >= 0 (0-255 scale), got {sigma}")
    return float(sigma)


def _chunks(metadata: Metadata) -> dict[bytes, bytes]:
    chunks = {ICC: metadata.icc_profile, EXIF: metadata.exif, XMP: metadata.xmp}
    found = {kind: bytes(data) for kind, data in chunks.items() if data}
    if metadata.pixels_per_metre is not None:
        found[RESOLUTION] = _RESOLUTION.pack(*metadata.pixels_per_metre)
    return found


def _metadata(chunks: dict[bytes, bytes]) -> Metadata:
    resolution = None
    if len(chunks.get(RESOLUTION, b"")) == _RESOLUTION.size:
        across, down = _RESOLUTION.unpack(chunks[RESOLUTION])
        if 0 < across < float("inf") and 0 < down < float("inf"):
            resolution = (across, down)
    return Metadata(chunks.get(ICC), chunks.get(EXIF), chunks.get(XMP), resolution)


def _noted(picture: Picture, notes: list[str]) -> Picture:
    import dataclasses

    return dataclasses.replace(picture, notes=(*picture.notes, *notes))


def _checked_array(array: object) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"image must be an array or a Picture, got {type(array).__name__}")
    if array.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"image must be uint8 or uint16, got {array.dtype}")
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4):
        raise ValueError(f"image must be (H, W) or (H, W, 1..4), got {array.shape}")
    if 0 in array.shape:
        raise ValueError(f"image is empty, shape {array.shape}")
    return array


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, got {value}")
