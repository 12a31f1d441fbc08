"""Motion between frames made of operators that ONNX has: convolutions, pooling and gathering.

The references (`denoise_ext.reference`) cut a window for every block and every vector. Here all
blocks of a vector are compared at once. Vectors are the same integers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext._motion_arguments import BLOCK
from denoise_ext.nn import BlockMatch, BlockWarp, RecurrentFuse
from denoise_ext.reference.motion import (
    COARSE_SEARCH,
    COARSE_SIGMA,
    FINE_SIGMA,
    LARGEST_SIGMA,
    LENGTH,
    STILL,
)

_AROUND = [(y, x) for y in (0, -1, 1) for x in (0, -1, 1)]
_SIDES = range(-COARSE_SEARCH, COARSE_SEARCH + 1)
_SEARCHED = [(0, 0), *((y, x) for y in _SIDES for x in _SIDES if y or x)]


def replace_motion(network: nn.Module) -> None:
    """Replace the layers of motion in a network by those of this module."""
    for name, layer in list(network.named_modules()):
        for kind, portable in _PORTABLE.items():
            if isinstance(layer, kind):
                network.set_submodule(name, portable())


class PortableBlockMatch(nn.Module):
    """`nn.BlockMatch` for frames of whole blocks and a level for each of them.

    Costs are whole numbers below 2^24, which float32 holds exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        # A kernel of zeros and a one moves a frame. Slices would be hundreds of nodes.
        moves = torch.zeros(len(_SEARCHED), 1, len(_SIDES), len(_SIDES))
        for move, (dy, dx) in zip(moves, _SEARCHED):
            move[0, COARSE_SEARCH + dy, COARSE_SEARCH + dx] = 1.0
        self.moves: Tensor
        self.register_buffer("moves", moves, persistent=False)

    def forward(self, input: Tensor, previous: Tensor, sigma: Tensor) -> Tensor:
        """Return int64 (N, H / 8, W / 8, 2) of frames (N, 1, H, W).

        sigma is (N, 1, H / 8, W / 8), or of 1 for all places.
        """
        level = sigma.double().clamp(0.0, LARGEST_SIGMA)
        here, there = _pyramid(input), _pyramid(previous)
        toll = (16 * COARSE_SIGMA * level).round().float()
        motion = 2 * _searched(here[2], there[2], toll, self.moves)
        for scale, pixels in ((1, 64), (0, 256)):
            toll = round(pixels * STILL) + (pixels * FINE_SIGMA * level).round().float()
            motion = motion + _refined(here[scale][:, 0], there[scale][:, 0], motion, toll)
            motion = motion * 2 if scale else motion
        return motion


class PortableBlockWarp(nn.Module):
    """`nn.BlockWarp` for frames of whole blocks."""

    def forward(self, input: Tensor, motion: Tensor) -> Tensor:
        """Return (N, C, H, W) with each block moved by its vector (N, H / 8, W / 8, 2)."""
        n, channels, height, width = input.shape
        rows, columns = motion.shape[1:3]
        vectors = motion[:, :, None, :, None].expand(n, rows, BLOCK, columns, BLOCK, 2)
        vectors = vectors.reshape(n, height, width, 2)
        y = (torch.arange(height)[:, None] + vectors[..., 0]).clamp(min=0)
        x = (torch.arange(width) + vectors[..., 1]).clamp(min=0)
        y, x = torch.minimum(y, torch.arange(height)[-1]), torch.minimum(x, torch.arange(width)[-1])
        place = (y * width + x).reshape(n, 1, height * width)
        moved = input.flatten(2).gather(2, place.expand(n, channels, height * width))
        return moved.reshape(n, channels, height, width)


class PortableFuse(nn.Module):
    """`nn.RecurrentFuse`."""

    def forward(self, input: Tensor, previous: Tensor, gate: Tensor, level: Tensor) -> Tensor:
        """Return (N, 2 C + 1, H, W): last output, fused frame, its noise level."""
        channels = input.shape[1]
        last, fused, previous_level = previous.split((channels, channels, 1), dim=1)
        known = previous_level != 0
        used = known & (level != 0)
        weight = F.pixel_shuffle(gate, round(gate.shape[1] ** 0.5)) * used
        mixed = torch.where(used, input + weight * (fused - input), input)
        spread = ((1.0 - weight) * level).square() + (weight * previous_level).square()
        return torch.cat([torch.where(known, last, input), mixed, spread.sqrt()], dim=1)


_PORTABLE: dict[type[nn.Module], type[nn.Module]] = {
    BlockMatch: PortableBlockMatch,
    BlockWarp: PortableBlockWarp,
    RecurrentFuse: PortableFuse,
}


def _pyramid(plane: Tensor) -> list[Tensor]:
    """(N, 1, H, W) -> whole numbers in 8 bits at full, half and quarter resolution."""
    made = [(plane.clamp(0.0, 1.0) * 256.0).floor().clamp(max=255.0)]
    for _ in range(2):
        made.append((F.avg_pool2d(made[-1], 2) + 0.5).floor())
    return made


def _searched(here: Tensor, there: Tensor, toll: Tensor, moves: Tensor) -> Tensor:
    """The best vectors (N, rows, columns, 2) within +-4, by windows of 4 x 4 around 2 x 2."""
    here = F.pad(here, (1, 1, 1, 1), mode="replicate")
    moved = F.conv2d(F.pad(there, (COARSE_SEARCH + 1,) * 4, mode="replicate"), moves)
    costs = 16 * F.avg_pool2d((here - moved).abs(), 4, 2)
    lengths = torch.tensor(_SEARCHED).abs().sum(1)[:, None, None]
    costs = costs + (toll * (lengths > 0) + LENGTH * lengths)
    return _cheapest(costs.permute(0, 2, 3, 1), _SEARCHED)


def _refined(here: Tensor, there: Tensor, motion: Tensor, toll: Tensor) -> Tensor:
    """The best change by a pixel of ``motion`` for frames (N, H, W), by windows of two blocks."""
    side = 2 * (here.shape[1] // motion.shape[1])
    block = _windows(here, torch.zeros_like(motion), side)
    moved = _windows(there, motion, side + 2)
    costs = []
    for dy, dx in _AROUND:
        shown = moved[..., 1 + dy : 1 + dy + side, 1 + dx : 1 + dx + side]
        cost = (block - shown).abs().sum((3, 4))
        costs.append(cost + (toll[:, 0] if dy or dx else 0.0))
    return _cheapest(torch.stack(costs, -1), _AROUND)


def _windows(frame: Tensor, motion: Tensor, side: int) -> Tensor:
    """(N, rows, columns, side, side): what lies around each block, moved by its vector."""
    n, height, width = frame.shape
    rows, columns = motion.shape[1:3]
    block = height // rows
    offset = torch.arange(side) - (side - block) // 2
    y = (torch.arange(rows)[:, None] * block + offset)[:, None, :, None]
    x = (torch.arange(columns)[:, None] * block + offset)[None, :, None, :]
    y, x = y + motion[..., :1, None], x + motion[..., 1:, None]
    y = torch.minimum(y.clamp(min=0), torch.arange(height)[-1])
    x = torch.minimum(x.clamp(min=0), torch.arange(width)[-1])
    place = (y * width + x).reshape(n, -1)
    return frame.flatten(1).gather(1, place).reshape(n, rows, columns, side, side)


def _cheapest(costs: Tensor, vectors: list[tuple[int, int]]) -> Tensor:
    """The first vector of the smallest cost (..., vectors): (..., 2)."""
    count = len(vectors)
    ranked = costs * count + torch.arange(count, dtype=costs.dtype)
    best = torch.remainder(ranked.amin(-1), count).long()
    return torch.tensor(vectors)[best]
