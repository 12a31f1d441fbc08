"""Gaussian and bilateral filters and their gradients, on images of 4K."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import ops
from harness.cases import Target, channels_last, dtype_name, uniform
from on_gpu import plain
from on_gpu.cases import KernelCase, Shape, Tensors, Way, micros

Number = float | Tensor
Pair = tuple[float, float] | Tensor
UHD = (2160, 3840)
DRY = (19, 23)
native = torch.ops.denoise_ext


# --- the filters as PyTorch programs write them --------------------------------------------------


def gaussian_taps(size: int, sigma: float | Tensor, device: torch.device) -> Tensor:
    x = torch.arange(size, device=device, dtype=torch.float32) - size // 2
    taps = torch.exp(-0.5 * (x / sigma) ** 2)
    return taps / taps.sum()


def _as_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.uint8 else x


def _as_image(y: Tensor, like: Tensor) -> Tensor:
    return y.round().clamp(0, 255).to(torch.uint8) if like.dtype == torch.uint8 else y


def separable_gaussian(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Kornia's formula: a reflected border, then a depthwise row and a depthwise column."""
    channels, radius = x.shape[1], len(down) // 2
    y = F.pad(_as_float(x), [radius] * 4, mode="reflect")
    down, across = down.to(y.dtype), across.to(y.dtype)
    y = F.conv2d(y, across.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    y = F.conv2d(y, down.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return _as_image(y, x)


def dense_gaussian(x: Tensor, taps: Tensor) -> Tensor:
    """torchvision's formula: a reflected border, then one depthwise k x k convolution."""
    channels, radius = x.shape[1], len(taps) // 2
    y = F.pad(_as_float(x), [radius] * 4, mode="reflect")
    kernel = torch.outer(taps, taps).to(y.dtype).expand(channels, 1, -1, -1)
    return _as_image(F.conv2d(y, kernel, groups=channels), x)


def separable_adjoint(g: Tensor, taps: Tensor) -> Tensor:
    """What autograd runs for :func:`separable_gaussian`."""
    channels, radius = g.shape[1], len(taps) // 2
    column = taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    y = F.conv_transpose2d(g, column, groups=channels)
    y = F.conv_transpose2d(y, row, groups=channels)
    return torch.ops.aten.reflection_pad2d_backward(y, g, [radius] * 4)


def unfolded_bilateral(x: Tensor, size: int, sigma_color: Number, sigma_space: Pair) -> Tensor:
    """Kornia's formula: every pixel's window laid out in memory, a square window."""
    radius = size // 2
    windows = F.pad(x, [radius] * 4, mode="reflect").unfold(2, size, 1).unfold(3, size, 1)
    windows = windows.flatten(-2)  # (N, C, H, W, size^2)
    distance = (windows - x.unsqueeze(-1)).abs().sum(1, keepdim=True).square()
    down, across = (gaussian_taps(size, sigma, x.device) for sigma in sigma_space)
    space = torch.outer(down, across).flatten()
    weights = space * torch.exp(-0.5 / sigma_color**2 * distance)
    return (windows * weights).sum(-1) / weights.sum(-1)


# --- cases ---------------------------------------------------------------------------------------


def _image(shape: Shape, dtype: torch.dtype, layout: torch.memory_format, device, seed) -> Tensor:
    x = uniform(shape, device, seed)
    x = (255 * x).round() if dtype == torch.uint8 else x
    return x.to(dtype).contiguous(memory_format=layout)


def _bytes(shape: Shape, dtype: torch.dtype, tensors: int) -> int:
    n, c, h, w = shape
    return tensors * n * c * h * w * torch.empty((), dtype=dtype).element_size()


def gaussian(
    sigma: float,
    channels: int,
    dtype: torch.dtype,
    *,
    layout: torch.memory_format = torch.contiguous_format,
    compiled: bool = False,
    targets: tuple[Target, ...] = (),
) -> KernelCase:
    size = 2 * round(3 * sigma) + 1

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        x = _image(s, dtype, layout, device, seed)
        return {"x": x, "taps": gaussian_taps(size, sigma, device)}

    others = {
        "separable depthwise (Kornia's formula)": Way(
            lambda t: separable_gaussian(t["x"], t["taps"], t["taps"])
        )
    }
    if size < 40:  # beyond, its time says nothing new
        others["dense depthwise (torchvision's formula)"] = Way(
            lambda t: dense_gaussian(t["x"], t["taps"])
        )
    if compiled:
        others["torch.compile (separable)"] = Way(
            lambda t: separable_gaussian(t["x"], t["taps"], t["taps"]), compiled=True
        )
    if (channels, dtype, layout) == (3, torch.float32, torch.channels_last):
        others["plain CUDA (CV-CUDA's form)"] = Way(lambda t: plain.gaussian(t["x"], t["taps"]))
    order = "channels_last" if layout == torch.channels_last else "NCHW"
    radius = size // 2
    return KernelCase(
        f"Gaussian sigma {sigma:g}, {channels} x 4K, {dtype_name(dtype)}, {order}",
        "filter", "gaussian_blur2d", (1, channels, *UHD),
        (1, channels, max(DRY[0], radius + 2), max(DRY[1], radius + 3)), dtype, make,
        lambda t: ops.gaussian_blur2d(t["x"], size, sigma), others,
        lambda s: _bytes(s, dtype, 2),
        lambda s: 2 * 2 * size * s[0] * s[1] * s[2] * s[3],  # separated
        lambda t: (ops.gaussian_blur2d, (t["x"], size, sigma), {}),
        targets,
    )  # fmt: skip


def gaussian_gradient(sigma: float, channels: int) -> KernelCase:
    size = 2 * round(3 * sigma) + 1

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        return {
            "g": uniform(s, device, seed, -1.0, 1.0),
            "x": uniform(s, device, seed + 1),
            "sigma": torch.full((1, 2), float(sigma)),  # on the CPU, as the operator wants it
            "taps": gaussian_taps(size, sigma, device),
        }

    def ours(t: Tensors) -> Tensor:
        return native.gaussian_blur2d_backward(
            t["g"], t["x"], [size, size], t["sigma"], "reflect", [True, False]
        )[0]

    return KernelCase(
        f"Gaussian sigma {sigma:g} input gradient, {channels} x 4K, float32, NCHW",
        "gradient", "gaussian_blur2d_backward", (1, channels, *UHD), (1, channels, *DRY),
        torch.float32, make, ours,
        {
            "separable depthwise (Kornia's formula)": Way(
                lambda t: separable_adjoint(t["g"], t["taps"])
            )
        },
        lambda s: _bytes(s, torch.float32, 2),
        lambda s: 2 * 2 * size * s[0] * s[1] * s[2] * s[3],
        lambda t: (
            native.gaussian_blur2d_backward,
            (t["g"], t["x"], [size, size], t["sigma"], "reflect", [True, False]),
            {},
        ),
    )  # fmt: skip


def gaussian_sigma_gradient(sigma: float, channels: int) -> KernelCase:
    size = 2 * round(3 * sigma) + 1

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        x = uniform(s, device, seed)
        # A gradient that goes with the image: sums of unrelated ones are all rounding.
        return {"g": x - 0.5, "x": x, "sigma": torch.full((1, 2), float(sigma), device=device)}

    def arguments(t: Tensors) -> tuple:
        return (t["g"], t["x"], [size, size], t["sigma"], "reflect", [False, True])

    def kornia(t: Tensors) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            sigmas, x = t["sigma"].clone().requires_grad_(), t["x"].clone()
            taps = [gaussian_taps(size, one, x.device) for one in sigmas[0]]
            return torch.autograd.grad(separable_gaussian(x, *taps), sigmas, t["g"].clone())[0]

    return KernelCase(
        f"Gaussian sigma {sigma:g} sigma gradient, {channels} x 4K, float32, NCHW",
        "gradient", "gaussian_blur2d_backward", (1, channels, *UHD), (1, channels, *DRY),
        torch.float32, make,
        lambda t: native.gaussian_blur2d_backward(*arguments(t))[1],
        {"Kornia's formula by autograd, forward included": Way(kornia)},
        lambda s: _bytes(s, torch.float32, 2),
        lambda s: 2 * 4 * size * s[0] * s[1] * s[2] * s[3],  # each direction's taps, and slopes
        lambda t: (native.gaussian_blur2d_backward, arguments(t), {}),
    )  # fmt: skip


def _window_taps(size: int, window: str) -> int:
    radius = size // 2
    offsets = range(-radius, radius + 1)
    circle = sum(dy * dy + dx * dx <= radius * radius for dy in offsets for dx in offsets)
    return circle if window == "circle" else size * size


def _bilateral_operations(size: int, window: str, guide: int) -> Callable[[Shape], int]:
    """Per tap: 2 for each guidance channel's distance, 2 in the exponent, 1 for the sum of weights,
    2 for each channel's sum."""
    taps = _window_taps(size, window)
    return lambda s: s[0] * s[2] * s[3] * taps * (2 * guide + 3 + 2 * s[1])


def bilateral(
    size: int,
    channels: int,
    dtype: torch.dtype,
    window: str,
    *,
    rows_cols: tuple[int, int] = UHD,
    compiled: bool = False,
    targets: tuple[Target, ...] = (),
) -> KernelCase:
    scale = 255 if dtype == torch.uint8 else 1
    sigma_color, sigma_space = 0.1 * scale, size / 4
    arguments = (size, sigma_color, (sigma_space, sigma_space))
    layout = torch.channels_last if window == "circle" else torch.contiguous_format

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        return {"x": _image(s, dtype, layout, device, seed)}

    def kornia(t: Tensors) -> Tensor:
        return unfolded_bilateral(t["x"], size, sigma_color, (sigma_space, sigma_space))

    others = {}
    if window == "square":
        others["unfolded (Kornia's formula)"] = Way(kornia)
    if compiled:
        others["torch.compile (unfolded)"] = Way(kornia, compiled=True)
    if window == "circle" and channels == 3 and dtype == torch.float32:
        others["plain CUDA (OpenCV's form)"] = Way(
            lambda t: plain.bilateral(t["x"], size // 2, sigma_color, sigma_space)
        )
    return KernelCase(
        f"bilateral radius {size // 2}, {window}, {channels} x {rows_cols[1]}x{rows_cols[0]}, "
        f"{dtype_name(dtype)}",
        "filter", "bilateral_blur", (1, channels, *rows_cols), (1, channels, *DRY), dtype, make,
        lambda t: ops.bilateral_blur(t["x"], *arguments, window=window), others,
        lambda s: _bytes(s, dtype, 2), _bilateral_operations(size, window, channels),
        lambda t: (ops.bilateral_blur, (t["x"], *arguments), {"window": window}),
        targets,
    )  # fmt: skip


def joint_bilateral(
    size: int, channels: int, guides: int, rows_cols: tuple[int, int] = UHD
) -> KernelCase:
    arguments = (size, 0.1, (size / 4, size / 4))

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        guide = uniform((s[0], guides, *s[2:]), device, seed + 1)
        return {"x": channels_last(uniform(s, device, seed)), "guide": guide}

    return KernelCase(
        f"joint bilateral radius {size // 2}, circle, {channels} by {guides} x "
        f"{rows_cols[1]}x{rows_cols[0]}, float32",
        "filter", "joint_bilateral_blur", (1, channels, *rows_cols), (1, channels, *DRY),
        torch.float32, make,
        lambda t: ops.joint_bilateral_blur(t["x"], t["guide"], *arguments, window="circle"), {},
        lambda s: _bytes(s, torch.float32, 2) + guides * 4 * s[0] * s[2] * s[3],
        _bilateral_operations(size, "circle", guides),
        lambda t: (
            ops.joint_bilateral_blur, (t["x"], t["guide"], *arguments), {"window": "circle"}
        ),
    )  # fmt: skip


def bilateral_gradient(size: int, channels: int, rows_cols: tuple[int, int]) -> KernelCase:
    """Both gradients of the image (as input and as guidance), without the sigmas'."""
    sigma_color, sigma_space = 0.3, size / 4

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        x = uniform(s, device, seed)
        y = ops.bilateral_blur(x, size, sigma_color, (sigma_space, sigma_space))
        return {
            "g": uniform(s, device, seed + 1, -1.0, 1.0), "x": x, "y": y,
            "color": torch.full((1,), sigma_color), "space": torch.full((1, 2), float(sigma_space)),
        }  # fmt: skip

    def arguments(t: Tensors) -> tuple:
        options = ("reflect", "l1", "square", [True, True, False, False])
        images = (t["g"], t["x"], t["x"], t["y"])
        return (*images, [size, size], t["color"], t["space"], *options)

    def ours(t: Tensors) -> Tensor:
        parts = native.joint_bilateral_blur_backward(*arguments(t))
        return parts[0] + parts[1]

    def kornia(t: Tensors) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = t["x"].clone().requires_grad_()
            y = unfolded_bilateral(x, size, sigma_color, (sigma_space, sigma_space))
            return torch.autograd.grad(y, x, t["g"].clone())[0]

    return KernelCase(
        f"bilateral radius {size // 2} image gradient, {channels} x {rows_cols[1]}x{rows_cols[0]}, "
        "float32",
        "gradient", "joint_bilateral_blur_backward", (1, channels, *rows_cols),
        (1, channels, 9, 11),
        torch.float32, make, ours,
        {"Kornia's formula by autograd, forward included": Way(kornia)},
        lambda s: _bytes(s, torch.float32, 4),
        lambda s: 3 * _bilateral_operations(size, "square", channels)(s),
        lambda t: (native.joint_bilateral_blur_backward, arguments(t), {}),
    )  # fmt: skip


def bilateral_sigma_gradient(size: int, channels: int, rows_cols: tuple[int, int]) -> KernelCase:
    """Of the three sigmas, the color's and the two directions'."""

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        x = uniform(s, device, seed)
        color = torch.full((1,), 0.3, device=device)
        space = torch.full((1, 2), size / 4, device=device)
        y = ops.bilateral_blur(x, size, color, space)
        return {"g": x - 0.5, "x": x, "y": y, "color": color, "space": space}

    def arguments(t: Tensors) -> tuple:
        options = ("reflect", "l1", "square", [False, False, True, True])
        images = (t["g"], t["x"], t["x"], t["y"])
        return (*images, [size, size], t["color"], t["space"], *options)

    def ours(t: Tensors) -> Tensor:
        color, space = native.joint_bilateral_blur_backward(*arguments(t))[2:]
        return torch.cat([color, space[0]])

    def kornia(t: Tensors) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            color, space = (t[name].clone().requires_grad_() for name in ("color", "space"))
            y = unfolded_bilateral(t["x"].clone(), size, color, space[0])
            color, space = torch.autograd.grad(y, [color, space], t["g"].clone())
            return torch.cat([color, space[0]])

    return KernelCase(
        f"bilateral radius {size // 2} sigma gradients, {channels} x "
        f"{rows_cols[1]}x{rows_cols[0]}, float32",
        "gradient", "joint_bilateral_blur_backward", (1, channels, *rows_cols),
        (1, channels, 9, 11), torch.float32, make, ours,
        {"Kornia's formula by autograd, forward included": Way(kornia)},
        lambda s: _bytes(s, torch.float32, 3),
        lambda s: 2 * _bilateral_operations(size, "square", channels)(s),
        lambda t: (native.joint_bilateral_blur_backward, arguments(t), {}),
    )  # fmt: skip


def filter_cases() -> list[KernelCase]:
    """The most wanted first."""
    f32, f16, u8, last = torch.float32, torch.float16, torch.uint8, torch.channels_last
    return [
        gaussian(2, 3, f32, compiled=True, targets=(Target(0.85, copying=True),)),
        bilateral(11, 3, f32, "circle", targets=(micros(330),)),
        gaussian(2, 1, f32, targets=(Target(0.85, copying=True),)),
        gaussian(2, 3, u8),
        gaussian(2, 3, f32, layout=last),
        bilateral(11, 3, u8, "circle"),
        bilateral(11, 3, f32, "square", rows_cols=(512, 512), compiled=True),
        gaussian(20, 3, f32),
        gaussian(6, 3, f16),
        gaussian_gradient(2, 3),
        bilateral(11, 1, f16, "circle"),
        bilateral(15, 3, f32, "circle"),
        bilateral(31, 3, f32, "circle", rows_cols=(1080, 1920)),
        joint_bilateral(11, 3, 1),
        joint_bilateral(11, 1, 3),
        bilateral_gradient(11, 3, (512, 512)),
        joint_bilateral(5, 3, 5, (512, 512)),
        bilateral_gradient(5, 5, (256, 256)),
        gaussian_sigma_gradient(2, 3),
        bilateral_sigma_gradient(11, 3, (512, 512)),
    ]
