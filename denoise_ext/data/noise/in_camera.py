"""What cameras and programs do to noise after the sensor: smoothing, sharpening, enlarging.

Every function takes the noise alone, (N, 3, H, W) with mean zero, and strengths (N,), one per
image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.data.noise.tone import mix_channels

# JFIF's luma and colour differences, as JPEG files have them.
_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
_REACH = 2.5  # of a Gaussian's taps, in standard deviations


def to_luma_chroma(noise: Tensor) -> Tensor:
    """RGB -> luma and two colour differences."""
    return mix_channels(noise, _matrix(noise)[None])


def from_luma_chroma(noise: Tensor) -> Tensor:
    """The inverse."""
    return mix_channels(noise, torch.linalg.inv(_matrix(noise))[None])


def blur(noise: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a standard deviation in pixels for every image, > 0; borders reflect."""
    rows, columns = (_blur_matrix(sigma.to(noise), size) for size in noise.shape[-2:])
    return rows @ noise @ columns.mT


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """(N, 1, size, size): times a column of an image, it is blurred.

    With a deviation of its own for every image this is some ten times as fast as convolution.
    """
    reach = (_REACH * sigma).ceil().clamp(max=size - 1)  # (N,)
    steps = torch.arange(-int(reach.max()), int(reach.max()) + 1, device=sigma.device)
    taps = torch.exp(-steps.square() / (2.0 * sigma[:, None].square()))
    taps = taps * (steps.abs() <= reach[:, None])
    taps = taps / taps.sum(dim=1, keepdim=True)  # (N, 2 * largest reach + 1)
    source = (torch.arange(size, device=sigma.device)[:, None] + steps).abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)  # (size, taps)
    matrix = sigma.new_zeros(len(sigma), size, size)
    n = len(sigma)
    matrix.scatter_add_(2, source.expand(n, -1, -1), taps[:, None].expand(n, size, -1))
    return matrix[:, None]


def smooth(
    noise: Tensor, luma: Tensor, chroma: Tensor, luma_share: Tensor, chroma_share: Tensor
) -> Tensor:
    """A camera's noise reduction: blurred noise mixed with what was there, colour apart from luma.

    Args:
        noise: (N, 3, H, W), RGB.
        luma, chroma: (N,), standard deviations of the blurs in pixels.
        luma_share, chroma_share: (N,), parts of the blurred in the mixture, 0 to 1.
    """
    parts = to_luma_chroma(noise)
    mixed = [
        part + _shaped(share) * (blur(part, sigma) - part)
        for part, sigma, share in (
            (parts[:, :1], luma, luma_share),
            (parts[:, 1:], chroma, chroma_share),
        )
    ]
    return from_luma_chroma(torch.cat(mixed, dim=1))


def fade_chroma(noise: Tensor, share: Tensor) -> Tensor:
    """Noise less this part (N,) of its colour differences; 1 leaves luma noise alone."""
    parts = to_luma_chroma(noise)
    return from_luma_chroma(torch.cat([parts[:, :1], parts[:, 1:] * (1.0 - _shaped(share))], dim=1))


def detail(image: Tensor) -> Tensor:
    """(N, 1, H, W) in [0, 1): near 1 where luma varies by far more than 0.03 within some pixels."""
    luma = to_luma_chroma(image)[:, :1]
    wide = torch.full((len(image),), 2.0, device=image.device)
    variance = blur((luma - blur(luma, wide)).square(), wide)
    return variance / (variance + 0.03**2)


def sharpen(
    noise: Tensor,
    amount: Tensor,
    radius: Tensor | None = None,
    luma_alone: Tensor | None = None,
) -> Tensor:
    """An unsharp mask: ``noise + amount * (noise - blurred noise)``.

    Args:
        noise: (N, 3, H, W), RGB.
        amount: (N,), >= 0.
        radius: (N,), standard deviations of the blur in pixels; None: 1.
        luma_alone: (N,), bool, where all channels get the luma of what is added; None: nowhere.
    """
    blurred = blur(noise, torch.ones(len(noise)) if radius is None else radius)
    added = _shaped(amount) * (noise - blurred)
    if luma_alone is not None:
        added = torch.where(_shaped(luma_alone), to_luma_chroma(added)[:, :1], added)
    return noise + added


def set_strength(noise: Tensor, luma: Tensor, chroma: Tensor) -> Tensor:
    """Noise whose luma and colour differences have these root mean squares, (N,); zero stays."""
    parts = to_luma_chroma(noise)
    scaled = [
        part * _shaped(wanted / rms(part).clamp(min=1e-6))
        for part, wanted in ((parts[:, :1], luma), (parts[:, 1:], chroma))
    ]
    return from_luma_chroma(torch.cat(scaled, dim=1))


def enlarge(noise: Tensor, factor: Tensor) -> Tensor:
    """The middle of every image, enlarged bilinearly by its factor >= 1 to the image's size."""
    height, width = noise.shape[-2:]
    enlarged = []
    for image, scale in zip(noise, factor.tolist(), strict=True):
        h, w = (max(1, math.ceil(side / scale)) for side in (height, width))
        y, x = (height - h) // 2, (width - w) // 2
        cut = image[None, :, y : y + h, x : x + w]
        enlarged.append(F.interpolate(cut, (height, width), mode="bilinear", align_corners=False))
    return torch.cat(enlarged)


def rms(x: Tensor) -> Tensor:
    """Root mean square of every image, (N,)."""
    return x.square().flatten(1).mean(dim=1).sqrt()


def _shaped(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def _matrix(like: Tensor) -> Tensor:
    return torch.tensor(_TO_YCC, dtype=like.dtype, device=like.device)
