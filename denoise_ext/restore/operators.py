"""What happened to an image, as linear operators: blur, missing pixels, the mosaic of a sensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext._choices import check_choice
from denoise_ext.restore.kernels import Kernel, open_kernel
from denoise_ext.tasks.noise_level import sigma_of_batch

BORDERS = ("free", "circular")
PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
_MOST = 100  # iterations of conjugate gradients
# Length of the residual relative to that of the right side. With 1e-4 unknowns beyond free borders
# stay so far from their values that the image loses a decibel.
_TOLERANCE = 1e-5


class Operator(ABC):
    """A linear map A from images x (N, C, H, W) to measurements y = A x + noise.

    Subclasses implement `forward` and `adjoint`.  The other methods have defaults.  `prox` is
    exact up to a tolerance; implement it where there is a closed form, which is faster.
    Images are floating point with black 0 and white 1.

    Example:
        >>> class Half(denoise_ext.restore.Operator):  # means of two columns
        ...     def forward(self, x):
        ...         return (x[..., ::2] + x[..., 1::2]) / 2
        ...     def adjoint(self, y):
        ...         return y.repeat_interleave(2, -1) / 2
        >>> restorer = denoise_ext.restore.Restorer(Half(), sigma=5, steps=2)
        >>> restorer.restore(torch.rand(1, 1, 32, 16), 5.0).shape
        torch.Size([1, 1, 32, 32])
    """

    settling: int = 0
    """Steps at the first level of noise, before the level falls.  They fill what the measurements
    leave open."""
    step_bytes: float = 80
    """Working memory of `prox` in bytes for each pixel of one channel."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose of A: ``(forward(x) * y).sum() == (x * adjoint(y)).sum()``."""

    def prox(self, v: Tensor, y: Tensor, rho: float) -> Tensor:
        """The x with the least ``|A x - y|^2 + rho |x - v|^2``.

        Args:
            v: an image like x.
            y: the measurements.
            rho: weight of v, > 0.
        """
        return conjugate_gradients(
            lambda x: self.adjoint(self.forward(x)) + rho * x, self.adjoint(y) + rho * v, v
        )

    def measured(self, pixels: Tensor) -> Tensor:
        """The measurements y in the pixels (N, C, H, W) of an image file."""
        return pixels

    def start(self, y: Tensor) -> Tensor:
        """A first estimate of x."""
        return self.adjoint(y)

    def finish(self, x: Tensor, y: Tensor, sigma: float) -> Tensor:
        """The result, from the last x and measurements whose noise has this level."""
        return x

    def estimate_sigma(self, y: Tensor) -> float:
        """Noise level of the measurements of one image (1, C, H, W), on the 0-255 scale."""
        return float(sigma_of_batch(y))


class Blur(Operator):
    """Convolution with a kernel.

    Args:
        kernel: what `open_kernel` takes: array or tensor (h, w), a file, "gaussian:2.0".
        border: what lies beyond the edge of the measured image.  "free": unknown.  x is then larger
            than y by the kernel's reach at least, and y is the part of the convolution to which
            only pixels of x contribute.  Nothing is assumed beyond the edge, so no edge rings.
            "circular": the opposite edge, as in published tables.

    Sources: for unknown borders Almeida and Figueiredo, "Deconvolving images with unknown
    boundaries using the alternating direction method of multipliers" (IEEE TIP 2013).

    Example:
        >>> blur = denoise_ext.restore.Blur("motion:5,30", border="circular")
        >>> blur.forward(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(self, kernel: Kernel, border: str = "free") -> None:
        self.kernel: Tensor = open_kernel(kernel)
        self.border: str = check_choice("border", border, BORDERS)
        self.settling = 6 if border == "free" else 0
        self._spectra: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Blur x (N, C, H, W); with free borders the result has h - 1 rows, w - 1 columns less."""
        self._check_size(x)
        blurred = _filtered(x, self._spectrum(x))
        if self.border == "circular":
            return blurred
        left, right, top, bottom = self._padding()
        return blurred[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlate y with the kernel; with free borders the result is larger than y."""
        self._check_size(y)
        x = y if self.border == "circular" else F.pad(y, self._padding())
        return _filtered(x, self._spectrum(x).conj())

    def prox(self, v: Tensor, y: Tensor, rho: float) -> Tensor:
        """Closed form in the frequencies; with free borders conjugate gradients around it."""
        inverse = 1 / (self._spectrum(v).abs().square() + rho)
        x = torch.empty_like(v)
        for image, channel in product(range(v.shape[0]), range(v.shape[1])):
            plane = (slice(image, image + 1), slice(channel, channel + 1))
            x[plane] = self._prox_of_plane(v[plane], y[plane], rho, inverse)
        return x

    def _prox_of_plane(self, v: Tensor, y: Tensor, rho: float, inverse: Tensor) -> Tensor:
        """`prox` of one channel: they are independent, and one at a time takes less memory."""
        if self.border == "circular":
            return _filtered(self.adjoint(y) + rho * v, inverse)
        # All in the frequencies: an iteration takes two transforms.
        size, spectrum, start = v.shape[-2:], self._spectrum(v), torch.fft.rfft2(v)
        around = self._around(y, size)

        def back(measured: Tensor) -> Tensor:
            return torch.fft.rfft2(F.pad(measured, around)) * spectrum.conj()

        def apply(x: Tensor) -> Tensor:
            blurred = torch.fft.irfft2(x * spectrum, s=size)
            return back(self._measured_part(blurred, y)).add_(x, alpha=rho)

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return _dot_of_spectra(a, b, size[1])

        x = conjugate_gradients(
            apply, back(y) + rho * start, start, lambda residual: residual * inverse, dot
        )
        return torch.fft.irfft2(x, s=size)

    def start(self, y: Tensor) -> Tensor:
        """The blurred image itself, its edge repeated to a size with fast Fourier transforms."""
        self._check_size(y)
        if self.border == "circular":
            return y
        reach = [n + 2 * (k // 2) for n, k in zip(y.shape[-2:], self.kernel.shape, strict=True)]
        return F.pad(y, self._around(y, [fast_length(n) for n in reach]), mode="replicate")

    def finish(self, x: Tensor, y: Tensor, sigma: float) -> Tensor:
        """The part of x where y was measured."""
        return x if self.border == "circular" else self._measured_part(x, y)

    def _measured_part(self, x: Tensor, y: Tensor) -> Tensor:
        left, _, top, _ = self._padding()
        return x[..., top : top + y.shape[-2], left : left + y.shape[-1]]

    def _around(self, y: Tensor, size: Sequence[int]) -> tuple[int, int, int, int]:
        """Left, right, top, bottom: from y to an image of this size."""
        left, _, top, _ = self._padding()
        return left, size[1] - y.shape[-1] - left, top, size[0] - y.shape[-2] - top

    def _padding(self) -> tuple[int, int, int, int]:
        """Left, right, top, bottom."""
        down, right = self.kernel.shape[0] // 2, self.kernel.shape[1] // 2
        return right, right, down, down

    def _check_size(self, x: Tensor) -> None:
        if any(n < k for n, k in zip(x.shape[-2:], self.kernel.shape, strict=True)):
            raise ValueError(
                f"kernel of {self.kernel.shape[0]} x {self.kernel.shape[1]} pixels is larger than"
                f" the image, {x.shape[-2]} x {x.shape[-1]}"
            )

    def _spectrum(self, x: Tensor) -> Tensor:
        """Of the kernel, its middle at the origin, for images like x: (H, W // 2 + 1)."""
        key = (*x.shape[-2:], x.dtype, x.device)
        spectrum = self._spectra.get(key)  # one lookup: other threads may change the dictionary
        if spectrum is None:
            placed = torch.zeros(x.shape[-2:], dtype=torch.float64)
            placed[: self.kernel.shape[0], : self.kernel.shape[1]] = self.kernel
            placed = placed.roll([-(n // 2) for n in self.kernel.shape], (0, 1))
            spectrum = torch.fft.rfft2(placed).to(x.device, x.dtype.to_complex())
            self._spectra = {key: spectrum}  # the last size alone
        return spectrum


class Mask(Operator):
    """Pixels that are missing.

    Args:
        mask: (H, W), True or 1 where a pixel is known, False or 0 where it is missing.

    Example:
        >>> known = np.ones((32, 32), bool)
        >>> known[10:12] = False  # two rows are missing
        >>> mask = denoise_ext.restore.Mask(known)
        >>> restorer = denoise_ext.restore.Restorer(mask, sigma=5, steps=2)
        >>> restorer(torch.rand(1, 1, 32, 32)).shape
        torch.Size([1, 1, 32, 32])
    """

    def __init__(self, mask: np.ndarray | Tensor) -> None:
        if isinstance(mask, np.ndarray):
            mask = torch.from_numpy(np.ascontiguousarray(mask))
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask must be an array or a tensor, got {type(mask).__name__}")
        if mask.dim() != 2 or mask.numel() == 0:
            raise ValueError(f"mask must be (H, W), got shape {tuple(mask.shape)}")
        if mask.dtype != torch.bool:
            if not bool(((mask == 0) | (mask == 1)).all()):
                raise ValueError("mask must hold 0 (missing) and 1 (known) alone")
            mask = mask == 1
        if not bool(mask.any()):
            raise ValueError("mask has no known pixel")
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        """x with zeros where pixels are missing."""
        return torch.where(self._like(x), x, torch.zeros((), dtype=x.dtype, device=x.device))

    def adjoint(self, y: Tensor) -> Tensor:
        """The same: A is a projection."""
        return self.forward(y)

    def measured(self, pixels: Tensor) -> Tensor:
        """The same: what is missing counts as 0."""
        return self.forward(pixels)

    def prox(self, v: Tensor, y: Tensor, rho: float) -> Tensor:
        """A weighted mean where pixels are known, v elsewhere."""
        return torch.where(self._like(v), (y + rho * v) / (1 + rho), v)

    def start(self, y: Tensor) -> Tensor:
        """Holes filled from coarse to fine with the means of known pixels around them."""
        return filled(y, self._like(y).to(y.dtype))

    def finish(self, x: Tensor, y: Tensor, sigma: float) -> Tensor:
        """x; without noise, known pixels are kept."""
        return torch.where(self._like(x), y, x) if sigma == 0 else x

    def _like(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.mask.shape:
            raise ValueError(
                f"mask must have the image's size {tuple(x.shape[-2:])}, got"
                f" {tuple(self.mask.shape)}"
            )
        return self.mask.to(x.device)[None, None]


class Mosaic(Operator):
    """A Bayer pattern: each pixel of a sensor measures one of red, green and blue.

    Args:
        pattern: the colours of the upper left 2 x 2 pixels, row by row.

    Example:
        >>> mosaic = denoise_ext.restore.Mosaic("RGGB")
        >>> x = torch.rand(1, 3, 8, 8)
        >>> y = mosaic.forward(x)
        >>> bool(y[0, 0, 0, 0] == x[0, 0, 0, 0]), y.shape
        (True, torch.Size([1, 1, 8, 8]))
    """

    def __init__(self, pattern: str = "RGGB") -> None:
        self.pattern: str = check_choice("pattern", pattern, PATTERNS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 1, H, W)."""
        if x.shape[1] != 3:
            raise ValueError(f"a mosaic has 3 colours, got {x.shape[1]} channels")
        return (x * self._sites(x)).sum(dim=1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 3, H, W), zeros where a colour was not measured."""
        return y * self._sites(y)

    def prox(self, v: Tensor, y: Tensor, rho: float) -> Tensor:
        """A weighted mean of the colour that was measured, v of the others."""
        sites = self._sites(v)
        return (y * sites + rho * v) / (sites + rho)

    def measured(self, pixels: Tensor) -> Tensor:
        """The first channel: a raw file has one."""
        return pixels[:, :1]

    def start(self, y: Tensor) -> Tensor:
        """Bilinear interpolation."""
        sites = self._sites(y)
        near = y.new_tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
        cross = y.new_tensor([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]])
        weights = torch.stack([near, cross, near])[:, None]

        def spread(x: Tensor) -> Tensor:
            return F.conv2d(F.pad(x, (1,) * 4), weights, groups=3)

        return spread(y * sites) / spread(sites.expand(1, 3, *y.shape[-2:]))

    def finish(self, x: Tensor, y: Tensor, sigma: float) -> Tensor:
        """x; without noise, what was measured is kept."""
        return torch.where(self._sites(x) > 0, y, x) if sigma == 0 else x

    def estimate_sigma(self, y: Tensor) -> float:
        """The mean variance of the four sites' images."""
        sites = [y[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return float(torch.stack([sigma_of_batch(x).square() for x in sites]).mean().sqrt())

    def _sites(self, x: Tensor) -> Tensor:
        """Where each colour is measured: (1, 3, H, W) of zeros and ones."""
        height, width = x.shape[-2:]
        if height < 2 or width < 2:
            raise ValueError(f"a mosaic must have 2 x 2 pixels at least, got {height} x {width}")
        sites = x.new_zeros(1, 3, height, width)
        for place, colour in enumerate(self.pattern):
            sites[:, "RGB".index(colour), place // 2 :: 2, place % 2 :: 2] = 1
        return sites


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    x: Tensor,
    precondition: Callable[[Tensor], Tensor] = lambda residual: residual,
    dot: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Solve ``apply(x) == right`` for each of N images, from `x`; `apply` is symmetric, positive.

    Ends when the residual is 1e-5 of `right`, or after 100 iterations (Hestenes and Stiefel 1952).
    `dot` is the inner product (N, 1, 1, 1); None: the sum of products.
    """
    dot = dot or _dot
    tiny = torch.finfo(x.dtype).tiny
    residual = right - apply(x)
    enough = _TOLERANCE**2 * dot(right, right)
    z = precondition(residual)
    direction, power = z, dot(residual, z)
    for _ in range(_MOST):
        if bool((dot(residual, residual) <= enough).all()):
            break
        image = apply(direction)
        step = power / dot(direction, image).clamp_min(tiny)  # 0 / tiny in a solved image
        x = torch.addcmul(x, step, direction)
        residual = torch.addcmul(residual, step, image, value=-1)
        z = precondition(residual)
        before, power = power, dot(residual, z)
        direction = torch.addcmul(z, power / before.clamp_min(tiny), direction)
    return x


def filled(y: Tensor, known: Tensor) -> Tensor:
    """y (N, C, H, W) with values from coarser and coarser means where `known` (1, 1, H, W) is 0.

    After the pull-push of Gortler, Grzeszczuk, Szeliski and Cohen, "The lumigraph" (1996).
    """
    if bool(known.all()) or min(y.shape[-2:]) == 1:
        mean = (y * known).sum((2, 3), keepdim=True) / known.sum().clamp_min(1)
        return torch.where(known > 0, y, mean)
    size = y.shape[-2:]
    odd = (0, size[1] % 2, 0, size[0] % 2)
    share = F.avg_pool2d(F.pad(known, odd), 2)
    coarse = F.avg_pool2d(F.pad(y * known, odd), 2) / share.clamp_min(0.25)
    coarse = filled(coarse, (share > 0).to(y.dtype))
    fine = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(known > 0, y, fine[..., : size[0], : size[1]])


def _filtered(x: Tensor, spectrum: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x) * spectrum, s=x.shape[-2:])


def fast_length(length: int) -> int:
    """The least even number from `length` on without a prime factor above 11."""
    length += length % 2
    while True:
        rest = length
        for prime in (2, 3, 5, 7, 11):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def _dot_of_spectra(a: Tensor, b: Tensor, width: int) -> Tensor:
    """H width times the inner product of two images (1, 1, H, width) from their rfft2.

    rfft2 leaves out the columns that are conjugates of others: they count twice.
    """

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.vdot(a.reshape(-1), b.reshape(-1)).real

    single = product(a[..., 0], b[..., 0])
    if width % 2 == 0:
        single = single + product(a[..., -1], b[..., -1])
    return (2 * product(a, b) - single).reshape(1, 1, 1, 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2, 3), keepdim=True)
