"""The blur kernel of an image whose sharp version is not known: blind deconvolution.

The image is made smaller until the kernel has about 5 pixels on a side.  There, and at each larger
scale, two steps alternate.  One finds an image with few edges that explains the blurred one: the
number of gradients that are not 0 is its prior (L0).  The other finds the kernel between the
gradients of both.  Small texture misleads the second step, and the first one removes it.

Sources: Xu, Zheng, Jia, "Unnatural L0 sparse representation for natural image deblurring" (CVPR
2013); Pan, Hu, Su, Yang, "Deblurring text images via L0-regularized intensity and gradient prior"
(CVPR 2014); the coarse-to-fine scheme is that of Cho and Lee, "Fast motion deblurring" (2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.restore.fit import check_fit_size, nonnegative, pixels_of
from denoise_ext.restore.operators import fast_length
from denoise_ext.tasks.value_range import Range

LARGEST_PART = 1024
"""Most pixels on a side that are looked at: the middle of a larger image."""
_RATIO = 0.5**0.5  # of the sizes of neighbouring scales
_COARSEST = 5  # pixels on a side of the kernel at the coarsest scale
_ROUNDS = 5  # of both steps, at each scale
_EDGE_COST = 8e-3  # of a gradient that is not 0, for black 0 and white 1: the L0 prior's weight
_FALL = 1.1  # it falls by this factor in each round
_LEAST_COST = 1e-4
_TIGHTEST = 1e5  # weight with which the image's gradients are pulled to the sparse ones
_RIDGE = 0.01  # of the kernel's squares, relative to the energy of the gradients
_FAINT = 0.05  # of the kernel's maximum: smaller numbers are noise
_SPECK = 0.1  # of the kernel's sum: smaller connected parts are noise


def estimate_kernel(image: Any, size: int, *, value_range: Range | None = None) -> Tensor:
    """Estimate the blur kernel of an image from the image alone.

    The blur must be the same everywhere, and the image must have edges.  The result is an
    estimate: look at it.  A motion gives a thin line.  A heap of specks means that it failed:
    try another size.  The same image gives the same kernel.

    Args:
        image: one blurred image, of any kind that `deblur` takes.  Colours are averaged.  Of an
            image above 1024 pixels on a side the middle is used, which bounds memory and time.
        size: side of the kernel in pixels, odd, 1 to 63.  A little larger than the blur is best.
        value_range: the numbers that mean black and white, as in `Denoiser`.

    Returns:
        (size, size) float64, not negative, sum 1.  Its centre of mass is within a pixel of its
        middle, for a shifted kernel and a shifted image give the same blur.

    Raises:
        TypeError, ValueError: a batch, an image that is flat, not finite or smaller than the
            kernel, a wrong size; the message names the argument.

    Example:
        >>> kernel = denoise_ext.restore.estimate_kernel("photo.png", 5)
        >>> kernel.shape, round(float(kernel.sum()), 6)
        (torch.Size([5, 5]), 1.0)
    """
    check_fit_size(size)
    gray = pixels_of("image", image, value_range).mean(dim=0)
    if min(gray.shape) < size:
        raise ValueError(
            f"size of {size} pixels is larger than the image, {gray.shape[0]} x {gray.shape[1]}"
        )
    if float(gray.max()) == float(gray.min()):
        raise ValueError("image is flat: it fits every kernel")
    gray = _middle(gray).float()
    kernel, cost = torch.ones(1, 1, dtype=torch.float64), _EDGE_COST
    with torch.inference_mode():
        for scale in _scales(size):
            kernel = _resized(kernel, _odd(size * scale))
            kernel, cost = _refined(kernel, _scaled(gray, scale), cost)
    return kernel.clone()


def _scales(size: int) -> list[float]:
    """From the coarsest one to 1."""
    steps = max(0, math.floor(math.log(size / _COARSEST) / math.log(1 / _RATIO)))
    return [_RATIO**step for step in range(steps, -1, -1)]


def _refined(kernel: Tensor, blurred: Tensor, cost: float) -> tuple[Tensor, float]:
    """The kernel after all rounds at one scale, and the cost of an edge that follows."""
    height, width = blurred.shape
    side = kernel.shape[0]
    around = _continued(blurred, [fast_length(n + side + 1) for n in blurred.shape])
    # Both sides of the equations fade towards the edge, beyond which nothing is known.
    fading = _window(height - 1, width - 1, side)
    wanted = [gradient * fading for gradient in _gradients(blurred)]
    for _ in range(_ROUNDS):
        sharp = _with_few_edges(around, kernel, cost)[:height, :width]
        given = [gradient * fading for gradient in _gradients(sharp)]
        kernel = _cleaned(_between(given, wanted, side))
        cost = max(cost / _FALL, _LEAST_COST)
    return kernel, cost


def _with_few_edges(blurred: Tensor, kernel: Tensor, cost: float) -> Tensor:
    """The x with the least ``|kernel * x - blurred|^2 + cost (number of gradients not 0)``.

    Half-quadratic splitting, by its own weight ``tight``: a gradient is kept, or 0.  The image is
    periodic.
    """
    size = blurred.shape
    spectrum = _spectrum(kernel.to(blurred.dtype), size)
    power, data = spectrum.abs().square(), torch.fft.rfft2(blurred) * spectrum.conj()
    laplacian = _laplacian(size, blurred.dtype)
    x, tight = blurred, 2 * cost
    while tight < _TIGHTEST:
        right, down = x.roll(-1, 1) - x, x.roll(-1, 0) - x
        kept = right.square() + down.square() > cost / tight
        right, down = right * kept, down * kept
        pulled = right.roll(1, 1) - right + down.roll(1, 0) - down
        x = (data + tight * torch.fft.rfft2(pulled)) / (power + tight * laplacian)
        x = torch.fft.irfft2(x, s=size)
        tight *= 2
    return x


def _between(given: Sequence[Tensor], wanted: Sequence[Tensor], side: int) -> Tensor:
    """The kernel >= 0 with the least ``|wanted - kernel * given|^2`` and a ridge."""
    size = [fast_length(n + 2 * side) for n in given[0].shape]
    sources = [torch.fft.rfft2(x.double(), s=size) for x in given]
    targets = [torch.fft.rfft2(x.double(), s=size) for x in wanted]
    pairs = zip(sources, targets, strict=True)
    own = torch.fft.irfft2(torch.stack([a.abs().square() for a in sources]).sum(0), s=size)
    cross = torch.fft.irfft2(torch.stack([a.conj() * b for a, b in pairs]).sum(0), s=size)
    if not float(own[0, 0]) > 0:
        raise ValueError("image has no edge from which a blur could be estimated")
    place = torch.arange(side)
    lag = place[:, None] - place
    gram = own[lag[:, None, :, None], lag[None, :, None, :]].reshape(side**2, side**2)
    gram.diagonal().mul_(1 + _RIDGE)
    middle = place - side // 2
    return nonnegative(gram, cross[middle[:, None], middle].reshape(-1)).reshape(side, side)


def _cleaned(kernel: Tensor) -> Tensor:
    """Without noise, its centre of mass in the middle, sum 1."""
    kernel = torch.where(kernel < _FAINT * kernel.max(), 0.0, kernel)
    if not float(kernel.sum()) > 0:
        raise ValueError("image has no edge from which a blur could be estimated")
    kernel = _without_specks(kernel)
    side = kernel.shape[0]
    offset = torch.arange(side, dtype=kernel.dtype) - side // 2
    total = float(kernel.sum())
    top = side + round(float(kernel.sum(1) @ offset) / total)
    left = side + round(float(kernel.sum(0) @ offset) / total)
    kernel = F.pad(kernel, (side,) * 4)[top : top + side, left : left + side]
    return kernel / kernel.sum()


def _without_specks(kernel: Tensor) -> Tensor:
    """Without connected parts, diagonals included, of less than a tenth of the sum."""
    there = kernel > 0
    names = torch.arange(1, kernel.numel() + 1, dtype=kernel.dtype).reshape(kernel.shape) * there
    while True:  # the largest name spreads through each part
        spread = F.max_pool2d(names[None, None], 3, stride=1, padding=1)[0, 0] * there
        if torch.equal(spread, names):
            break
        names = spread
    part = names.long()
    sums = torch.bincount(part.flatten(), kernel.flatten())
    # The largest part stays where all are small.
    least = min(_SPECK * float(kernel.sum()), float(sums.max()))
    return torch.where(sums[part] >= least, kernel, 0.0)


def _middle(gray: Tensor) -> Tensor:
    top, left = (max(0, n - LARGEST_PART) // 2 for n in gray.shape)
    return gray[top : top + LARGEST_PART, left : left + LARGEST_PART]


def _scaled(gray: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return gray
    size = [max(round(n * scale), 2) for n in gray.shape]
    return F.interpolate(gray[None, None], size, mode="bilinear", antialias=True)[0, 0]


def _resized(kernel: Tensor, side: int) -> Tensor:
    """For the next scale."""
    if kernel.shape[0] == 1:  # the first one: no blur
        return F.pad(kernel, (side // 2,) * 4)
    larger = F.interpolate(kernel[None, None], (side, side), mode="bicubic")[0, 0].clamp_min(0)
    return larger / larger.sum()


def _odd(length: float) -> int:
    """The least odd number from `length` on."""
    return math.ceil(length) // 2 * 2 + 1


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """To the right and down, of all pixels that have both neighbours."""
    return x[:-1, 1:] - x[:-1, :-1], x[1:, :-1] - x[:-1, :-1]


def _continued(x: Tensor, size: Sequence[int]) -> Tensor:
    """x as a part of a larger image that is periodic and has no jump.

    Beyond the edge the image is mirrored.  What follows one edge passes into what precedes the
    other one.
    """
    for dim in (0, 1):
        own, more = x.shape[dim], size[dim] - x.shape[dim]
        step = torch.arange(more)
        share = 0.5 - 0.5 * torch.cos(math.pi * (step + 1) / (more + 1))
        share = share.to(x.dtype).reshape((-1, 1) if dim == 0 else (1, -1))
        after = x.index_select(dim, (own - 2 - step).clamp(0, own - 1))
        before = x.index_select(dim, (more - step).clamp(0, own - 1))
        x = torch.cat([x, (1 - share) * after + share * before], dim)
    return x


def _window(height: int, width: int, ramp: int) -> Tensor:
    """1 inside; towards the edge a quarter of a sine over `ramp` pixels."""

    def line(length: int) -> Tensor:
        place = torch.arange(length) + 0.5
        depth = torch.minimum(place, length - place) / ramp
        return torch.sin(depth.clamp(max=1) * math.pi / 2)

    return line(height)[:, None] * line(width)


def _spectrum(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """Of the kernel, its middle at the origin."""
    side = kernel.shape[0]
    placed = F.pad(kernel, (0, size[1] - side, 0, size[0] - side))
    return torch.fft.rfft2(placed.roll((-(side // 2), -(side // 2)), (0, 1)))


def _laplacian(size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Squared magnitude of both gradients' spectra."""
    down, right = (
        2 - 2 * torch.cos(2 * math.pi * torch.arange(n, dtype=dtype) / m)
        for n, m in ((size[0], size[0]), (size[1] // 2 + 1, size[1]))
    )
    return down[:, None] + right
