"""Surface normals of depth maps, and the angle between them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_SIGMA, _RADIUS = 1.5, 4  # pixels of the Gaussian that depth is smoothed with
_SLOPE = 64.0  # pixels over which a depth of white rises at 45 degrees


def surface_normals(depth: Tensor) -> Tensor:
    """Unit normals of the surface that a depth map shows.

    Depth is smoothed by a Gaussian of 1.5 pixels. Its derivatives along x and y, times 64 pixels,
    are the slopes: a rise from black to white over 64 pixels counts as 45 degrees.

    Args:
        depth: (N, 1, H, W), floating point, white 1.

    Returns:
        (N, 3, H, W), x, y and z: (0, 0, 1) where depth is constant.

    Raises:
        TypeError, ValueError: no such tensor; the message names the argument.

    Example:
        >>> ramp = torch.arange(64.0).expand(1, 1, 64, 64) / 64
        >>> [round(float(v), 3) for v in denoise_ext.metrics.surface_normals(ramp)[0, :, 32, 32]]
        [-0.707, 0.0, 0.707]
    """
    if not isinstance(depth, Tensor) or not depth.is_floating_point():
        got = depth.dtype if isinstance(depth, Tensor) else type(depth).__name__
        raise TypeError(f"depth must be a floating-point tensor, got {got}")
    if depth.dim() != 4 or depth.shape[1] != 1:
        raise ValueError(f"depth must have shape (N, 1, H, W), got {tuple(depth.shape)}")
    place = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    smooth = (-0.5 * (place / _SIGMA) ** 2).exp()
    smooth = smooth / smooth.sum()
    slope = place * smooth
    slope = slope / (slope * place).sum()  # of a ramp exactly its slope
    padded = F.pad(depth, (_RADIUS,) * 4, mode="replicate")
    across, down = (
        _filtered(padded, a.to(depth), b.to(depth)) for a, b in ((smooth, slope), (slope, smooth))
    )
    normal = torch.cat([-_SLOPE * across, -_SLOPE * down, torch.ones_like(depth)], 1)
    return normal / normal.norm(dim=1, keepdim=True)


def _filtered(x: Tensor, column: Tensor, row: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(x, column[None, None, :, None]), row[None, None, None])


def angle(first: Tensor, second: Tensor) -> Tensor:
    """Mean angle in degrees between the vectors of two images (N, 3, H, W), of any length: (N,).

    Raises:
        ValueError: images of another shape, or of two shapes.

    Example:
        >>> x, y = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((1.0, 0.0, 0.0), (0.0, 2.0, 0.0)))
        >>> denoise_ext.metrics.angle(x, y)
        tensor([90.])
    """
    if first.dim() != 4 or first.shape[1] != 3 or first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape (N, 3, H, W), got {tuple(first.shape)} and"
            f" {tuple(second.shape)}"
        )
    cosine = F.cosine_similarity(first, second, dim=1).clamp(-1.0, 1.0)
    return (cosine.acos() * (180.0 / math.pi)).flatten(1).mean(1)
