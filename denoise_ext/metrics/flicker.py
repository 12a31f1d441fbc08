"""How much the error of a denoised video changes from frame to frame where nothing moves."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

_STILL = 3.0 / 255.0  # largest change of a pixel's surroundings that counts as none
_FEWEST = 2000  # pixels, below which a figure would be chance


def flicker(output: Tensor, truth: Tensor) -> float:
    """Root mean square of the change of the error between neighbouring frames, in 0-255 levels.

    Only pixels count where the truth does not move: its change, averaged over 5x5 pixels, is below
    3 levels within 9x9 pixels.

    Args:
        output, truth: (T, C, H, W), 1.0 is white.

    Returns:
        The figure; NaN where fewer than 2000 pixels stand still.

    Raises:
        ValueError: other dimensions, or tensors of different shapes.

    Example:
        >>> truth = torch.full((4, 1, 64, 64), 0.5)  # (T, C, H, W)
        >>> denoise_ext.metrics.flicker(truth + 0.1, truth)  # a constant error does not flicker
        0.0
    """
    if output.dim() != 4 or output.shape != truth.shape:
        raise ValueError(
            f"output and truth must be of one shape (T, C, H, W), got {tuple(output.shape)} and "
            f"{tuple(truth.shape)}"
        )
    change = (truth[1:] - truth[:-1]).abs().mean(1, keepdim=True)
    near = F.max_pool2d(F.avg_pool2d(change, 5, 1, 2, count_include_pad=False), 9, 1, 4)
    still = near < _STILL
    if int(still.sum()) < _FEWEST:
        return math.nan
    error = output - truth
    moved = (error[1:] - error[:-1]).square().mean(1, keepdim=True)
    return 255.0 * math.sqrt(float(moved[still].double().mean()))
