"""Images of any number of channels at the ports of a network of one image."""

from __future__ import annotations

import math

from torch import Tensor

from denoise_ext.models.image_denoiser import ImageNetwork
from denoise_ext.models.network import Tensors
from denoise_ext.runtime.model_names import default_model


class ImagePorts:
    """Makes a network's inputs of images of `channels` channels, and images of its outputs.

    A gray network takes each channel of a colour image as an image of its own. A colour network
    takes three copies of a gray image, and its outputs are averaged.

    Raises:
        ValueError: the network cannot take images of so many channels.
    """

    def __init__(self, network: ImageNetwork, channels: int) -> None:
        own = network.in_channels
        if channels == 1 and own != 1 and not network.needs_sigma:
            raise ValueError(
                "model is a blind one for colour images, but the image is gray: use a gray model"
                f" such as {default_model(1)}"
            )
        if own not in (1, channels) and channels != 1:
            raise ValueError(f"model takes {own} channels, but the image has {channels}")
        self._network, self._channels = network, channels
        self._split = channels if own == 1 else 1
        self._copies = own if channels == 1 else 1

    @property
    def images(self) -> int:
        """How many images of the network's one image makes."""
        return self._split

    def inputs(self, x: Tensor, sigma: float | Tensor | None) -> Tensors:
        """The network's inputs for `x` (N, channels, H, W) and sigma as in its call."""
        n, c, h, w = x.shape
        if self._copies > 1:
            # Copied noise is so much stronger in their mean than the independent noise of training.
            sigma = sigma * math.sqrt(self._copies)  # type: ignore[operator]
            x = x.expand(n, self._copies, h, w)
        elif self._split > 1:
            if isinstance(sigma, Tensor) and sigma.dim() > 0 and sigma.shape[0] == n:
                sigma = sigma.repeat_interleave(c, dim=0)
            x = x.reshape(n * c, 1, h, w)
        return self._network.inputs_for(x, sigma)

    def image(self, outputs: Tensors) -> Tensor:
        """The image (N, channels, H, W) that these outputs are."""
        y = outputs["image"]
        if self._copies > 1:
            return y.mean(dim=1, keepdim=True)
        return y.reshape(-1, self._channels, *y.shape[-2:])
