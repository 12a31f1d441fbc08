"""Convolutions with large kernels by Fourier transforms of tiles ("overlap-save").

A product of a tile's and the kernel's transforms is a circular convolution.  Outputs that are far
enough from the tile's end are those of the ordinary one; tiles overlap by the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_KERNEL = 9  # of direct sums, smaller ones take less time
_TILE = 64  # outputs along each axis; smaller images have one tile
_FACTORS = (2, 3, 5)  # of lengths that transform quickly


def transform_length(outputs: tuple[int, int], kernel: int) -> int:
    """Pixels along each axis of the tiles for an image of ``outputs``."""
    length = min(max(outputs), _TILE) + kernel - 1
    while not _is_smooth(length):
        length += 1
    return length


def _is_smooth(length: int) -> bool:
    for factor in _FACTORS:
        while length % factor == 0:
            length //= factor
    return length == 1


def spectrum_of(weight: Tensor, length: int) -> Tensor:
    """The transform of a weight (K, C, kH, kW): (frequencies, K, C)."""
    transform = torch.fft.rfft2(weight, s=(length, length)).conj()
    return transform.flatten(2).permute(2, 0, 1).contiguous()


def convolve(
    input: Tensor, spectrum: Tensor, bias: Tensor | None, kernel: tuple[int, int],
    padding: tuple[int, int], length: int, out: Tensor,
) -> None:  # fmt: skip
    """``conv2d`` of stride 1 with zeros around the image, into ``out``."""
    n, c = input.shape[:2]
    k, h, w = out.shape[1:]
    steps = [length - size + 1 for size in kernel]
    tiles = [-(-size // step) for size, step in zip((h, w), steps, strict=True)]
    # The last tiles end behind the image.
    rows, columns = (
        (tile - 1) * step + length - size - pad
        for tile, step, size, pad in zip(tiles, steps, input.shape[2:], padding, strict=True)
    )
    wide = F.pad(input.contiguous(), (padding[1], columns, padding[0], rows))
    windows = wide.unfold(2, length, steps[0]).unfold(3, length, steps[1])
    frequencies = torch.fft.rfft2(windows)  # (N, C, tiles, tiles, length, length // 2 + 1)
    by_frequency = frequencies.flatten(4).permute(4, 1, 0, 2, 3).reshape(len(spectrum), c, -1)
    sums = torch.bmm(spectrum, by_frequency).permute(1, 2, 0)
    sums = sums.reshape(k, n, *tiles, length, length // 2 + 1)
    result = torch.fft.irfft2(sums, s=(length, length))[..., : steps[0], : steps[1]]
    result = result.permute(1, 0, 2, 4, 3, 5).reshape(n, k, tiles[0] * steps[0], -1)[..., :h, :w]
    if bias is None:
        out.copy_(result)
    else:
        torch.add(result, bias.view(-1, 1, 1), out=out)
