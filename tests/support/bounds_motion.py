"""Bounds of motion compensation and recurrent fusion; see bounds.py."""

from __future__ import annotations

import torch
from bounds import accumulator_eps
from torch import Tensor

from denoise_ext import reference

_SLACK = 8  # roundings of a term: a handful of sums and products


def exact(call, t: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Values are copied, or whole numbers."""
    return torch.zeros((), dtype=torch.float64)


def no_gradients(call, t: dict[str, Tensor], grad: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of what has none."""
    return {}


def block_warp_gradients(
    call, t: dict[str, Tensor], grad: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """A pixel's gradient is a sum of as many terms as pixels were read from it."""
    image = torch.zeros_like(t["input"]).requires_grad_()
    moved = reference.block_warp(image, t["motion"])
    (size,) = torch.autograd.grad(moved, image, grad.abs(), retain_graph=True)
    (count,) = torch.autograd.grad(moved, image, torch.ones_like(grad))
    return {"input": (count + 1) * accumulator_eps(dtype) * size}


def _shuffled(gate: Tensor, r: int) -> Tensor:
    """(N, r r, H, W) as (N, 1, r H, r W); torch's pixel_shuffle keeps an empty batch's shape."""
    n, _, rows, columns = gate.shape
    pixels = gate.reshape(n, r, r, rows, columns).permute(0, 3, 1, 4, 2)
    return pixels.reshape(n, 1, rows * r, columns * r)


def _unshuffled(pixels: Tensor, r: int) -> Tensor:
    """(N, 1, r H, r W) as (N, r r, H, W)."""
    n, _, height, width = pixels.shape
    parts = pixels.reshape(n, height // r, r, width // r, r).permute(0, 2, 4, 1, 3)
    return parts.reshape(n, r * r, height // r, width // r)


class _Fuse:
    """The parts of a fusion, and how large its terms are."""

    def __init__(self, call, t: dict[str, Tensor]) -> None:
        self.x, previous = t["input"], t["previous"]
        self.channels = self.x.shape[1]
        _, self.fused, self.before = previous.split((self.channels, self.channels, 1), dim=1)
        factor = self.x.shape[-1] // t["gate"].shape[-1]
        self.factor, self.w = factor, _shuffled(t["gate"], factor)
        level = t["level"] if "level" in t else torch.tensor(call.options["level"]).double()
        self.now = level.expand(self.w.shape)
        self.level = torch.hypot((1 - self.w) * self.now, self.w * self.before)
        # what 1 - w may lose
        self.rest = 1 + self.w.abs()


def recurrent_fuse(call, t: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Bound of the fused frame and its level; the last output is copied."""
    f, eps = _Fuse(call, t), _SLACK * accumulator_eps(dtype)
    mixed = f.x.abs() + f.w.abs() * (f.fused.abs() + f.x.abs())
    level = f.rest * f.now.abs() + f.w.abs() * f.before.abs()
    return eps * torch.cat([torch.zeros_like(f.x), mixed, level], dim=1)


def recurrent_fuse_gradients(
    call, t: dict[str, Tensor], grad: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Bounds of its gradients."""
    f, eps = _Fuse(call, t), _SLACK * accumulator_eps(dtype)
    last, fused, level = grad.abs().split((f.channels, f.channels, 1), dim=1)
    now, before, w = f.now.abs(), f.before.abs(), f.w.abs()
    slope = level / f.level.clamp(min=torch.finfo(torch.float64).tiny)
    # relative error of the level, by which the slope divides
    lost = 1 + (f.rest * now + w * before) / f.level.clamp(min=torch.finfo(torch.float64).tiny)
    weight = (f.channels + 1) * (fused * (f.fused.abs() + f.x.abs())).sum(1, keepdim=True)
    weight = weight + slope * lost * (w * before.square() + f.rest * now.square())
    now_bound = eps * slope * lost * f.rest.square() * now
    bounds = {
        "input": eps * (f.rest * fused + last),
        "previous": eps * torch.cat([last * 0, w * fused, slope * lost * w.square() * before], 1),
        "gate": eps * _unshuffled(weight, f.factor),
    }
    if "level" in t:
        if t["level"].shape != now_bound.shape:
            # torch sums what was rounded to the tensors' dtype
            exact = slope * f.rest.square() * now
            count = now_bound[0].numel()
            lost_in_sum = torch.finfo(dtype).eps + count * accumulator_eps(dtype)
            now_bound = (now_bound + lost_in_sum * exact).sum_to_size(t["level"].shape)
        bounds["level"] = now_bound
    return bounds
