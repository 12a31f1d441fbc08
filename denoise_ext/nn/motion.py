"""Motion between two frames as layers without parameters."""

from __future__ import annotations

from torch import Tensor, nn

from denoise_ext import ops


class BlockMatch(nn.Module):
    """Motion of blocks; see :func:`denoise_ext.ops.block_match`.

    Example:
        >>> frames = torch.rand(2, 1, 1, 64, 64)
        >>> denoise_ext.nn.BlockMatch()(frames[1], frames[0]).shape
        torch.Size([1, 8, 8, 2])
    """

    def forward(self, input: Tensor, previous: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Return int16 (N, ceil(H / 8), ceil(W / 8), 2), (dy, dx) of each 8x8 block."""
        return ops.block_match(input, previous, sigma)


class BlockWarp(nn.Module):
    """Motion compensation; see :func:`denoise_ext.ops.block_warp`.

    Example:
        >>> motion = torch.ones(1, 4, 4, 2, dtype=torch.int16)  # one row down, one column right
        >>> x = torch.rand(1, 3, 32, 32)
        >>> torch.equal(denoise_ext.nn.BlockWarp()(x, motion)[..., :-1, :-1], x[..., 1:, 1:])
        True
    """

    def forward(self, input: Tensor, motion: Tensor) -> Tensor:
        """Return ``input`` (N, C, H, W) with each block moved by its vector."""
        return ops.block_warp(input, motion)


class RecurrentFuse(nn.Module):
    """Average of a frame and earlier ones; see :func:`denoise_ext.ops.recurrent_fuse`.

    Example:
        >>> frame, gate = torch.rand(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.5)
        >>> state = torch.zeros(1, 3, 16, 16)  # nothing is known before the first frame
        >>> state = denoise_ext.nn.RecurrentFuse()(frame, state, gate, 0.1)
        >>> torch.equal(state[:, 1:2], frame)
        True
    """

    def forward(
        self, input: Tensor, previous: Tensor, gate: Tensor, level: float | Tensor
    ) -> Tensor:
        """Return (N, 2 C + 1, H, W): last output, fused frame, its noise level."""
        return ops.recurrent_fuse(input, previous, gate, level)
