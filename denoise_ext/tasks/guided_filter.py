"""Denoise an image guided by a second one: depth by a photograph, infrared by visible light."""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext.io.channels import colour_channels
from denoise_ext.models.network import Geometry, Network, Port, Signature, Tensors
from denoise_ext.nn import JointBilateralBlur
from denoise_ext.runtime.device import choose_device
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.images import open_image
from denoise_ext.tasks.value_range import to_unit

JOINT_BILATERAL = "joint_bilateral"


def default_filter() -> JointBilateralBlur:
    """What `JOINT_BILATERAL` names: 13 x 13 pixels, a tenth of the guide's range."""
    return JointBilateralBlur(13, sigma_color=0.1, sigma_space=3.0, color_distance_type="l2")


class GuidedFilter(Network):
    """A joint bilateral filter as a network: `image` and `guide` in, `image` out, in [0, 1].

    Args:
        layer: the filter; its ``sigma_color`` is in units of the guide's range.
        channels, guide_channels: of image and guide.
    """

    family = JOINT_BILATERAL

    def __init__(self, layer: JointBilateralBlur, channels: int, guide_channels: int) -> None:
        super().__init__()
        image = Port(channels)
        self.signature: Signature = Signature(
            {"image": image, "guide": Port(guide_channels)}, {"image": image}
        )
        self.layer = layer
        radius = max(layer.kernel_size) // 2
        self.geometry: Geometry | str | None = Geometry(2 * radius + 1, radius, 1, ())
        if layer.border_type == "circular":  # the opposite side of the image, which tiles lack
            self.geometry = "its border is circular"

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`."""
        return {"image": self.layer(inputs["image"], inputs["guide"])}, state


def is_guided(model: object) -> bool:
    """Whether `model` is one that takes a guide."""
    return isinstance(model, JointBilateralBlur) or model == JOINT_BILATERAL


def guided_session(
    model: object,
    channels: int,
    guide_channels: int,
    device: str | torch.device | None,
    backend: str,
) -> Session:
    """Return the filter that `model`, which `is_guided`, names.

    `device` and `backend` are as in `choose_device`; a layer with numbers of its own stays where it
    is.
    """
    if backend != "native":
        raise ValueError(f'backend {backend!r}: guided filters run with "native" alone')
    layer = model if isinstance(model, JointBilateralBlur) else default_filter()
    tensors = [*layer.parameters(), *layer.buffers()]
    where = tensors[0].device if tensors else choose_device(device)
    network = GuidedFilter(layer, channels, guide_channels)
    return Session(network, "strict", run_planned=False, place=(where, torch.float32))


class GuidedPorts:
    """As `ImagePorts`, for a filter that takes a part of the guide in place of sigma."""

    images = 1

    def inputs(self, x: Tensor, guide: float | Tensor | None) -> Tensors:
        """The filter's inputs; ``guide`` is a tensor."""
        assert isinstance(guide, Tensor)
        return {"image": x, "guide": guide}

    def image(self, outputs: Tensors) -> Tensor:
        """The image that these outputs are."""
        return outputs["image"]


class Guide:
    """A guide, read part by part as the image is.

    Args:
        guide: any kind of image `Denoiser` takes, without alpha or with one that is left out; or a
            batch of as many as there are images, or of one for all.
        image: (N, C, H, W), what it guides.

    Raises:
        TypeError, ValueError: no such image; the message names "guide".
    """

    def __init__(self, guide: object, image: Tensor) -> None:
        try:
            opened = open_image(guide)
        except (TypeError, ValueError) as error:
            raise type(error)(f"guide: {error}") from None
        source, self._range = opened.source, opened.value_range
        if source.shape[-2:] != image.shape[-2:] or source.shape[0] not in (1, image.shape[0]):
            raise ValueError(
                f"guide must have the image's size {tuple(image.shape[-2:])} (and number), got"
                f" {tuple(source.shape[-2:])} (N = {source.shape[0]})"
            )
        self.channels: int = colour_channels(source.shape[1])
        self._pixels = source[:, : self.channels].expand(image.shape[0], -1, -1, -1)

    def part(self, images: slice, window: tuple[slice, slice], device: torch.device) -> Tensor:
        """Its pixels for a part of the images, black 0 and white 1, in float32."""
        part = self._pixels[(images, slice(None), *window)].to(device)
        return to_unit(part, value_range=self._range)
