"""DRUNet and NAFNet as published, as functions of a dictionary of tensors with the published keys.

Written after cszn/KAIR, models/network_unet.py (UNetRes) and megvii-research/NAFNet,
basicsr/models/archs/NAFNet_arch.py; the images are not padded here.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def _fill(shapes: dict[str, tuple[int, ...]]) -> State:
    """Random tensors; weights of a size that keeps values of a size."""
    generator = torch.Generator().manual_seed(4)
    state = {}
    for key, shape in shapes.items():
        terms = max(1, torch.Size(shape[1:]).numel())
        state[key] = torch.randn(shape, generator=generator) / terms**0.5
    return state


def _conv(state: State, key: str, x: Tensor, **options: int) -> Tensor:
    return F.conv2d(x, state[f"{key}.weight"], state.get(f"{key}.bias"), **options)


# ---- DRUNet


def drunet_state(
    inputs: int, outputs: int, widths: list[int], blocks: int, bias: bool = False
) -> State:
    shapes: dict[str, tuple[int, ...]] = {}

    def add(key: str, *shape: int, transposed: bool = False) -> None:
        shapes[f"{key}.weight"] = shape
        if bias:
            shapes[f"{key}.bias"] = (shape[1] if transposed else shape[0],)

    def residual(key: str, width: int) -> None:
        add(f"{key}.res.0", width, width, 3, 3)
        add(f"{key}.res.2", width, width, 3, 3)

    add("m_head", widths[0], inputs, 3, 3)
    for level, (here, below) in enumerate(pairwise(widths), 1):
        for block in range(blocks):
            residual(f"m_down{level}.{block}", here)
            residual(f"m_up{level}.{block + 1}", here)
        add(f"m_down{level}.{blocks}", below, here, 2, 2)
        add(f"m_up{level}.0", below, here, 2, 2, transposed=True)
    for block in range(blocks):
        residual(f"m_body.{block}", widths[-1])
    add("m_tail", outputs, widths[0], 3, 3)
    return _fill(shapes)


def drunet(state: State, x: Tensor, levels: int, blocks: int) -> Tensor:
    def residual(key: str, x: Tensor) -> Tensor:
        inner = F.relu(_conv(state, f"{key}.res.0", x, padding=1))
        return x + _conv(state, f"{key}.res.2", inner, padding=1)

    kept = [_conv(state, "m_head", x, padding=1)]
    for level in range(1, levels + 1):
        features = kept[-1]
        for block in range(blocks):
            features = residual(f"m_down{level}.{block}", features)
        kept.append(_conv(state, f"m_down{level}.{blocks}", features, stride=2))
    features = kept[-1]
    for block in range(blocks):
        features = residual(f"m_body.{block}", features)
    for level in range(levels, 0, -1):
        key = f"m_up{level}.0"
        features = F.conv_transpose2d(
            features + kept[level], state[f"{key}.weight"], state.get(f"{key}.bias"), stride=2
        )
        for block in range(blocks):
            features = residual(f"m_up{level}.{block + 1}", features)
    return _conv(state, "m_tail", features + kept[0], padding=1)


# ---- NAFNet


def nafnet_state(channels: int, width: int, encoder: list[int], middle: int, decoder: list[int]):
    shapes: dict[str, tuple[int, ...]] = {}

    def add(key: str, *shape: int) -> None:
        shapes[f"{key}.weight"] = shape
        shapes[f"{key}.bias"] = shape[:1]

    def block(key: str, c: int) -> None:
        shapes[f"{key}.beta"] = shapes[f"{key}.gamma"] = (1, c, 1, 1)
        add(f"{key}.conv1", 2 * c, c, 1, 1)
        add(f"{key}.conv2", 2 * c, 1, 3, 3)
        add(f"{key}.conv3", c, c, 1, 1)
        add(f"{key}.sca.1", c, c, 1, 1)
        add(f"{key}.conv4", 2 * c, c, 1, 1)
        add(f"{key}.conv5", c, c, 1, 1)
        add(f"{key}.norm1", c)
        add(f"{key}.norm2", c)

    add("intro", width, channels, 3, 3)
    add("ending", channels, width, 3, 3)
    for level, count in enumerate(encoder):
        for i in range(count):
            block(f"encoders.{level}.{i}", width)
        add(f"downs.{level}", 2 * width, width, 2, 2)
        width *= 2
    for i in range(middle):
        block(f"middle_blks.{i}", width)
    for level, count in enumerate(decoder):
        shapes[f"ups.{level}.0.weight"] = (2 * width, width, 1, 1)
        width //= 2
        for i in range(count):
            block(f"decoders.{level}.{i}", width)
    return _fill(shapes)


def nafnet(state: State, x: Tensor, encoder: list[int], middle: int, decoder: list[int]) -> Tensor:
    def norm(key: str, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        y = (x - mean) / (variance + 1e-6).sqrt()
        return state[f"{key}.weight"].view(1, -1, 1, 1) * y + state[f"{key}.bias"].view(1, -1, 1, 1)

    def gate(x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return x[:, :half] * x[:, half:]

    def block(key: str, x: Tensor) -> Tensor:
        y = _conv(state, f"{key}.conv1", norm(f"{key}.norm1", x))
        y = gate(_conv(state, f"{key}.conv2", y, padding=1, groups=y.shape[1]))
        y = y * _conv(state, f"{key}.sca.1", y.mean((2, 3), keepdim=True))
        x = x + _conv(state, f"{key}.conv3", y) * state[f"{key}.beta"]
        y = gate(_conv(state, f"{key}.conv4", norm(f"{key}.norm2", x)))
        return x + _conv(state, f"{key}.conv5", y) * state[f"{key}.gamma"]

    features, kept = _conv(state, "intro", x, padding=1), []
    for level, count in enumerate(encoder):
        for i in range(count):
            features = block(f"encoders.{level}.{i}", features)
        kept.append(features)
        features = _conv(state, f"downs.{level}", features, stride=2)
    for i in range(middle):
        features = block(f"middle_blks.{i}", features)
    for level, count in enumerate(decoder):
        features = F.pixel_shuffle(_conv(state, f"ups.{level}.0", features), 2) + kept.pop()
        for i in range(count):
            features = block(f"decoders.{level}.{i}", features)
    return x + _conv(state, "ending", features, padding=1)
