"""Random weights to start training from."""

from __future__ import annotations

import torch
from torch import nn


def initialise_stack(model: nn.Module, generator: torch.Generator) -> None:
    """Start a plain stack of convolutions as a nearly linear, norm-preserving map of each pixel.

    "Looks linear" (Balduzzi et al. 2017) with the orthogonal matrix on the centre tap (Xiao et al.
    2018): hidden channels come in pairs (+a, -a), so that ``relu(a) - relu(-a) = a`` passes every
    ReLU unchanged. A tenth of He's initialisation is added on all taps, biases are zero. The last
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
