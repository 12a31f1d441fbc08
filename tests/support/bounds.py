"""How far a correct kernel may be from the float64 reference.

Every bound is derived, none observed.  A sum of L products kept in an accumulator of unit roundoff
eps, in any order, is off by at most about ``L * eps * sum(|terms|)`` (Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1); ``sum(|terms|)`` is the same operator applied to
absolute values.  ``SLACK`` covers what is added to such a sum: bias, residual, the activation's
own rounding, exp to a few ulp.  The rounding to the output's dtype is added by the tests.
"""

from __future__ import annotations

import math

import torch
import winograd_bounds
from torch import Tensor
from torch.nn import functional as F

SLACK = 16
# tf32 keeps 10 bits of the fraction, rounded to nearest: each factor is off by at most 2^-11 of
# itself.
TF32_PRODUCT_ERROR = 2 * 2.0**-11 + 2.0**-22


def accumulator_eps(dtype: torch.dtype) -> float:
    """Roundoff of the accumulator for tensors of ``dtype``: float32, or float64 for float64."""
    return torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps


def output_rounding(expected: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest error of rounding ``expected`` to ``dtype``."""
    if dtype == torch.uint8:
        return torch.full_like(expected, 0.5)
    # Half an ulp would do; subnormal results are off by up to the smallest subnormal.
    info = torch.finfo(dtype)
    return info.eps * expected.abs() + info.smallest_normal * info.eps


# --- convolutions ---------------------------------------------------------------------------------


def _geometry(call) -> dict[str, object]:
    names = ("stride", "padding", "output_padding", "dilation", "groups")
    return {name: call.options[name] for name in names if name in call.options}


# The largest slope, and where an activation has a kink (0 where it is not named); second
# derivatives are at most 2.
STEEPEST = {"gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1, "hardswish": 1.5}
SMOOTH = ("none", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu")
KINKS = {"hardswish": (-3.0, 3.0), "hardsigmoid": (-3.0, 3.0), "relu6": (0.0, 6.0)}


def _slope(call, t: dict[str, Tensor]) -> float:
    """The activation's Lipschitz constant."""
    if "prelu_weight" in t:
        return max(1.0, float(t["prelu_weight"].abs().max()))
    if "activation" in call.options and call.options["activation"] in STEEPEST:
        return STEEPEST[call.options["activation"]]
    return max(1.0, float(call.options.get("negative_slope", 0.0)))


def _linear(function, call, t: dict[str, Tensor]) -> Tensor:
    """The convolution and its bias, and the residual where it is added before the activation."""
    y = function(t["input"], t["weight"], t.get("bias"), **_geometry(call))
    if "residual" in t and call.options.get("residual_position") != "after":
        y = y + t["residual"]
    return y


def _absolute(t: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.abs() for name, x in t.items()}


def _taps(t: dict[str, Tensor], transposed: bool, groups: int) -> int:
    """Products in one output value."""
    c0, c1, kh, kw = t["weight"].shape
    return (c0 // groups if transposed else c1) * kh * kw


def _preactivation_bound(function, call, t: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    transposed = function is F.conv_transpose2d
    terms = _taps(t, transposed, call.options.get("groups", 1)) + SLACK
    direct = terms * accumulator_eps(dtype) * _linear(function, call, _absolute(t))
    size = direct.shape[-2:] if transposed else None
    return direct + _winograd_bound(call, t["input"], t["weight"], size, dtype)


def _winograd_bound(
    call, x: Tensor, weight: Tensor, size: tuple[int, int] | None, dtype: torch.dtype
) -> Tensor:
    """What Winograd's algorithm may add where the call allows it; 0 elsewhere.

    ``size``: of the output of a transposed convolution; None: an ordinary one.
    """
    outputs = 6 if call.options.get("precision", "default") == "fast" else 4
    padding = call.options.get("padding", 0)
    padding = _pair({"same": 1, "valid": 0}.get(padding, padding))
    stride = _pair(call.options.get("stride", 1))
    ordinary = size is None
    if (
        dtype == torch.float64
        or call.options.get("precision") == "strict"
        or _pair(call.options.get("dilation", 1)) != (1, 1)
        or call.options.get("groups", 1) != 1
        or (ordinary and (tuple(weight.shape[2:]) != (3, 3) or stride != (1, 1)))
        or x.numel() == 0
    ):
        return torch.zeros((), dtype=torch.float64)
    image = x if x.dim() == 4 else x.unsqueeze(0)
    if ordinary:
        image = F.pad(image, (padding[1],) * 2 + (padding[0],) * 2)
        bound = winograd_bounds.bound(image, weight, outputs)
    else:
        bound = winograd_bounds.transposed_bound(image, weight, stride, padding, size, outputs)
    return bound if x.dim() == 4 else bound.squeeze(0)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _winograd_weight_bound(
    call, x: Tensor, weight: Tensor, grad: Tensor, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """The same for the weight's gradient, which takes it from 16 channels on."""
    fine, coarse = (grad, x) if transposed else (x, grad)
    groups = call.options.get("groups", 1)
    if (
        dtype == torch.float64
        or call.options.get("precision") == "strict"
        or tuple(weight.shape[2:]) != (3, 3)
        or any(_pair(call.options.get(name, 1)) != (1, 1) for name in ("stride", "dilation"))
        or min(fine.shape[-3], coarse.shape[-3]) // groups < 16
        or x.numel() == 0
    ):
        return torch.zeros((), dtype=torch.float64)
    padding = call.options.get("padding", 0)
    padding = _pair({"same": 1, "valid": 0}.get(padding, padding))
    if fine.dim() == 3:
        fine, coarse = fine.unsqueeze(0), coarse.unsqueeze(0)
    image = F.pad(fine, (padding[1],) * 2 + (padding[0],) * 2)
    pairs = zip(image.chunk(groups, 1), coarse.chunk(groups, 1), strict=True)
    return torch.cat([winograd_bounds.weight_gradient_bound(*pair) for pair in pairs])


def _conv_bound(function, call, t: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    eps = accumulator_eps(dtype)
    bound = _slope(call, t) * _preactivation_bound(function, call, t, dtype) + SLACK * eps
    if call.options.get("residual_position") == "after" and "residual" in t:
        bound = bound + SLACK * eps * t["residual"].abs()
    return bound


def _conv_smooth(function, call, t: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Where rounding cannot move the input of a kinked activation across zero."""
    y = _linear(function, call, t)
    activation = call.options.get("activation", "none")
    if activation in SMOOTH:
        return torch.ones_like(y, dtype=torch.bool)
    # The preactivation may have been stored in the tensors' dtype (prelu) where it can underflow.
    tiny = torch.finfo(dtype).smallest_normal
    bound = _preactivation_bound(function, call, t, dtype) + tiny
    distances = []
    for kink in KINKS.get(activation, (0.0,)):
        # A kept preactivation is rounded to the tensors' dtype, by up to this near the kink.
        distances.append((y - kink).abs() - 2 * abs(kink) * torch.finfo(dtype).eps)
    return torch.stack(distances).amin(0) > bound


def _conv_gradient_bounds(
    function, call, t: dict[str, Tensor], grad: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    # V(u) carries a nonnegative output gradient u back through absolute values: the sum of the
    # absolute terms of every gradient.
    leaves = {name: x.abs().requires_grad_() for name, x in t.items() if name != "prelu_weight"}
    magnitude = _linear(function, call, leaves)

    def carry(u: Tensor) -> dict[str, Tensor]:
        grads = torch.autograd.grad(
            magnitude, list(leaves.values()), u, retain_graph=True, allow_unused=True
        )
        return dict(zip(leaves, grads))

    eps, eps_out = accumulator_eps(dtype), torch.finfo(dtype).eps
    forward = _conv_bound(function, call, t, dtype)
    forward = forward + output_rounding(magnitude.detach() + 1, dtype)
    slope, absolute = _slope(call, t), grad.abs()
    pixels = grad.numel() // max(1, grad.shape[-3])
    transposed = function is F.conv_transpose2d
    c0, c1, kh, kw = t["weight"].shape
    groups = call.options.get("groups", 1)
    fan_out = (c1 if transposed else c0 // groups) * kh * kw
    length = {"input": fan_out, "weight": pixels, "bias": pixels, "residual": 1}
    sums = carry(absolute * slope)
    # sigmoid' = y(1 - y) and tanh' = 1 - y^2 change by at most 2 |dy| when the kept y is off by dy,
    # and so do the slopes of the others when the kept preactivation is;
    # and a backward may round the gradient of the preactivation to the tensors' dtype.
    kinked = ("none", "relu", "leaky_relu", "prelu", "hardsigmoid", "relu6")
    smooth = call.options.get("activation", "none") not in kinked
    indirect = carry(absolute * (2 * forward * smooth + eps_out * slope))
    bounds = {
        name: (length[name] + SLACK) * eps * sums[name] + indirect[name]
        for name in leaves
        if sums[name] is not None
    }
    bounds["input"] = bounds["input"] + _winograd_bound(
        call, absolute * slope, t["weight"], None if transposed else t["input"].shape[-2:], dtype
    )
    bounds["weight"] = bounds["weight"] + _winograd_weight_bound(
        call, t["input"], t["weight"], absolute * slope, transposed, dtype
    )
    if "residual" in t and "residual" not in bounds:
        bounds["residual"] = torch.zeros_like(t["residual"])  # added last: the gradient itself
    if "prelu_weight" in t:  # sum of grad * min(preactivation, 0)
        count = grad.numel() // t["prelu_weight"].numel()
        y = magnitude.detach()
        terms = (count + SLACK) * eps * absolute * y + absolute * forward + eps_out * absolute * y
        per_channel = terms.unsqueeze(0).transpose(0, -3).flatten(1).sum(1)
        shared = t["prelu_weight"].numel() == 1
        bounds["prelu_weight"] = per_channel.sum().reshape(1) if shared else per_channel
    return bounds


def conv2d(call, t, dtype):
    """Bound of the fused convolution."""
    return _conv_bound(F.conv2d, call, t, dtype)


def conv2d_smooth(call, t, dtype):
    """Pixels whose gradient is safe to compare."""
    return _conv_smooth(F.conv2d, call, t, dtype)


def conv2d_gradients(call, t, grad, dtype):
    """Bounds of its gradients."""
    return _conv_gradient_bounds(F.conv2d, call, t, grad, dtype)


def conv_transpose2d(call, t, dtype):
    """Bound of the fused transposed convolution."""
    return _conv_bound(F.conv_transpose2d, call, t, dtype)


def conv_transpose2d_smooth(call, t, dtype):
    """Pixels whose gradient is safe to compare."""
    return _conv_smooth(F.conv_transpose2d, call, t, dtype)


def conv_transpose2d_gradients(call, t, grad, dtype):
    """Bounds of its gradients."""
    return _conv_gradient_bounds(F.conv_transpose2d, call, t, grad, dtype)


# --- filters --------------------------------------------------------------------------------------
# A weight exp(-a) computed from a rounded exponent is off by a * exp(-a) * O(eps) <= 0.37 * O(eps)
# however large a is, so relative to the weight 1 of the central tap.  Averages of values within
# [-M, M] whose weights sum to W >= (central weight) are therefore off by at most
# (taps * O(eps) / central) * M.


def _kernel(call) -> tuple[int, int]:
    size = call.options["kernel_size"]
    return (size, size) if isinstance(size, int) else size


def _sigma(call, t: dict[str, Tensor], name: str) -> Tensor:
    """The smallest sigma anywhere: the worst case of every bound."""
    value = t[name] if name in t else torch.tensor(call.options[name], dtype=torch.float64)
    return float(value.min())


def _peak(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _central(sizes: tuple[int, ...], sigma: float) -> float:
    """1 / (weight of the central tap): how many taps the narrowest window effectively has."""
    total = 1.0
    for size in sizes:
        total *= sum(math.exp(-0.5 * (i / sigma) ** 2) for i in range(-(size // 2), size // 2 + 1))
    return total


def gaussian(call, t, dtype):
    """Bound of the Gaussian blur: weights known to O(eps), then two sums of ky and kx terms."""
    x = t["input"]
    return torch.full_like(x, (2 * sum(_kernel(call)) + SLACK) * accumulator_eps(dtype) * _peak(x))


def gaussian_gradients(call, t, grad, dtype):
    """Bounds of its gradients."""
    x, eps, (ky, kx) = t["input"], accumulator_eps(dtype), _kernel(call)
    # A border pixel collects up to ky * kx times (replicate, or an image of one pixel).
    bounds = {"input": torch.full_like(x, (4 * ky * kx + SLACK) * eps * ky * kx * _peak(grad))}
    if "sigma" in t:
        # |dw/dsigma| sums to <= 2 max(u^2 exp(-u^2 / 2)) / sigma per tap <= 1.5 taps / sigma.
        pixels = x.numel()
        size = pixels * _peak(grad) * _peak(x) * 1.5 * max(ky, kx) / _sigma(call, t, "sigma")
        bounds["sigma"] = torch.full_like(t["sigma"], (pixels + 4 * ky * kx + SLACK) * eps * size)
    return bounds


# Relative error of a weight besides that of its exponent: the polynomials for 2^f in
# csrc/cpu/kernels/simd.inl.  A factor 1 + d of each weight moves an average by at most 2 d M.
_POWER_OF_2 = {torch.uint8: 7.5e-5, torch.float64: 0.0}
_POWER_OF_2_FLOAT = 2.8e-6


def _bilateral_relative(call, t: dict[str, Tensor], dtype: torch.dtype) -> float:
    """Error of a bilateral average relative to the values averaged."""
    ky, kx = _kernel(call)
    channels = t.get("guidance", t["input"]).shape[-3]
    # The exponent takes C + a few operations, the two sums one term per tap.
    return (2 * ky * kx + (channels + SLACK)) * accumulator_eps(dtype)


def bilateral(call, t, dtype):
    """Bound of the (joint) bilateral filter."""
    x = t["input"]
    effective = _central(_kernel(call), 1e9)  # taps * O(eps) of the note above, for flat windows
    relative = _bilateral_relative(call, t, dtype)
    relative += 0.37 * effective * SLACK * accumulator_eps(dtype)
    relative += 2 * _POWER_OF_2.get(dtype, _POWER_OF_2_FLOAT)
    return torch.full_like(x, relative * _peak(x))


def bilateral_gradients(call, t, grad, dtype):
    """Bounds of its gradients."""
    x, (ky, kx) = t["input"], _kernel(call)
    taps, pixels, gmax, xmax = ky * kx, x.numel(), _peak(grad), _peak(x)
    relative = taps * _bilateral_relative(call, t, dtype)
    if dtype not in (torch.float32, torch.float64):
        relative += 2 * torch.finfo(dtype).eps  # the forward's output is kept in this dtype
    color, space = _sigma(call, t, "sigma_color"), _sigma(call, t, "sigma_space")
    # d out / d input: weights <= 1 collected from up to taps pixels (more at a replicated border).
    collected = taps * gmax
    # d weight / d guidance <= max(u exp(-u^2 / 2)) / sigma = 0.61 / sigma, times |x - out| <= 2 M,
    # as centre and as neighbour.
    guidance = 2 * 0.61 / color * 2 * xmax * x.shape[-3] * collected
    bounds = {"input": torch.full_like(x, relative * collected)}
    if "guidance" in t:
        bounds["guidance"] = torch.full_like(t["guidance"], relative * guidance)
    else:
        bounds["input"] = bounds["input"] + relative * guidance
    length = relative + pixels * accumulator_eps(dtype)
    if "sigma_color" in t:  # max(u^2 exp(-u^2 / 2)) = 0.74
        size = pixels * gmax * 2 * xmax * 0.74 * taps / color
        bounds["sigma_color"] = torch.full_like(t["sigma_color"], length * size)
    if "sigma_space" in t:
        size = pixels * gmax * 2 * xmax * 0.74 * taps / space
        bounds["sigma_space"] = torch.full_like(t["sigma_space"], length * size)
    return bounds
