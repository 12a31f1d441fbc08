"""A network as a function of whole images that are tensors: in tiles, with any level of noise."""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext.models.network import Tensors
from denoise_ext.runtime.from_module import check_image_denoiser
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.runtime.tile_planner import cut
from denoise_ext.runtime.tiling import Places
from denoise_ext.tasks.image_ports import ImagePorts


class NetworkRun:
    """Denoises (N, channels, H, W) with black 0 and white 1, again and again.

    Args:
        session: a network conditioned on a noise level.
        channels: of the images, as for `ImagePorts`.
        options: tile and max_memory are used.

    Raises:
        TypeError, ValueError: a network that does not fit, or is blind.
    """

    def __init__(self, session: Session, channels: int, options: RunOptions) -> None:
        check_image_denoiser(session.original)
        self._session, self._options = session, options
        self._ports = ImagePorts(session.original, channels)
        if "noise_map" not in session.original.signature.inputs:
            raise ValueError(
                "model must be conditioned on a noise level, got a blind network"
                f" ({session.original.family})"
            )

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """x denoised at a level on the 0-255 scale, not clipped.  No gradients are kept."""
        count, _, height, width = x.shape
        shape = (count, height, width)
        grid, at_once = cut(self._session, shape, self._options, batch=self._ports.images)
        result = torch.empty_like(x)
        with torch.inference_mode():
            for first in range(0, count, at_once):
                images = slice(first, first + at_once)

                def read(places: Places, images: slice = images) -> Tensors:
                    part = x[(images, slice(None), *places["image"])]
                    return self._ports.inputs(part.contiguous(), sigma)

                def write(places: Places, outputs: Tensors, images: slice = images) -> None:
                    result[(images, slice(None), *places["image"])] = self._ports.image(outputs)

                self._session.run_tiles(grid, read, write)
        return result
