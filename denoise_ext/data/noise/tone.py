"""From encoded pictures to light and back: sRGB, tone curves, the colours of a sensor.

Brooks, Mildenhall, Xue, Chen, Sharlet, Barron: "Unprocessing Images for Learned Raw Denoising",
CVPR 2019, has these steps in this order, and the tone curve. Images are (N, C, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB -> XYZ (D65), IEC 61966-2-1.
_RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
# XYZ -> sensor, of four cameras; the "ColorMatrix" of their raw files, as quoted by Brooks et al.
_XYZ_TO_SENSOR = (
    ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
    ((0.4913, -0.0541, -0.0202), (-0.6130, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
    ((0.8380, -0.2630, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438)),
    ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.0970, 0.1581, 0.5181)),
)
SENSORS = len(_XYZ_TO_SENSOR)


def srgb_to_linear(x: Tensor) -> Tensor:
    """IEC 61966-2-1, values in [0, 1]; the straight part continues below 0."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: Tensor) -> Tensor:
    """The inverse; the straight part continues below 0, the curve above 1."""
    curve = 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(x <= 0.0031308, x * 12.92, curve)


def tone_curve(x: Tensor) -> Tensor:
    """``3 x^2 - 2 x^3``: more contrast in the middle tones. Values are clipped to [0, 1]."""
    x = x.clamp(0, 1)
    return x.square() * (3.0 - 2.0 * x)


def inverse_tone_curve(y: Tensor) -> Tensor:
    """The x in [0, 1] with ``tone_curve(x) = y``; y is clipped to [0, 1]."""
    return 0.5 - torch.sin(torch.asin(1.0 - 2.0 * y.clamp(0, 1)) / 3.0)


def sensor_matrices(mix: Tensor) -> Tensor:
    """Linear sRGB -> a sensor's own red, green and blue, gray staying gray.

    Args:
        mix: (N, 4), shares of four cameras that sum to 1.

    Returns:
        (N, 3, 3), each row summing to 1.
    """
    sensors, xyz = (torch.tensor(m, dtype=mix.dtype) for m in (_XYZ_TO_SENSOR, _RGB_TO_XYZ))
    matrices = torch.einsum("nk,kij->nij", mix, sensors.to(mix.device)) @ xyz.to(mix.device)
    return matrices / matrices.sum(dim=2, keepdim=True)


def mix_channels(x: Tensor, matrices: Tensor) -> Tensor:
    """``matrices`` (N or 1, 3, 3) times every pixel of x (N, 3, H, W)."""
    return torch.einsum("nij,njhw->nihw", matrices.expand(len(x), 3, 3), x)
