"""How far a correct normalisation may be from the float64 reference.

Every bound is derived (see ``bounds.py``): sums of n terms in an accumulator of roundoff e are off
by at most ``(n + a few) e`` times the sum of absolute terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from bounds import KINKS, SLACK, SMOOTH, STEEPEST, accumulator_eps
from torch import Tensor


@dataclass
class _Norm:
    """What a normalisation computes, of values (N, groups, values of a group)."""

    x: Tensor  # input
    mean: Tensor  # (N, groups, 1), as all below
    scale: Tensor  # 1 / sqrt(variance + eps)
    mean_error: Tensor
    scale_error: Tensor  # relative


def _groups(call, x: Tensor, values: Tensor) -> Tensor:
    """A tensor of the image's sizes as (N, groups, values of a group)."""
    values = values.expand(x.shape)
    images = values if x.dim() == 4 else values.unsqueeze(0)
    if "num_groups" in call.options:
        return images.unflatten(1, (call.options["num_groups"], -1)).flatten(2)
    return images.flatten(2).transpose(1, 2)


def _back(call, x: Tensor, values: Tensor) -> Tensor:
    if "num_groups" in call.options:
        return values.reshape(x.shape)
    return values.transpose(1, 2).reshape(x.shape)


def _norm(call, x: Tensor, dtype: torch.dtype) -> _Norm:
    values = _groups(call, x, x)
    n = values.shape[-1]
    grouped = "num_groups" in call.options
    e = torch.finfo(torch.float64).eps if grouped else accumulator_eps(dtype)
    eps = call.options.get("eps", 1e-5)
    mean = values.mean(-1, keepdim=True)
    absolute = values.abs().mean(-1, keepdim=True)
    distance = (values - mean).abs().mean(-1, keepdim=True)
    variance = (values - mean).square().mean(-1, keepdim=True)
    mean_error = (n + SLACK) * e * absolute
    if grouped:  # mean of squares less square of the mean, of float64 from the first pass's mean
        centred = dtype == torch.float64
        square = variance + mean_error.square() if centred else values.square().mean(-1, True)
        variance_error = (n + SLACK) * e * 2 * square
        if not centred:
            # CUDA kernels add 8 neighbours in float32, as differences d from their mean m. A sum
            # is off by 8 roundoffs of sum |d|, a sum of squares by 11 of sum d^2.  In the variance
            # the former counts 2 |m - mean| times, and |m - mean| sum |d| is at most half of the
            # neighbours' part.  A roundoff is half an eps.
            narrow = accumulator_eps(dtype)
            mean_error = mean_error + 4 * narrow * distance
            variance_error = variance_error + (11 + 8) / 2 * narrow * variance
    else:  # a mean that is off adds its square, and roundings of the differences
        variance_error = (n + SLACK) * e * (variance + absolute * distance) + mean_error.square()
    total = variance + eps
    # The slope of v^-1/2 at the least variance that may have been found.
    least = (total - variance_error).clamp(min=0.0) + 1e-300
    scale_error = (total / least).sqrt() - 1 + SLACK * accumulator_eps(dtype)
    return _Norm(values, mean, total.rsqrt(), mean_error, scale_error)


def _channels(call, t: dict[str, Tensor], name: str, default: float) -> Tensor:
    x = t["input"]
    values = t[name].view(-1, 1, 1) if name in t else torch.full((1, 1, 1), default).double()
    return _groups(call, x, values)


def _steepest(call) -> float:
    return STEEPEST.get(call.options.get("activation", "none"), 1.0)


def _preactivation(call, t: dict[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The normalised values before the activation, and how far they may be off, as groups."""
    norm, e = _norm(call, t["input"], dtype), accumulator_eps(dtype)
    weight, bias = _channels(call, t, "weight", 1.0), _channels(call, t, "bias", 0.0)
    difference = norm.x - norm.mean
    scaled = weight.abs() * norm.scale
    error = scaled * norm.mean_error * (1 + norm.scale_error)
    error = error + scaled * difference.abs() * norm.scale_error
    # Each of the products and sums rounds; group_norm rounds x * scale and the shift apart.
    error = error + 4 * e * (scaled * (norm.x.abs() + norm.mean.abs()) + bias.abs())
    return difference * norm.scale * weight + bias, error


def forward(call, t, dtype):
    """Bound of the result."""
    value, error = _preactivation(call, t, dtype)
    # An activation adds roundings of what it computes, at most x and 1.
    own = SLACK * accumulator_eps(dtype) * (1 + value.abs())
    return _back(call, t["input"], _steepest(call) * error + own)


def smooth(call, t, dtype):
    """Where rounding cannot move the input of a kinked activation across its kink."""
    value, error = _preactivation(call, t, dtype)
    activation = call.options.get("activation", "none")
    if activation in SMOOTH:
        return torch.ones(t["input"].shape, dtype=torch.bool)
    # PyTorch's backward rounds what is before the activation to the tensors' dtype.
    rounding = torch.finfo(dtype).eps * (1 + value.abs())
    distances = [(value - kink).abs() for kink in KINKS.get(activation, (0.0,))]
    return _back(call, t["input"], torch.stack(distances).amin(0) > 2 * error + 2 * rounding)


def gradients(call, t, grad, dtype):
    """Bounds of the gradients, which PyTorch's kernels compute in float32 (float64 for float64).

    With g the gradient before the activation times the weight and s the scale, the gradient of the
    input is ``s (g - mean(g) - (x - mean) s mean(g (x - mean) s))``.  PyTorch sums ``g x`` and
    takes ``mean`` times the sum of g from that.
    """
    norm, x = _norm(call, t["input"], dtype), t["input"]
    weight = _channels(call, t, "weight", 1.0).abs()
    value, error = _preactivation(call, t, dtype)
    e, n = accumulator_eps(dtype), norm.x.shape[-1]
    narrow = torch.finfo(dtype).eps if dtype not in (torch.float32, torch.float64) else 0.0
    # Relative: of the sums, of the scale, and in 16 bits of mean, scale and gradient as kept.
    relative = 8 * (n + SLACK) * e + 2 * norm.scale_error + 8 * narrow
    # Slopes of activations change by at most 2 for each 1 that the input is off.
    activated = call.options.get("activation", "none") != "none"
    kept = error + (narrow + e) * (1 + value.abs())
    steep = _steepest(call)
    absolute = _groups(call, x, grad.abs())
    off = absolute * (steep * relative + 2 * activated * kept)  # of the gradient of the value
    absolute = absolute * steep
    size = (norm.x.abs() + norm.mean.abs()) * norm.scale  # of the normalised value as computed

    def carried(g: Tensor) -> Tensor:
        g = g * weight
        mean, product = g.mean(-1, keepdim=True), (g * size).mean(-1, keepdim=True)
        return norm.scale * (g + mean + size * product)

    bounds = {"input": _back(call, x, relative * carried(absolute) + carried(off))}
    # mean(g size) has been rounded to the dtype's size where that is large beside the result.
    pixels = x.numel() // max(1, x.shape[-3])
    relative = 8 * (pixels + n + SLACK) * e + 2 * norm.scale_error + 8 * narrow
    for name, factor in (("weight", size), ("bias", torch.ones_like(size))):
        if name not in t:
            continue
        terms = _back(call, x, factor * (relative * absolute + off))
        bounds[name] = terms.unsqueeze(0).transpose(0, -3).flatten(1).sum(1)
    return bounds
