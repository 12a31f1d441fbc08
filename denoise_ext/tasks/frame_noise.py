"""The level of a film's noise from two neighbouring frames.

What a frame's blocks differ in from their best match in the frame before is noise, of any colour
and correlation, where the content is the same. Where it is not, a block's own variance about its
mean is a second bound. The smaller of both is taken, and a low quantile over the blocks: fast
motion and texture fill few films entirely. `noise_level` measures single frames, by their highest
frequencies alone, which cameras smooth.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.nn import BlockMatch, BlockWarp, to_torch

_BLOCK = 16  # pixels
_FEWEST = 16  # blocks
# Of the blocks' variances. White noise of one level is estimated within 5 % then; the lower, the
# less a film in motion and without noise is taken for noise, and the more is missed of noise that
# grows with brightness.
_QUANTILE = 0.2

_OWN = BlockMatch(), BlockWarp()
_PLAIN = to_torch(_OWN[0]), to_torch(_OWN[1])


def sigma_of_frames(
    frame: Tensor, before: Tensor, sigma: float, native: bool = True
) -> float | None:
    """Standard deviation of the noise of two frames in a row, on the 0-255 scale.

    Noise that both have in common, as in a frame that is repeated, is not seen.

    Args:
        frame, before: (1, C, H, W), black 0 and white 1, with their noise.
        sigma: its level as far as it is known, for the block matching.
        native: with this package's kernels, which are for the CPU; else in plain PyTorch.

    Returns:
        The root mean square over the channels; None for frames of less than 16 blocks of 16 x 16.
    """
    if (frame.shape[-2] // _BLOCK) * (frame.shape[-1] // _BLOCK) < _FEWEST:
        return None
    match, warp = _OWN if native else _PLAIN
    frame, before = frame.float(), before.float()
    motion = match(frame.mean(1, keepdim=True), before.mean(1, keepdim=True), sigma)
    # Both have noise: their difference has twice its variance.
    changed = (frame - warp(before, motion)).square().mean(1, keepdim=True) / 2
    mean = F.avg_pool2d(frame, _BLOCK)
    own = F.avg_pool2d(frame.square(), _BLOCK) - mean.square()
    variance = torch.minimum(F.avg_pool2d(changed, _BLOCK), own.mean(1, keepdim=True))
    return 255.0 * math.sqrt(max(0.0, float(variance.flatten().quantile(_QUANTILE))))
