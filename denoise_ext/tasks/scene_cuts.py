"""Whether a frame shows another scene than the one before."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from denoise_ext.nn import BlockMatch, BlockWarp, to_torch

_REDUCTION = 4  # frames are compared at a quarter of their size: so is the noise in them
_BLOCK = 8  # pixels there
# Noise of sigma, averaged over 4x4 pixels, has a mean absolute value of 0.2 sigma.
_NOISE = 0.4


_OWN = BlockMatch(), BlockWarp()
_PLAIN = to_torch(_OWN[0]), to_torch(_OWN[1])


def reduced(frame: Tensor) -> Tensor:
    """A frame (1, C, H, W) as `changed_share` takes it: gray, at a quarter of its size."""
    if min(frame.shape[-2:]) < _REDUCTION:
        return frame.new_empty(1, 1, 0, 0)
    gray = frame if frame.shape[1] == 1 else frame.mean(1, keepdim=True)
    return F.avg_pool2d(gray.float(), _REDUCTION)


def changed_share(frame: Tensor, last: Tensor, sigma: float, native: bool = True) -> float:
    """The share of blocks of a frame that are nowhere near their place in the last one.

    A block counts as changed where its best match (within +-64 pixels) differs from it by more
    than its own spread about its mean, and by more than noise explains.

    Args:
        frame: `reduced`, of a noisy frame in [0, 1].
        last: `reduced`, of the last one, denoised.
        sigma: standard deviation of the noise in the frame at its full size, 0-255 scale.
        native: with this package's kernels, which are for the CPU; else in plain PyTorch.

    Returns:
        0 to 1; 0 for frames of less than 32 x 32 pixels, which have no block.
    """
    if min(frame.shape[-2:]) < _BLOCK:
        return 0.0
    match, warp = _OWN if native else _PLAIN
    difference = (frame - warp(last, match(frame, last, sigma / _REDUCTION))).abs()
    means = F.avg_pool2d(frame, _BLOCK)
    spread = _blocks(frame) - means.flatten(1)[:, :, None]  # (1, blocks, 64)
    own = spread.abs().mean(2)
    found = F.avg_pool2d(difference, _BLOCK).flatten(1)
    changed = (found > own) & (found > _NOISE * sigma / 255.0)
    return float(changed.float().mean())


def _blocks(plane: Tensor) -> Tensor:
    """(1, 1, H, W) as (1, blocks, 64), whole blocks alone."""
    return F.unfold(plane, _BLOCK, stride=_BLOCK).transpose(1, 2)
