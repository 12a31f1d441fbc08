"""Drawing random tensors for a batch, and checking what the noise functions are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None
Strength = float | Tensor


def working_dtype(x: Tensor) -> torch.dtype:
    """What noise for ``x`` is drawn in: float32, or float64 for float64 images."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor in [0, 1], got {got}")
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def checked_image(x: Tensor) -> Tensor:
    """``x`` in the dtype noise is drawn in, checked to be a batch (N, C, H, W)."""
    dtype = working_dtype(x)
    if x.dim() != 4:
        raise ValueError(f"x must have shape (N, C, H, W), got {tuple(x.shape)}")
    return x.to(dtype)


def per_image(
    name: str, value: Strength, x: Tensor, low: float = 0.0, high: float = math.inf
) -> Tensor:
    """A strength as (1 or N, 1, 1, 1) in x's dtype; ValueError unless finite and in [low, high]."""
    tensor = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if tensor.dim() > 1 or (tensor.dim() == 1 and len(tensor) != len(x)):
        raise ValueError(
            f"{name} must be a number or have shape (N,) with N = {len(x)}, "
            f"got shape {tuple(tensor.shape)}"
        )
    if not bool((torch.isfinite(tensor) & (tensor >= low) & (tensor <= high)).all()):
        limit = f">= {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        shown = tensor.tolist() if tensor.dim() else tensor.item()
        raise ValueError(f"{name} must be finite and {limit}, got {shown}")
    return tensor.reshape(-1, 1, 1, 1)


class ClipGenerators(list[torch.Generator]):
    """One generator for each frame of a clip.

    ``common`` draws what all frames share: the camera's settings, and not its noise.
    """

    def __init__(self, frames: Sequence[torch.Generator], common: torch.Generator) -> None:
        super().__init__(frames)
        self.common = common


def normal(
    x: Tensor, generator: Generators, shape: Sequence[int] | None = None, common: bool = False
) -> Tensor:
    """Standard normal numbers of ``shape`` (x's by default), batch first; see `uniform`."""
    return _drawn(torch.randn, x, generator, shape, common)


def uniform(
    x: Tensor, generator: Generators, shape: Sequence[int] | None = None, common: bool = False
) -> Tensor:
    """Numbers in [0, 1) of ``shape`` (x's by default), batch first.

    ``common``: the same for all frames of a clip, where the generators are `ClipGenerators`.
    """
    return _drawn(torch.rand, x, generator, shape, common)


class Draws:
    """Uniform numbers, one per image of a batch, from one generator or one per image."""

    def __init__(self, x: Tensor, generators: Generators) -> None:
        self.x, self.generators = x, generators

    def of(self, indices: Sequence[int]) -> Draws:
        """For these images of the batch; for the frames of a clip all or none."""
        generators = self.generators
        if generators is None or isinstance(generators, (torch.Generator, ClipGenerators)):
            return Draws(self.x[indices], generators)
        return Draws(self.x[indices], [generators[i] for i in indices])

    def between(self, low: float, high: float, count: int = 1) -> Tensor:
        """(N,), or (N, count) where ``count`` is above 1."""
        drawn = low + (high - low) * uniform(
            self.x, self.generators, (len(self.x), count), common=True
        )
        return drawn if count > 1 else drawn[:, 0]

    def logarithmic(self, low: float, high: float) -> Tensor:
        """(N,), the logarithm uniform; low > 0."""
        return self.between(math.log(low), math.log(high)).exp()

    def chance(self, probability: float) -> Tensor:
        """(N,), true with this probability."""
        return self.between(0.0, 1.0) < probability

    def some(self, probability: float, low: float, high: float) -> Tensor:
        """(N,): a number in the range with this probability, else 0."""
        return torch.where(self.chance(probability), self.between(low, high), 0.0)


def poisson(rate: Tensor, generator: Generators) -> Tensor:
    """Poisson counts of mean ``rate`` (N, ...)."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.poisson(rate, generator=generator)
    _check_count(generator, rate)
    return torch.stack([torch.poisson(r, generator=g) for r, g in zip(rate, generator)])


def _drawn(
    draw: Callable[..., Tensor],
    x: Tensor,
    generator: Generators,
    shape: Sequence[int] | None,
    common: bool,
) -> Tensor:
    shape = tuple(x.shape if shape is None else shape)
    options = {"dtype": x.dtype, "device": x.device}
    if generator is None or isinstance(generator, torch.Generator):
        return draw(shape, generator=generator, **options)
    _check_count(generator, x)
    if common and isinstance(generator, ClipGenerators):
        return draw((1, *shape[1:]), generator=generator.common, **options).expand(shape)
    return torch.stack([draw(shape[1:], generator=g, **options) for g in generator])


def _check_count(generators: Sequence[torch.Generator], x: Tensor) -> None:
    if len(generators) != len(x):
        raise ValueError(
            f"generator must be one generator or one per image ({len(x)}), got {len(generators)}"
        )
