"""Natural fine detail, part of which is made up: what it goes with, and how a result states it."""

from __future__ import annotations

from dataclasses import replace

from denoise_ext.io import Picture
from denoise_ext.io.xmp import with_fact
from denoise_ext.runtime.model_names import Model, check_textured
from denoise_ext.tasks.result import Result
from denoise_ext.tasks.treatment import PHOTO


def check_texture(texture: object, model: Model, alpha: str, uncertainty: int) -> float:
    """The argument of a `Denoiser`; TypeError or ValueError where it does not fit the others."""
    if isinstance(texture, bool) or not isinstance(texture, (int, float)):
        raise TypeError(f"texture must be a number from 0 to 1, got {texture!r}")
    if not 0 <= texture <= 1:  # NaN too
        raise ValueError(f"texture must be a number from 0 to 1, got {texture}")
    if texture:
        check_textured(model)
    if texture and uncertainty:
        raise ValueError(f"uncertainty needs texture 0, got {texture:g}: detail is made up")
    if texture and alpha != "keep":
        raise ValueError(f"texture needs alpha 'keep', got {alpha!r}")
    return float(texture)


def check_treatment(model: str) -> None:
    """ValueError for an image whose noise another network treats, which has no texture."""
    if model == PHOTO:
        raise ValueError(
            f"texture: the noise of this image is that of a camera, for {PHOTO}, which has none;"
            " give sigma, or leave texture out"
        )


def stated(result: Result, texture: float) -> Result:
    """The result with its texture, which the file of a picture states, too.

    One without a texture, or for which nothing was computed, is returned as it is.
    """
    if not (texture and result.tiles):
        return result
    image = result.image
    if isinstance(image, Picture):
        image = with_fact(image, "texture", f"{texture:g} of 1; fine detail is partly made up")
    text = f"{result.treatment}, texture {texture:g}" if result.treatment else ""
    return replace(result, image=image, treatment=text, texture=texture)
