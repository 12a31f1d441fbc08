"""Denoising with the help of a second image: depth by its photograph, infrared by visible light."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denoise_ext.nn import JointBilateralBlur
from denoise_ext.runtime.device import choose_device
from denoise_ext.runtime.tiling import Rule
from denoise_ext.tasks.images import open_image
from denoise_ext.tasks.value_range import to_unit

JOINT_BILATERAL = "joint_bilateral"


def default_filter() -> JointBilateralBlur:
    """What `JOINT_BILATERAL` names: 13 x 13 pixels, a tenth of the guide's range."""
    return JointBilateralBlur(13, sigma_color=0.1, sigma_space=3.0, color_distance_type="l2")


class GuidedFilter:
    """A joint bilateral filter, called as `Runner` is: it takes a guide and no noise level.

    Args:
        layer: the filter; its ``sigma_color`` is in units of the guide's range.
        device, backend: as in `choose_device`.
    """

    needs_sigma = False
    takes_guide = True
    dtype = torch.float32

    def __init__(
        self, layer: JointBilateralBlur, device: str | torch.device | None, backend: str
    ) -> None:
        if backend != "native":
            raise ValueError(f'backend {backend!r}: guided filters run with "native" alone')
        tensors = [*layer.parameters(), *layer.buffers()]
        self.device = tensors[0].device if tensors else choose_device(device)
        self._layer = layer
        # A circular border shows the opposite side of the image, which a tile does not have.
        self.untileable = "its border is circular" if layer.border_type == "circular" else ""
        self.tile_rule = Rule(max(layer.kernel_size) // 2, 1)

    def check(self, channels: int) -> None:
        """Any number of channels will do."""

    def bytes_per_pixel(self, channels: int) -> float:
        """Image, guide of at most four channels, result, and copies of them, in float32."""
        return 2 * 4 * (2 * channels + 4)

    def __call__(
        self, x: Tensor, sigma: float | Tensor | None, guide: Tensor | None
    ) -> tuple[Tensor, bool]:
        """Filter `x` (N, C, H, W) by `guide` (N, C_guide, H, W), both float32 in [0, 1]."""
        return self._layer(x, guide.to(x.dtype)), False


def is_guided(model: object) -> bool:
    """Whether `model` is one that takes a guide."""
    return isinstance(model, JointBilateralBlur) or model == JOINT_BILATERAL


def guided_runner(
    model: nn.Module | str, device: str | torch.device | None, backend: str
) -> GuidedFilter:
    """The filter that `model`, which `is_guided`, stands for."""
    layer = model if isinstance(model, JointBilateralBlur) else default_filter()
    return GuidedFilter(layer, device, backend)


class Guide:
    """A guide, read part by part as the image is.

    Args:
        guide: any kind of image `Denoiser` takes, without alpha or with one that is left out; or a
            batch of as many as there are images, or of one for all.
        image: (N, C, H, W), what it guides.

    Raises:
        TypeError, ValueError: what is no such image; the message says "guide".
    """

    def __init__(self, guide: object, image: Tensor) -> None:
        try:
            opened = open_image(guide)
        except (TypeError, ValueError) as error:
            raise type(error)(f"guide: {error}") from None
        source, self._range = opened.source, opened.value_range
        channels = source.shape[1]
        if source.shape[-2:] != image.shape[-2:] or source.shape[0] not in (1, image.shape[0]):
            raise ValueError(
                f"guide must have the image's size {tuple(image.shape[-2:])} (and number), got"
                f" {tuple(source.shape[-2:])} (N = {source.shape[0]})"
            )
        self._pixels = source[:, : channels - (channels in (2, 4))].expand(
            image.shape[0], -1, -1, -1
        )

    def part(self, images: slice, window: tuple[slice, slice], device: torch.device) -> Tensor:
        """Its pixels for a part of the images, black 0 and white 1, in float32."""
        part = self._pixels[(images, slice(None), *window)].to(device)
        return to_unit(part, value_range=self._range)
