"""The cheapest network of each kind that the contract allows; the package has no line on them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext.models import Network, Port, Signature
from denoise_ext.nn import Conv2d

HALF = Fraction(1, 2)
SIZE = (45, 38)  # no multiple of any stride
# Of three layers' sums of some 100 numbers of size 1, by Winograd's algorithm too.
BOUND = {"rtol": 1e-4, "atol": 1e-4}


class _Tiny(Network):
    width = 4

    @property
    def config(self) -> dict[str, Any]:
        return {"family": self.family}


class Upscaler(_Tiny):
    """Twice the size: one image in, one image of scale 2 out."""

    family = "test_upscaler"
    signature = Signature({"image": Port(1)}, {"image": Port(1, scale=2)})

    def __init__(self) -> None:
        super().__init__()
        self.head = Conv2d(1, self.width, 3, padding=1, activation="relu")
        self.tail = Conv2d(self.width, 4, 3, padding=1)

    def compute(self, inputs, state):
        x = inputs["image"]
        skip = F.interpolate(x, scale_factor=2, mode="nearest")
        return {"image": skip + F.pixel_shuffle(self.tail(self.head(x)), 2)}, state


class Recurrent(_Tiny):
    """A video network: the last output and features at half the resolution are the state."""

    family = "test_recurrent"
    stride = 4
    signature = Signature(
        {"image": Port(1), "noise_map": Port(1, kind="condition")},
        {"image": Port(1)},
        {"previous": Port(1), "features": Port(4, scale=HALF)},
    )

    def __init__(self) -> None:
        super().__init__()
        self.head = Conv2d(4 * 2 + 1 + 4, self.width, 3, padding=1, activation="relu")
        self.down = Conv2d(self.width, self.width, 2, stride=2, activation="relu")
        self.mix = Conv2d(self.width, self.width, 3, padding=1)
        self.tail = Conv2d(self.width, 4, 3, padding=1)

    def compute(self, inputs, state):
        x, previous = inputs["image"], state["previous"]
        half = F.pixel_unshuffle(torch.cat([x, previous], 1), 2)
        level = inputs["noise_map"].expand(x.shape[0], 1, *x.shape[-2:])
        level = F.avg_pool2d(level, 2)
        features = self.head(torch.cat([half, level, state["features"]], 1))
        coarse = F.interpolate(self.mix(self.down(features)), scale_factor=2, mode="nearest")
        features = features + coarse
        image = x - F.pixel_shuffle(self.tail(features), 2)
        return {"image": image}, {"previous": image, "features": torch.tanh(features)}


class TwoOutputs(_Tiny):
    """An image and a mask at half the resolution."""

    family = "test_two_outputs"
    stride = 2
    signature = Signature({"image": Port(3)}, {"image": Port(3), "mask": Port(1, scale=HALF)})

    def __init__(self) -> None:
        super().__init__()
        self.head = Conv2d(3, self.width, 3, padding=1, activation="relu")
        self.image = Conv2d(self.width, 3, 3, padding=1)
        self.mask = Conv2d(self.width, 1, 4, stride=2, padding=1)

    def compute(self, inputs, state):
        features = self.head(inputs["image"])
        image = inputs["image"] + self.image(features)
        return {"image": image, "mask": torch.sigmoid(self.mask(features))}, state


class TwoInputs(_Tiny):
    """A depth map, guided by a photograph of twice the resolution."""

    family = "test_two_inputs"
    signature = Signature({"image": Port(1), "guide": Port(3, scale=2)}, {"image": Port(1)})

    def __init__(self) -> None:
        super().__init__()
        self.guide = Conv2d(3, self.width, 4, stride=2, padding=1, activation="relu")
        self.head = Conv2d(1 + self.width, self.width, 3, padding=1, activation="relu")
        self.tail = Conv2d(self.width, 1, 3, padding=1)

    def compute(self, inputs, state):
        x = inputs["image"]
        features = self.head(torch.cat([x, self.guide(inputs["guide"])], 1))
        return {"image": x + self.tail(features)}, state


KINDS: dict[str, type[Network]] = {
    cls.family: cls for cls in (Upscaler, Recurrent, TwoOutputs, TwoInputs)
}


def build(name: str) -> Network:
    """The network of that name with random weights, in eval mode."""
    torch.manual_seed(0)
    network = KINDS[name]().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | Conv2d):
                nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
    return network


def random_inputs(network: Network, height: int, width: int, seed: int = 0) -> dict[str, Tensor]:
    """One of each input for an image of that size; float64, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(
            1, port.channels, port.size(height), port.size(width), generator=generator,
            dtype=torch.float64,
        )
        for name, port in network.signature.inputs.items()
    }  # fmt: skip


def in_float32(tensors):
    return {name: x.float() for name, x in tensors.items()}


def in_tiles(network, run, tiles, inputs, state, size=SIZE):
    """Outputs, put together of what ``run`` writes part by part, and what it returns."""
    outputs = {}

    def read(places):
        return {
            port: x if x.shape[2:] == (1, 1) else x[(..., *places[port])]
            for port, x in inputs.items()
        }

    def write(places, parts):
        for port, part in parts.items():
            rows, columns = (network.signature.outputs[port].size(n) for n in size)
            whole = part.new_full((*part.shape[:2], rows, columns), torch.nan)
            outputs.setdefault(port, whole)[(..., *places[port])] = part

    return outputs, run(tiles, read, write, state)
