"""Networks as published checkpoints store them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


def randomise(module: nn.Module) -> nn.Module:
    """Weights and running statistics far from their defaults; eval mode."""
    generator = torch.Generator().manual_seed(2)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.weight, 0.5, 1.5), (layer.bias, -0.3, 0.3),
                (layer.running_mean, -0.3, 0.3), (layer.running_var, 0.2, 2.0),
            ):  # fmt: skip
                tensor.data.uniform_(low, high, generator=generator)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                layer.bias.data.uniform_(-0.1, 0.1, generator=generator)
    return module.eval()


def published_chain(
    inputs: int, outputs: int, depth: int = 5, width: int = 6, *,
    norm: bool = False, first_bias: bool = True, bias: bool = True, eps: float = 1e-4,
) -> nn.Sequential:  # fmt: skip
    """The plain Sequential that published denoisers keep their layers in."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1, bias=first_bias), nn.ReLU()]
    for _ in range(depth - 2):
        layers.append(nn.Conv2d(width, width, 3, padding=1, bias=bias))
        if norm:
            layers.append(nn.BatchNorm2d(width, eps=eps))
        layers.append(nn.ReLU())
    layers.append(nn.Conv2d(width, outputs, 3, padding=1, bias=bias))
    return randomise(nn.Sequential(*layers))


def keys_under(prefix: str, module: nn.Module) -> OrderedDict[str, Tensor]:
    return OrderedDict((f"{prefix}.{key}", v) for key, v in module.state_dict().items())
