"""The joint bilateral filter as a network with a guide."""

from __future__ import annotations

import torch

from denoise_ext.models.network import Geometry, Network, Port, Signature, Tensors
from denoise_ext.nn import JointBilateralBlur
from denoise_ext.runtime.device import choose_device
from denoise_ext.runtime.session import Session

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


def is_guided_filter(model: object) -> bool:
    """Whether `model` is a filter that takes a guide."""
    return isinstance(model, JointBilateralBlur) or model == JOINT_BILATERAL


def guided_session(
    model: object,
    channels: int,
    guide_channels: int,
    device: str | torch.device | None,
    backend: str,
) -> Session:
    """Return the filter that `model`, which `is_guided_filter`, names.

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
