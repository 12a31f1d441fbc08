"""What a network does to one pixel: its filter, where it looks, and what its layers hold.

For a bias-free network f, Euler's identity divides a pixel of the result exactly:
``f_i = sum_j (df_i / dx_j) x_j + sum_j (df_i / ds_j) s_j``.  The first sum is a filter that the
network made for this pixel (Mohan et al., ICLR 2020).  The second one comes from the level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from denoise_ext.runtime.session import Session
from denoise_ext.tasks.image_ports import ImagePorts
from denoise_ext.tasks.part import window_of

MOST_MAPS = 16
"""Filters and maps of a layer that are kept."""


@dataclass(frozen=True)
class LocalFilter:
    """The filter of one pixel: brightness of the result by numbers of the image."""

    row: int
    column: int
    kernel: np.ndarray
    """(h, w): the mean over the result's channels, summed over the image's channels."""
    top: int
    left: int
    """Place of `kernel` in the image."""
    value: float
    """Brightness of the result, black 0 and white 1."""
    from_image: float
    from_level: float | None
    """The two parts of `value`; the second is None for networks without a noise level."""
    radius: float
    """Of the circle that has 90 % of the filter's absolute values, in pixels."""


def local_filter(
    session: Session, y: Tensor, sigma: float | None, at: tuple[int, int]
) -> LocalFilter:
    """The filter of the pixel `at` (row, column) of y (1, C, H, W), black 0 and white 1."""
    row, column = at
    height, width = y.shape[-2:]
    part = slice(row, row + 1), slice(column, column + 1)
    rows, columns = window_of(part, height, width, session)
    x = y[..., rows, columns].to(session.device, session.dtype).clone().requires_grad_(True)
    ports = ImagePorts(session.original, y.shape[1])
    level = None
    if "noise_map" in session.original.signature.inputs:
        level = torch.full_like(x[:, :1], float(sigma or 0.0)).requires_grad_(True)
    with torch.enable_grad():
        outputs, _ = session.original.run_checked(ports.inputs(x, level), {})
        value = ports.image(outputs)[0, :, row - rows.start, column - columns.start].mean()
        given = [x] if level is None else [x, level]
        gradients = torch.autograd.grad(value, given)
    kernel = gradients[0].sum(dim=1)[0].double().cpu().numpy()
    return LocalFilter(
        row, column, kernel, rows.start, columns.start, float(value.detach()),
        float((gradients[0] * x).sum().detach()),
        None if level is None else float((gradients[1] * level).sum().detach()),
        _radius(kernel, row - rows.start, column - columns.start),
    )  # fmt: skip


def _radius(kernel: np.ndarray, row: int, column: int, share: float = 0.9) -> float:
    """Of the circle around a pixel that has this share of the absolute values."""
    rows, columns = np.indices(kernel.shape)
    far = np.hypot(rows - row, columns - column).ravel()
    order = np.argsort(far)
    sums = np.cumsum(abs(kernel).ravel()[order])
    if sums[-1] == 0:
        return 0.0
    return float(far[order][np.searchsorted(sums, share * sums[-1])])


def around(filters: list[LocalFilter], reach: int) -> np.ndarray:
    """Mean of the filters' absolute values, each around its own pixel: (2 reach + 1) squared."""
    total = np.zeros((2 * reach + 1, 2 * reach + 1))
    for one in filters:
        padded = np.pad(abs(one.kernel), reach)
        top, left = one.row - one.top, one.column - one.left
        total += padded[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
    return total / max(len(filters), 1)


def first_filters(network: nn.Module) -> np.ndarray:
    """Weights of the first convolution, the means over its inputs: (at most 16, h, w)."""
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 4 and min(weight.shape[-2:]) > 1:
            return weight.detach()[:MOST_MAPS].mean(dim=1).double().cpu().numpy()
    return np.zeros((0, 1, 1))


def feature_maps(session: Session, y: Tensor, sigma: float | None) -> list[tuple[str, np.ndarray]]:
    """What the first and the coarsest convolution make of y: (name, (at most 16, h, w))."""
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 4:
                found[name] = output.detach()

        return hook

    layers = [
        (name, module) for name, module in session.original.named_modules()
        if isinstance(module, nn.Conv2d)
    ]  # fmt: skip
    handles = [module.register_forward_hook(keep(name)) for name, module in layers]
    try:
        ports = ImagePorts(session.original, y.shape[1])
        with torch.inference_mode():
            x = y.to(session.device, session.dtype)
            session.original.run_checked(ports.inputs(x, sigma), {})
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return []
    names = list(found)
    coarsest = min(names, key=lambda name: found[name].shape[-1])
    chosen = dict.fromkeys([names[0], coarsest])
    return [(name, found[name][0, :MOST_MAPS].double().cpu().numpy()) for name in chosen]
