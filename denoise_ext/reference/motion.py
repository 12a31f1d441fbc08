"""Block matching, motion compensation and recurrent fusion in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext._arguments import FILTER_DTYPES, FLOAT_DTYPES, check_image
from denoise_ext._motion_arguments import (
    BLOCK,
    block_sigma,
    check_frames,
    check_fuse,
    check_motion,
    pixel_level,
)

COARSE_SEARCH = 4  # pixels of a quarter of the resolution
LENGTH = 5  # what a pixel of a vector costs at a quarter of the resolution
STILL = 0.23  # what a refinement has to win by in the mean absolute difference, 8-bit levels
COARSE_SIGMA, FINE_SIGMA = 0.1, 0.06  # the same as a part of sigma; see csrc/cpu/motion.cpp
LARGEST_SIGMA = 1e4


def block_match(input: Tensor, previous: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
    """:func:`denoise_ext.ops.block_match` as separate PyTorch operations.

    Example:
        >>> frame, previous = torch.rand(2, 1, 1, 64, 64)
        >>> expected = denoise_ext.reference.block_match(frame, previous)
        >>> torch.equal(denoise_ext.ops.block_match(frame, previous), expected)
        True
    """
    check_frames(input, previous)
    level = block_sigma(sigma, input)
    shape = level.shape[0], *level.shape[2:]
    if input.is_meta or input.numel() == 0:  # a meta tensor has a shape alone
        return torch.empty((*shape, 2), dtype=torch.int16, device=input.device)
    level = level[:, 0].double().nan_to_num(0.0, posinf=LARGEST_SIGMA).clamp(0.0, LARGEST_SIGMA)
    here, there = _pyramid(input), _pyramid(previous)
    sides = range(-COARSE_SEARCH, COARSE_SEARCH + 1)
    vectors = [(0, 0), *((y, x) for y in sides for x in sides if y or x)]
    start = torch.zeros((*shape, 2), dtype=torch.int64, device=input.device)
    # 4 x 4 windows around 2 x 2 pixels; then 8 x 8 and 16 x 16
    toll = (16 * COARSE_SIGMA * level).round().long()
    motion = _best(here[2], there[2], start, vectors, toll, LENGTH)
    vectors = [(y, x) for y in (0, -1, 1) for x in (0, -1, 1)]
    for scale, pixels in ((1, 64), (0, 256)):
        toll = round(pixels * STILL) + (pixels * FINE_SIGMA * level).round().long()
        motion = _best(here[scale], there[scale], 2 * motion, vectors, toll, 0)
    return motion.to(torch.int16)


def _pyramid(plane: Tensor) -> list[Tensor]:
    """(N, 1, H, W) -> int64 (N, h, w) in 8 bits at full, half and quarter resolution."""
    if plane.dtype == torch.uint8:
        levels = plane[:, 0].long()
    else:
        exact = plane[:, 0].double().nan_to_num(0.0)
        levels = (exact.clamp(0.0, 1.0) * 256.0).long().clamp(max=255)
    height, width = (-(-size // BLOCK) * BLOCK for size in levels.shape[1:])
    levels = levels[:, _inside(height, levels.shape[1], levels.device)]
    levels = levels[:, :, _inside(width, levels.shape[2], levels.device)]
    made = [levels]
    for _ in range(2):
        finer = made[-1].unfold(1, 2, 2).unfold(2, 2, 2)
        made.append((finer.sum((3, 4)) + 2) >> 2)
    return made


def _inside(count: int, size: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device).clamp(0, size - 1)


def _best(
    here: Tensor,
    there: Tensor,
    motion: Tensor,
    vectors: list[tuple[int, int]],
    toll: Tensor,
    length: int,
) -> Tensor:
    """The best of ``motion`` + ``vectors``, the first of which costs nothing, for every block."""
    n, rows, columns, _ = motion.shape
    side = here.shape[1] // rows  # of a block; its window is twice as large
    device = here.device
    offset = torch.arange(2 * side, device=device) - side // 2
    y = (torch.arange(rows, device=device)[:, None] * side + offset)[:, None, :, None]
    x = (torch.arange(columns, device=device)[:, None] * side + offset)[None, :, None, :]
    image = torch.arange(n, device=device)[:, None, None, None, None]
    height, width = here.shape[1:]

    def windows(frame: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        """(N, rows, columns, 2 side, 2 side), moved by (dy, dx) of each block."""
        row = (y + dy[..., None, None]).clamp(0, height - 1)
        column = (x + dx[..., None, None]).clamp(0, width - 1)
        return frame[image, row, column]

    none = torch.zeros_like(motion[..., 0])
    block = windows(here, none, none)
    costs = []
    for index, (dy, dx) in enumerate(vectors):
        moved = windows(there, motion[..., 0] + dy, motion[..., 1] + dx)
        cost = (block - moved).abs().sum((3, 4))
        costs.append(cost + (toll + length * (abs(dy) + abs(dx)) if index else 0))
    # the first of the smallest: argmin promises no order
    count = len(vectors)
    ranked = torch.stack(costs, -1) * count + torch.arange(count, device=device)
    chosen = torch.tensor(vectors, device=device)[ranked.amin(-1) % count]
    return motion + chosen


def block_warp(input: Tensor, motion: Tensor) -> Tensor:
    """:func:`denoise_ext.ops.block_warp` as separate PyTorch operations.

    Example:
        >>> x, motion = torch.rand(1, 3, 32, 32), torch.ones(1, 4, 4, 2, dtype=torch.int16)
        >>> expected = denoise_ext.reference.block_warp(x, motion)
        >>> torch.equal(denoise_ext.ops.block_warp(x, motion), expected)
        True
    """
    check_image(input, "input", FILTER_DTYPES)
    check_motion(motion, input)
    n, channels, height, width = input.shape
    if input.numel() == 0:
        return input.clone()
    vectors = motion.long().repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    vectors = vectors[:, :height, :width]  # (N, H, W, 2)
    rows = torch.arange(height, device=input.device)[:, None] + vectors[..., 0]
    columns = torch.arange(width, device=input.device) + vectors[..., 1]
    place = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    place = place.reshape(n, 1, height * width).expand(n, channels, height * width)
    return input.reshape(n, channels, -1).gather(2, place).reshape(input.shape)


def recurrent_fuse(input: Tensor, previous: Tensor, gate: Tensor, level: float | Tensor) -> Tensor:
    """:func:`denoise_ext.ops.recurrent_fuse` as separate PyTorch operations.

    Example:
        >>> frame, gate = torch.rand(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.5)
        >>> state = torch.rand(1, 3, 16, 16)
        >>> expected = denoise_ext.reference.recurrent_fuse(frame, state, gate, 0.1)
        >>> torch.allclose(denoise_ext.ops.recurrent_fuse(frame, state, gate, 0.1), expected)
        True
    """
    check_image(input, "input", FLOAT_DTYPES)
    check_fuse(input, previous, gate)
    level = pixel_level(level, input)
    channels = input.shape[1]
    last, fused, previous_level = previous.split((channels, channels, 1), dim=1)
    factor = input.shape[-1] // gate.shape[-1] if gate.shape[-1] else 1
    n, _, rows, columns = gate.shape
    # F.pixel_shuffle has no gradient for an empty batch
    pixels = gate.reshape(n, factor, factor, rows, columns).permute(0, 3, 1, 4, 2)
    weight = pixels.reshape(n, 1, rows * factor, columns * factor)
    known = previous_level != 0
    used = known & (level != 0)
    weight = torch.where(used, weight, 0.0)
    mixed = torch.where(used, input + weight * (fused - input), input)
    # the gradient of a norm of 0 is 0
    parts = torch.stack([(1.0 - weight) * level, weight * previous_level])
    fused_level = torch.linalg.vector_norm(parts, dim=0)
    return torch.cat([torch.where(known, last, input), mixed, fused_level], dim=1)
