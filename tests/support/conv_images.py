"""Images for the tests of raw convolutions: random, with a border, upsampled."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Rows and columns of a Winograd tile's output.
WINOGRAD_OUTPUTS = {"winograd2": 2, "winograd4": 4, "winograd6": 6}
POOLS = {"max": F.max_pool2d, "average": F.avg_pool2d}


def values(*shape: int, seed: int = 0, layout=torch.channels_last) -> Tensor:
    x = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1
    return x.contiguous(memory_format=layout)


def padded(x: Tensor, padding: int, border: str = "constant") -> Tensor:
    """The image with its border; torch mirrors by less than the image alone, hence by the index."""
    if border == "constant":
        return F.pad(x, [padding] * 4)
    for dim in (2, 3):
        size = x.shape[dim]
        index = torch.arange(-padding, size + padding)
        if border == "replicate" or size == 1:
            index = index.clamp(0, size - 1)
        else:
            index = index.abs() % (2 * size - 2)
            index = torch.minimum(index, 2 * size - 2 - index)
        x = x.index_select(dim, index)
    return x


def image_of(coarse: Tensor | None, fine: Tensor | None) -> Tensor:
    """What the convolution reads, in float64."""
    parts = [] if coarse is None else [F.interpolate(coarse.double(), scale_factor=2)]
    return torch.cat(parts + ([] if fine is None else [fine.double()]), 1)
