"""Random weights to start training from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

BRANCH_SCALE = 0.1  # of the last layers of residual branches: the signal neither grows nor shrinks


def initialise_stack(model: nn.Module, generator: torch.Generator) -> None:
    """Start a plain stack of convolutions as a nearly linear, norm-preserving map of each pixel.

    This is "looks linear" (Balduzzi et al. 2017) with the orthogonal matrix on the centre tap (Xiao
    et al. 2018). Hidden channels are pairs (+a, -a): ``relu(a) - relu(-a) = a`` passes every ReLU
    unchanged. A tenth of He's initialisation is added on all taps. Biases are zero. The last
    convolution is scaled by 0.3, so that training begins near the identity.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for index, module in enumerate(convolutions):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        is_first, is_last = index == 0, index == len(convolutions) - 1
        out_channels, in_channels = module.weight.shape[:2]
        rows = out_channels if is_last else out_channels // 2
        columns = in_channels if is_first else in_channels // 2
        matrix = nn.init.orthogonal_(torch.empty(rows, columns), generator=generator)
        if not is_first:
            matrix = torch.cat([matrix, -matrix], dim=1)
        if not is_last:
            matrix = torch.cat([matrix, -matrix], dim=0)
        centre_y, centre_x = (size // 2 for size in module.kernel_size)
        with torch.no_grad():
            module.weight.mul_(0.1)
            module.weight[: len(matrix), : matrix.shape[1], centre_y, centre_x] += matrix
            if is_last:
                module.weight.mul_(0.3)


@torch.no_grad()
def initialise_layers(
    model: nn.Module, generator: torch.Generator, last_of_branches: Iterable[Any] = ()
) -> None:
    """Start every convolution (transposed, grouped) with an output as large as its input.

    He et al. 2015, with the number of products that one output value sums; biases are zero. The
    weights of ``last_of_branches`` are scaled down.
    """
    for module in model.modules():
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        terms: float = module.in_channels // module.groups
        terms *= module.kernel_size[0] * module.kernel_size[1]
        if isinstance(module, nn.ConvTranspose2d):
            terms /= module.stride[0] * module.stride[1]
        gain = 2 if getattr(module, "activation", "none") == "relu" else 1
        nn.init.normal_(module.weight, std=(gain / terms) ** 0.5, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in last_of_branches:
        module.weight.mul_(BRANCH_SCALE)
