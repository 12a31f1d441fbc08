"""Motion between two frames as layers without parameters."""

from __future__ import annotations

from torch import Tensor, nn

from denoise_ext import ops


class BlockMatch(nn.Module):
    """Motion of blocks; see :func:`denoise_ext.ops.block_match`."""

    def forward(self, input: Tensor, previous: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Return int16 (N, ceil(H / 8), ceil(W / 8), 2), (dy, dx) of each 8x8 block."""
        return ops.block_match(input, previous, sigma)


class BlockWarp(nn.Module):
    """Motion compensation; see :func:`denoise_ext.ops.block_warp`."""

    def forward(self, input: Tensor, motion: Tensor) -> Tensor:
        """Return ``input`` (N, C, H, W) with each block moved by its vector."""
        return ops.block_warp(input, motion)


class RecurrentFuse(nn.Module):
    """Average of a frame and earlier ones; see :func:`denoise_ext.ops.recurrent_fuse`."""

    def forward(
        self, input: Tensor, previous: Tensor, gate: Tensor, level: float | Tensor
    ) -> Tensor:
        """Return (N, 2 C + 1, H, W): last output, fused frame, its noise level."""
        return ops.recurrent_fuse(input, previous, gate, level)
