"""What a network gives beside the image, by name: an estimated noise level, surface normals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoise_ext.models.network import Network, Port, Tensors
from denoise_ext.runtime.tiling import Places


class OtherOutputs:
    """Collects them tile by tile, for a batch of so many images.

    Attributes:
        found: (count, C, h, w) float32 each, on the CPU; NaN for images of other networks.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: Tensors = {}

    def of(self, network: Network, images: slice, size: tuple[int, int]) -> OutputWriter:
        """A place for what `network` gives for some of the images, of that height and width."""
        for name, port in network.signature.outputs.items():
            if name != "image" and name not in self.found:
                shape = (self.count, 0, *(port.size(side) for side in size))
                self.found[name] = torch.empty(shape)
        return OutputWriter(self, images)

    def as_given(self, image: object, batched: bool) -> dict[str, Any]:
        """As the result has them: tensors for tensors and batches, else arrays.

        A tensor is (C, h, w), of a batch (N, C, h, w). An array is (h, w), or (h, w, C).
        """
        made: dict[str, Any] = {}
        for name, x in self.found.items():
            if batched or isinstance(image, Tensor):
                made[name] = x if batched else x[0]
            else:
                array = x[0].permute(1, 2, 0).numpy()
                made[name] = array[..., 0] if array.shape[2] == 1 else array
        return made


class OutputWriter:
    """Writes the outputs of some images, `images`, into the whole."""

    def __init__(self, whole: OtherOutputs, images: slice) -> None:
        self._whole, self._images = whole, images

    def write(self, images: slice, places: Places, outputs: Tensors) -> None:
        """Keep the outputs of a tile, which belong at `places` of some of these images."""
        found = self._whole.found
        for name, whole in found.items():
            if name not in outputs:
                continue
            rows = range(self._whole.count)[self._images][images]
            # of a gray network, the channels of a colour image are images of its own
            part = outputs[name].reshape(len(rows), -1, *outputs[name].shape[-2:])
            if not whole.shape[1]:
                shape = (whole.shape[0], part.shape[1], *whole.shape[2:])
                found[name] = whole = torch.full(shape, torch.nan)
            whole[(slice(rows.start, rows.stop), slice(None), *places[name])] = part.float().cpu()


def outputs_in_part(
    outputs: Mapping[str, np.ndarray],
    place: tuple[slice, slice],
    ports: Mapping[str, Port],
) -> dict[str, Any]:
    """Those of a window, arrays (h, w) or (h, w, C), for a part of it.

    Of smaller outputs a value that belongs to the part in part is included.
    """
    made: dict[str, Any] = {}
    for name, x in outputs.items():
        scale, size = ports[name].scale, ports[name].size
        rows, columns = (slice(int(s.start * scale), size(s.stop)) for s in place)
        made[name] = x[rows, columns]
    return made


def joined_outputs(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Those of a picture: of one frame as they are, of several frames lists, None where none is."""
    if len(parts) == 1:
        return parts[0]
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [part.get(name) for part in parts] for name in names}
