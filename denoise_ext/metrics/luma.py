"""The luma of colour images, on which upscalers are compared."""

from __future__ import annotations

import torch
from torch import Tensor

_WEIGHTS = (65.481, 128.553, 24.966)  # ITU-R BT.601 for 8 bits: black is 16, white is 235
_BLACK = 16.0


def luma(x: Tensor) -> Tensor:
    """Luma of ITU-R BT.601 with its range of 16 to 235, as MATLAB's ``rgb2ycbcr`` gives it.

    Args:
        x: (N, 3, H, W) RGB, or (N, 1, H, W) gray; floating point, black 0 and white 1.

    Returns:
        (N, 1, H, W), of x's dtype: black is 16 / 255, white 235 / 255. Gray images are returned as
        they are: published figures count them as luma.

    Raises:
        TypeError, ValueError: another tensor.

    Example:
        >>> white = torch.ones(1, 3, 2, 2)
        >>> round(255 * float(denoise_ext.metrics.luma(white).max()))
        235
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, got {got}")
    if x.dim() != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"x must have shape (N, 1 or 3, H, W), got {tuple(x.shape)}")
    if x.shape[1] == 1:
        return x
    weights = torch.tensor(_WEIGHTS, dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1)
    return ((x * weights).sum(1, keepdim=True) + _BLACK) / 255.0
