"""Denoise an image guided by a second one: depth by a photograph, infrared by visible light."""

from __future__ import annotations

import os
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from denoise_ext.io import Picture, read_picture
from denoise_ext.io.channels import colour_channels
from denoise_ext.io.orientation import orientation_of
from denoise_ext.models import Network, list_models, pretrained_info
from denoise_ext.models.image_denoiser import checked_sigma
from denoise_ext.models.network import Tensors
from denoise_ext.runtime.model_names import Model, original_of
from denoise_ext.tasks.guided_filter import JOINT_BILATERAL, is_guided_filter
from denoise_ext.tasks.images import ImageView, open_image
from denoise_ext.tasks.value_range import Range, to_unit

GUIDED = "dxnet_s_guided"
"""The network that takes a guide where no model is named."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_EXIF_ORIENTATION = 274


def takes_guide(model: object) -> bool:
    """Whether `model`, a network, denoises an image of its size with a gray or colour guide."""
    network = original_of(model)
    if not isinstance(network, Network) or network.signature.state:
        return False
    inputs, outputs = network.signature.inputs, network.signature.outputs
    image = outputs.get("image")
    return (
        {"image", "guide"} <= set(inputs) <= {"image", "guide", "noise_map"}
        and inputs["guide"].scale == 1
        and inputs["guide"].channels in (1, 3)
        and ("noise_map" not in inputs or inputs["noise_map"].channels == 1)
        and image == inputs["image"]
    )


def default_guided() -> str:
    """The name of the network for a guide, where no model is given; ValueError if none ships."""
    if pretrained_info(GUIDED) is None:
        raise ValueError(
            f"guide: no network with a guide has trained weights in this version; give one as"
            f' model, or model="{JOINT_BILATERAL}" or a denoise_ext.nn.JointBilateralBlur'
        )
    return GUIDED


def check_guided(needed: bool, given: bool) -> None:
    """ValueError where a model needs a guide and there is none, or takes none."""
    if needed and not given:
        raise ValueError("guide is required by this model: an image of the same size")
    if given and not needed:
        known = [name for name in list_models(pretrained=True) if name == GUIDED]
        names = " and ".join(f'model="{name}"' for name in (*known, JOINT_BILATERAL))
        raise ValueError(
            f"guide: this model takes none; {names} and denoise_ext.nn.JointBilateralBlur do"
        )


def open_guide(guide: object, given: object = None) -> ImageView:
    """View a guide as a tensor.

    Args:
        guide: any kind of image `Denoiser` takes, without alpha or with one that is left out; or a
            batch of as many as there are images, or of one for all.
        given: what the caller gave as the image.  The pixels of a picture are as its file stores
            them.  A guide's file is then read in the same way.  Both must have one EXIF
            orientation.

    Raises:
        TypeError, ValueError: no such image; the message names "guide".
    """
    try:
        return open_image(_checked_turn(guide, given))
    except (TypeError, ValueError) as error:
        text = str(error)
        raise type(error)(text if text.startswith("guide") else f"guide: {text}") from None


class Guide:
    """A guide, read part by part as the image is.

    Args:
        opened: of `open_guide`.
        image: (N, C, H, W), what it guides.

    Raises:
        ValueError: a guide of another size or number.
    """

    def __init__(self, opened: ImageView, image: Tensor) -> None:
        source, self._range = opened.source, opened.value_range
        if source.shape[-2:] != image.shape[-2:] or source.shape[0] not in (1, image.shape[0]):
            raise ValueError(
                f"guide must have the image's size {tuple(image.shape[-2:])} (and number), got"
                f" {tuple(source.shape[-2:])} (N = {source.shape[0]})"
            )
        self.channels: int = colour_channels(source.shape[1])
        self._pixels = source[:, : self.channels].expand(image.shape[0], -1, -1, -1)

    def part(
        self, images: slice, window: tuple[slice, slice], device: torch.device | str
    ) -> Tensor:
        """Its pixels for a part of the images, black 0 and white 1, in float32."""
        part = self._pixels[(images, slice(None), *window)].to(device)
        return unit_guide(part, self._range)


def guided(
    model: Model, image: object, source: Tensor, guide: object, holes: str
) -> tuple[Model, Guide | None]:
    """The model for an image, and its guide.

    Args:
        model: None: `GUIDED` with a guide, else None.
        image: as the caller gave it; `source`: its pixels (N, C, H, W).
        guide: as the caller gave it; None: none.
        holes: what is done with holes, for which a guide is needed.
    """
    if guide is not None:
        model = default_guided() if model is None else model
        return model, Guide(open_guide(guide, image), source)
    if holes != "none":
        raise ValueError(f"holes is for images with a guide, got {holes!r} without one")
    return model, None


def unit_guide(pixels: Tensor, value_range: Range | None) -> Tensor:
    """A guide's pixels (N, C, H, W) of any dtype in float32, black 0 and white 1.

    Raises:
        TypeError, ValueError: a dtype that needs a range; numbers that are not finite or not in the
            range.  The message names "guide".
    """
    try:
        return to_unit(pixels, value_range=value_range)
    except (TypeError, ValueError) as error:
        raise type(error)(f"guide: {error}") from None


def _checked_turn(guide: Any, image: object) -> Any:
    """The guide, a file as a picture where the image is one; ValueError if one is turned."""
    if isinstance(guide, (str, os.PathLike)) and isinstance(image, Picture):
        guide = read_picture(guide)
    turns = _turn_of(guide), _turn_of(image)
    if turns[0] != turns[1]:
        raise ValueError(
            f"guide has the EXIF orientation {turns[0]}, but the image {turns[1]}: turn one of the"
            " files so that their pixels are stored alike"
        )
    return guide


def _turn_of(image: object) -> int:
    """EXIF orientation of pixels as they are stored, 1 to 8; 1 of pixels without one."""
    if isinstance(image, Picture):
        return orientation_of(image.metadata.exif)
    if isinstance(image, Image.Image):
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    return 1


class FilterPorts:
    """As `ImagePorts`, for a filter, which takes a guide and no sigma."""

    images = 1

    def inputs(self, x: Tensor, sigma: float | Tensor | None, guide: Tensor) -> Tensors:
        """The filter's inputs."""
        return {"image": x, "guide": guide}

    def image(self, outputs: Tensors) -> Tensor:
        """The image that these outputs are."""
        return outputs["image"]


class GuidedPorts:
    """As `ImagePorts`, for a network with a guide.

    A gray network takes each channel of a colour image as an image of its own.  A gray guide is
    repeated for a network that takes a colour one, and of a colour guide a gray network gets the
    luma.

    Raises:
        ValueError: the network cannot take images of so many channels.
    """

    def __init__(self, network: Network, channels: int) -> None:
        ports = network.signature.inputs
        own = ports["image"].channels
        if own not in (1, channels):
            raise ValueError(f"model takes {own} channels, but the image has {channels}")
        self._channels, self._guide_channels = channels, ports["guide"].channels
        self._needs_level = "noise_map" in ports
        self.images: int = channels if own == 1 else 1

    def inputs(self, x: Tensor, sigma: float | Tensor | None, guide: Tensor) -> Tensors:
        """The network's inputs for `x` (N, channels, H, W), sigma as in a call, and its guide."""
        n, c, h, w = x.shape
        guide = self._guide(guide.to(x.dtype))
        if self.images > 1:
            if isinstance(sigma, Tensor) and sigma.dim() > 0 and sigma.shape[0] == n:
                sigma = sigma.repeat_interleave(c, dim=0)
            x, guide = x.reshape(n * c, 1, h, w), guide.repeat_interleave(c, dim=0)
        inputs = {"image": x, "guide": guide}
        if self._needs_level:
            assert sigma is not None  # given or estimated
            level = checked_sigma(x, sigma).to(x.dtype) / 255.0
            inputs["noise_map"] = level.expand(len(x), -1, -1, -1)
        return inputs

    def _guide(self, guide: Tensor) -> Tensor:
        if guide.shape[1] == self._guide_channels:
            return guide
        if self._guide_channels == 1:
            return (guide * guide.new_tensor(_LUMA).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
        return guide.expand(-1, self._guide_channels, -1, -1)

    def image(self, outputs: Tensors) -> Tensor:
        """The image (N, channels, H, W) that these outputs are."""
        y = outputs["image"]
        return y.reshape(-1, self._channels, *y.shape[-2:])


def ports_for(network: Network, channels: int) -> FilterPorts | GuidedPorts:
    """What feeds a network with a guide."""
    return FilterPorts() if is_guided_filter(network.family) else GuidedPorts(network, channels)
