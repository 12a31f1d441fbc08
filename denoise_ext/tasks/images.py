"""View arrays, tensors, Pillow images, pictures and files as tensors (N, C, H, W)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoise_ext.io import ImageError, Picture, read_picture, resized
from denoise_ext.io.errors import shown
from denoise_ext.io.read import as_shown
from denoise_ext.tasks.axes import array_of, batch_of, by_pictures, check_axes, check_count
from denoise_ext.tasks.value_range import Range

# The kinds of images that come back as what they were; a file comes back as an array.
ImageT = TypeVar("ImageT", bound=np.ndarray | Tensor | Image.Image | Picture)

# Pillow modes whose pixels are what they look like; the others are palettes, print colours, bits.
_PIL_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I", "F")
_NAME_AXES = 'give axes="ZYX", axes="CYX", axes="YXC", ... for slices and any number of channels'
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = "uint8, uint16 or floating point in [0, 1] (other integers with value_range)"


@dataclass(frozen=True)
class Target:
    """Memory for a result, of the kind of an image that was opened."""

    pixels: Tensor
    """(N, C, scale * H, scale * W), of the image's dtype, not yet filled."""
    result: Callable[[], Any]
    """Gives what was written to `pixels`, as the kind of image that was opened."""


@dataclass(frozen=True)
class ImageView:
    """An image to be read, and how to make memory of its kind for a result."""

    source: Tensor
    """(N, C, H, W): a view of the image's memory."""
    target: Callable[[Fraction], Target]
    """Makes room for a result of scale times the image's rows and columns."""
    batched: bool
    """Whether it is a batch (N, C, H, W), not one image."""
    value_range: Range | None = None
    """The numbers that mean black and white, if the file has them; None: the type's own."""
    from_file: bool = False
    """Whether it is a file's content, whose range is stated, not assumed."""
    missing: int = 0
    """How many numbers of a file's content are not finite."""


def open_image(image: Any, axes: str | None = None, *, holes: str = "none") -> ImageView:
    """View an image of any kind as a tensor.

    Args:
        image: NumPy array (H, W) or (H, W, C); tensor (H, W), (C, H, W) or (N, C, H, W); Pillow
            image; `io.Picture` of one frame; or a file's name, which means the array of its one
            image, upright, in the file's own dtype.
        axes: what the axes are (`tasks.axes`), of any number: each picture becomes one of the
            batch. None: as above.
        holes: of a file's numbers that are not finite. "none": they count as black, and results
            have them again. "keep": they are 0, and results have them again. "fill": they are 0.

    Raises:
        TypeError, ValueError: an image or axes that do not fit; the message names the argument.
        ImageError: a file that cannot be read.
    """
    axes = check_axes(axes)
    if isinstance(image, (str, os.PathLike)):
        return _open_file(image, axes, holes)
    if isinstance(image, Picture):
        return _open_picture(image, axes, holes)
    if isinstance(image, np.ndarray):
        return _open_array(image, axes)
    if isinstance(image, Tensor):
        return _open_tensor(image, axes)
    if isinstance(image, Image.Image):
        if axes is not None:
            raise ValueError(f"axes: a Pillow image has its own, got {axes!r}")
        return _open_pillow(image)
    raise TypeError(
        "image must be a NumPy array, a tensor, a Pillow image, a Picture or a file's name, got"
        f" {type(image).__name__}"
    )


def _open_file(path: str | os.PathLike[str], axes: str | None, holes: str) -> ImageView:
    picture = read_picture(path)
    if axes is not None:
        if len(picture.shapes) > 1:
            raise ImageError(
                f"{shown(path)} holds {len(picture.shapes)} arrays, but a file's name must mean"
                " one; give io.read_picture(...)"
            )
        array, axes = array_of(picture, axes)
        two_level = array.dtype == np.bool_
        array, own = (
            (array * np.uint8(255), (0, 255)) if two_level else (array, picture.value_range)
        )
        return _open_frame(array, own, axes, holes)
    if len(picture.frames) > 1:
        raise ImageError(
            f"{shown(path)} holds {len(picture.frames)} frames or pages, but a file's name must"
            ' mean one image; give axes, such as axes="ZYX", or io.read_picture(...), whose frames'
            " are denoised one by one"
        )
    try:
        return _open_frame(*as_shown(picture), holes=holes)
    except TypeError as error:
        raise ImageError(f"{shown(path)}: {error}") from None


def _open_picture(picture: Picture, axes: str | None, holes: str) -> ImageView:
    if axes is not None:
        return _open_pages(picture, axes, holes)
    if len(picture.frames) != 1:
        raise ValueError(f"image: a picture of one frame is needed, got {len(picture.frames)}")
    [frame] = picture.frames
    if frame.dtype == np.bool_:  # two-level: denoised as 0 and 255, and cut at the middle
        opened = replace(_open_array(frame * np.uint8(255)), from_file=True)
        return _finished(opened, lambda result: resized(picture, [result >= 128]))
    opened = _open_frame(frame, picture.value_range, holes=holes)
    return _finished(opened, lambda result: resized(picture, [result]))


def _finished(opened: ImageView, finish: Callable[[Any], Any]) -> ImageView:
    """`opened` with something more done to its results."""

    def target(scale: Fraction) -> Target:
        made = opened.target(scale)
        return replace(made, result=lambda: finish(made.result()))

    return replace(opened, target=target)


def _open_pages(picture: Picture, axes: str, holes: str) -> ImageView:
    """All frames as one array with these axes."""
    array, axes = array_of(picture, axes)
    two_level = array.dtype == np.bool_
    if two_level:
        opened = _open_array(array * np.uint8(255), axes)
    else:
        opened = _open_frame(array, picture.value_range, axes, holes)

    def finish(image: np.ndarray) -> Picture:
        image = image >= 128 if two_level else image
        rows, columns = array.shape[axes.index("Y")], array.shape[axes.index("X")]
        new = image.shape[axes.index("Y")] // rows, image.shape[axes.index("X")] // columns
        height, width, *samples = picture.frames[0].shape
        shape = (len(picture.frames), height * new[0], width * new[1], *samples)
        return resized(picture, image.reshape(shape))

    return replace(_finished(opened, finish), from_file=True)


def _open_frame(
    frame: np.ndarray, value_range: Range, axes: str | None = None, holes: str = "none"
) -> ImageView:
    """Numbers of a file; for those that are not finite see `open_image`."""
    own = _unless_own(value_range, frame.dtype)
    missing = ~np.isfinite(frame) if frame.dtype.kind == "f" else np.zeros((), bool)
    if not missing.any():
        return replace(_open_array(frame, axes), value_range=own, from_file=True)
    stands_in = frame.dtype.type(value_range[0] if holes == "none" else 0)
    opened = _open_array(np.where(missing, stands_in, frame), axes)
    if holes == "fill":
        return replace(opened, value_range=own, from_file=True)

    def finish(image: np.ndarray) -> np.ndarray:
        if image.shape == frame.shape:
            image[missing] = frame[missing]
            return image
        # Each number of an image of another size is at the place of one of these.
        nearest = np.ix_(
            *(np.arange(n) * old // n for n, old in zip(image.shape, frame.shape, strict=True))
        )
        return np.where(missing[nearest], frame[nearest], image)

    opened = _finished(opened, finish)
    return replace(opened, value_range=own, from_file=True, missing=int(missing.sum()))


def _unless_own(value_range: Range, dtype: np.dtype) -> Range | None:
    """None where that is what numbers of this type mean anyway."""
    full = np.iinfo(dtype).max if dtype in (np.uint8, np.uint16) else 1
    known = dtype.kind == "f" or dtype in (np.uint8, np.uint16)
    return None if known and value_range == (0, full) else value_range


def _open_tensor(image: Tensor, axes: str | None) -> ImageView:
    if axes is None and image.dim() not in (2, 3, 4):
        raise ValueError(
            f"image must be (H, W), (C, H, W) or (N, C, H, W), got shape {tuple(image.shape)};"
            f" {_NAME_AXES}"
        )
    read = image.dtype in _FLOATS or not image.dtype.is_floating_point
    if image.is_complex() or image.dtype == torch.bool or not read:
        raise TypeError(f"image must be {_DTYPES}, got {image.dtype}")
    if image.layout is not torch.strided or image.is_meta:
        what = "on the meta device" if image.is_meta else f"with the layout {image.layout}"
        raise TypeError(f"image must be a dense tensor with numbers, got one {what}")
    image = image.detach()
    if axes is not None:
        return _by_axes(image, axes, lambda shape: _like(image, shape))

    def batch(x: Tensor) -> Tensor:
        x = x[None] if x.dim() == 2 else x
        return x if x.dim() == 4 else x[None]

    def target(scale: Fraction) -> Target:
        result = _like(image, _scaled(image.shape, range(image.dim() - 2, image.dim()), scale))
        return Target(batch(result), lambda: result)

    return ImageView(_checked(batch(image), tuple(image.shape)), target, image.dim() == 4)


def _scaled(shape: Sequence[int], places: Iterable[int], scale: Fraction) -> tuple[int, ...]:
    """A shape with other rows and columns, which are at these two places."""
    places = set(places)
    return tuple(
        -(-n * scale.numerator // scale.denominator) if i in places else n
        for i, n in enumerate(shape)
    )


def _like(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Memory for a tensor of this shape, with the axes in the order that `image` has in memory."""
    if shape == tuple(image.shape):
        return torch.empty_like(image)
    steps = image.stride()
    order = sorted(range(image.dim()), key=lambda dim: -steps[dim])
    return torch.empty_permuted(shape, order, dtype=image.dtype, device=image.device)


def _by_axes(
    image: Tensor,
    axes: str,
    memory: Callable[[tuple[int, ...]], Tensor],
    finish: Callable[[Tensor], Any] = lambda result: result,
) -> ImageView:
    """A tensor with named axes; `finish` gives a result as the kind that was opened."""
    check_count(axes, tuple(image.shape))
    source = _checked(batch_of(image, axes), tuple(image.shape))

    def target(scale: Fraction) -> Target:
        result = memory(_scaled(image.shape, (axes.index("Y"), axes.index("X")), scale))
        pixels = batch_of(result, axes)
        own_memory = pixels.untyped_storage().data_ptr() != result.untyped_storage().data_ptr()

        def fill() -> Any:
            if own_memory:
                into = by_pictures(result, axes)
                into.copy_(pixels.reshape(into.shape))
            return finish(result)

        return Target(pixels, fill)

    return ImageView(source, target, bool(set(axes) - set("SYX")))


def _open_array(image: np.ndarray, axes: str | None = None) -> ImageView:
    if isinstance(image, np.ma.MaskedArray):
        raise TypeError("image must not be masked: results have no mask; give image.filled(...)")
    if image.dtype.kind not in "uif" or image.dtype.itemsize > 8:
        raise TypeError(f"image must be {_DTYPES}, got {image.dtype}")
    if axes is None and image.ndim not in (2, 3):
        raise ValueError(
            f"image must be (H, W) or (H, W, C), got shape {image.shape}; {_NAME_AXES}"
        )
    # PyTorch takes native byte order and positive strides of whole elements only
    native = image.astype(image.dtype.newbyteorder("="), order="K", copy=False)
    odd = any(step < 0 or step % native.itemsize for step in native.strides)
    if odd or not native.flags.writeable:
        native = native.copy(order="K")

    def memory(shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.empty_like(native, shape=shape, subok=False))

    def finish(result: Tensor) -> np.ndarray:
        return result.numpy().astype(image.dtype, copy=False)

    if axes is not None:
        return _by_axes(torch.from_numpy(native), axes, memory, finish)

    def batch(x: Tensor) -> Tensor:
        return x[None, None] if x.dim() == 2 else x.permute(2, 0, 1)[None]

    def target(scale: Fraction) -> Target:
        result = memory(_scaled(image.shape, (0, 1), scale))
        return Target(batch(result), lambda: finish(result))

    return ImageView(_checked(batch(torch.from_numpy(native)), image.shape), target, False)


def _open_pillow(image: Image.Image) -> ImageView:
    if image.mode not in _PIL_MODES:
        raise TypeError(
            f"image: a Pillow image must be of mode {', '.join(_PIL_MODES)}, got {image.mode};"
            ' convert it, say with image.convert("RGB")'
        )

    def finish(result: np.ndarray) -> Image.Image:
        made = Image.fromarray(result)
        made.info.update(image.info)  # ICC profile, EXIF, resolution
        if made.size != image.size and "dpi" in image.info:  # of the same physical size
            pairs = zip(image.info["dpi"], made.size, image.size)
            made.info["dpi"] = tuple(dpi * new / old for dpi, new, old in pairs)
        return made

    return _finished(_open_array(np.array(image)), finish)


def _checked(batch: Tensor, shape: tuple[int, ...]) -> Tensor:
    if batch.shape[1] not in (1, 2, 3, 4):
        raise ValueError(
            "image must have 1 to 4 channels (gray, gray + alpha, RGB, RGB + alpha), got shape"
            f" {shape}; {_NAME_AXES}"
        )
    if 0 in batch.shape[2:]:
        raise ValueError(f"image is empty: shape {shape}")
    return batch
