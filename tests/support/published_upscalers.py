"""SRVGGNetCompact, RRDBNet and SPAN as published, as functions of tensors with the published keys.

Written after xinntao/Real-ESRGAN, realesrgan/archs/srvgg_arch.py; XPixelGroup/BasicSR,
basicsr/archs/rrdbnet_arch.py; xinntao/ESRGAN, RRDBNet_arch.py and its older models/modules;
hongyuanyu/SPAN, basicsr/archs/span_arch.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def _conv_of(state: State, key: str, outputs: int, inputs: int, small: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(len(state))
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
    state[f"{key}.weight"] = small * weight / (9 * inputs) ** 0.5
    state[f"{key}.bias"] = 0.1 * torch.randn(outputs, generator=generator)


def _conv(state: State, key: str, x: Tensor) -> Tensor:
    return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1)


def srvgg_state(channels: int, scale: int, width: int, depth: int) -> State:
    state: State = {}
    for index in range(depth):
        _conv_of(state, f"body.{2 * index}", width, width if index else channels)
        state[f"body.{2 * index + 1}.weight"] = torch.linspace(-0.1, 0.4, width)
    _conv_of(state, f"body.{2 * depth}", channels * scale**2, width)
    return state


def srvgg(state: State, x: Tensor, scale: int, depth: int) -> Tensor:
    features = x
    for index in range(depth):
        features = _conv(state, f"body.{2 * index}", features)
        features = F.prelu(features, state[f"body.{2 * index + 1}.weight"])
    detail = F.pixel_shuffle(_conv(state, f"body.{2 * depth}", features), scale)
    return detail + F.interpolate(x, scale_factor=scale, mode="nearest")


# layout -> (first, dense, body, up, hr, last); numbers of the last ones depend on the doublings
def rrdb_names(layout: str, doublings: int) -> dict[str, str]:
    if layout == "old":
        return {
            "first": "model.0", "dense": "model.1.sub.{}.RDB{}.conv{}.0", "body": "model.1.sub.{}",
            "up": "model.{}", "hr": f"model.{3 * doublings + 2}",
            "last": f"model.{3 * doublings + 4}",
        }  # fmt: skip
    if layout == "trunk":
        return {
            "first": "conv_first", "dense": "RRDB_trunk.{}.RDB{}.conv{}", "body": "trunk_conv",
            "up": "upconv{}", "hr": "HRconv", "last": "conv_last",
        }  # fmt: skip
    return {
        "first": "conv_first", "dense": "body.{}.rdb{}.conv{}", "body": "conv_body",
        "up": "conv_up{}", "hr": "conv_hr", "last": "conv_last",
    }  # fmt: skip


def rrdb_state(
    layout: str, channels: int, doublings: int, unshuffle: int, width: int, growth: int, blocks: int
) -> State:
    names, state = rrdb_names(layout, doublings), {}
    _conv_of(state, names["first"], width, channels * unshuffle**2)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for index in range(1, 6):
                outputs = growth if index < 5 else width
                key = names["dense"].format(block, dense, index)
                _conv_of(state, key, outputs, width + (index - 1) * growth)
    _conv_of(state, names["body"].format(blocks), width, width)
    for index in range(1, doublings + 1):
        number = 3 * index if layout == "old" else index
        _conv_of(state, names["up"].format(number), width, width)
    _conv_of(state, names["hr"], width, width)
    _conv_of(state, names["last"], channels, width)
    return state


def rrdb(
    state: State, x: Tensor, layout: str, doublings: int, unshuffle: int, blocks: int
) -> Tensor:
    names = rrdb_names(layout, doublings)

    def active(key: str, x: Tensor) -> Tensor:
        return F.leaky_relu(_conv(state, key, x), 0.2)

    x = F.pixel_unshuffle(x, unshuffle) if unshuffle > 1 else x
    first = features = _conv(state, names["first"], x)
    for block in range(blocks):
        entered = features
        for dense in (1, 2, 3):
            parts = [features]
            for index in range(1, 5):
                key = names["dense"].format(block, dense, index)
                parts.append(active(key, torch.cat(parts, 1)))
            last = _conv(state, names["dense"].format(block, dense, 5), torch.cat(parts, 1))
            features = features + 0.2 * last
        features = entered + 0.2 * features
    features = first + _conv(state, names["body"].format(blocks), features)
    for index in range(1, doublings + 1):
        number = 3 * index if layout == "old" else index
        larger = F.interpolate(features, scale_factor=2, mode="nearest")
        features = active(names["up"].format(number), larger)
    return _conv(state, names["last"], active(names["hr"], features))


def span_state(channels: int, scale: int, width: int, normalise: bool = True) -> State:
    state: State = {} if normalise else {"no_norm": torch.zeros(1)}
    generator = torch.Generator().manual_seed(9)

    def add(key: str, outputs: int, inputs: int, size: int) -> None:
        weight = torch.randn(outputs, inputs, size, size, generator=generator)
        state[f"{key}.weight"] = weight / (size * size * inputs) ** 0.5
        state[f"{key}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    def group(key: str, outputs: int, inputs: int) -> None:
        add(f"{key}.sk", outputs, inputs, 1)
        add(f"{key}.conv.0", 2 * inputs, inputs, 1)
        add(f"{key}.conv.1", 2 * outputs, 2 * inputs, 3)
        add(f"{key}.conv.2", outputs, 2 * outputs, 1)
        add(f"{key}.eval_conv", outputs, inputs, 3)  # stale: what counts are the others

    group("conv_1", width, channels)
    for block in range(1, 7):
        for part in (1, 2, 3):
            group(f"block_{block}.c{part}_r", width, width)
    add("conv_cat", width, 4 * width, 1)
    group("conv_2", width, width)
    add("upsampler.0", channels * scale**2, width, 3)
    return state


def _span_group(state: State, key: str, x: Tensor) -> Tensor:
    """The group as one convolution, its weights from the responses to impulses, in float32."""

    def row(x: Tensor) -> Tensor:
        made = x
        for index in range(3):
            name = f"{key}.conv.{index}"
            made = F.conv2d(made, state[f"{name}.weight"].double(), state[f"{name}.bias"].double())
        name = f"{key}.sk"
        one = F.conv2d(x, state[f"{name}.weight"].double(), state[f"{name}.bias"].double())
        return made + one[..., 1:-1, 1:-1]

    inputs = x.shape[1]
    bias = row(torch.zeros(1, inputs, 3, 3, dtype=torch.float64))[0, :, 0, 0]
    impulses = torch.eye(inputs * 9, dtype=torch.float64).reshape(-1, inputs, 3, 3)
    weight = (row(impulses)[..., 0, 0] - bias).T.reshape(-1, inputs, 3, 3)
    return F.conv2d(x, weight.float().double(), bias.float().double(), padding=1)


def span(state: State, x: Tensor, scale: int, normalise: bool = True) -> Tensor:
    """Computed in float64."""
    x = x.double()
    if normalise:
        mean = torch.tensor([0.4488, 0.4371, 0.4040], dtype=torch.float64)
        x = (x - mean.reshape(1, 3, 1, 1)) * 255
    features = made = _span_group(state, "conv_1", x)
    outputs = []
    for block in range(1, 7):
        first = _span_group(state, f"block_{block}.c1_r", made)
        second = _span_group(state, f"block_{block}.c2_r", F.silu(first))
        third = _span_group(state, f"block_{block}.c3_r", F.silu(second))
        made = (third + made) * (torch.sigmoid(third) - 0.5)
        outputs.append(made)
    parts = torch.cat([features, _span_group(state, "conv_2", made), outputs[0], first], 1)
    weights = {key: value.double() for key, value in state.items()}
    joined = F.conv2d(parts, weights["conv_cat.weight"], weights["conv_cat.bias"])
    return F.pixel_shuffle(_conv(weights, "upsampler.0", joined), scale)
