"""The bias-free residual U-Net of DXNet and RDXNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from denoise_ext.models.image_denoiser import MAX_LAYERS, check_positive_ints
from denoise_ext.nn import Conv2d, ConvTranspose2d

# Residual branches start small, so that the untrained network is nearly the identity and a deep
# stack of blocks neither grows nor shrinks the signal.
_BRANCH_SCALE = 0.1


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(x)))``, 3x3, (N, C, H, W) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1: Conv2d = Conv2d(width, width, 3, padding=1, bias=False, activation="relu")
        self.conv2: Conv2d = Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return x + self.conv2(self.conv1(x))


class ResidualUNet(nn.Module):
    """Adds the levels of a U-Net to a network; has no constructor of its own."""

    def add_levels(
        self, in_channels: int, out_channels: int, widths: Sequence[int], blocks: Sequence[int]
    ) -> None:
        """Make the layers.

        Args:
            in_channels, out_channels: at the resolution of the finest level.
            widths: channels of the levels, the finest first.
            blocks: residual blocks of each level: on the way down and again on the way up for all
                but the coarsest.

        Raises:
            TypeError, ValueError: not lists of numbers >= 1, or of different lengths.
        """
        self.widths: list[int] = check_positive_ints("widths", widths)
        self.blocks: list[int] = check_positive_ints("blocks", blocks, MAX_LAYERS)
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths and blocks need one entry per level, got {widths!r} and {blocks!r}"
            )
        self.head: Conv2d = Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        fine = list(zip(self.widths, self.blocks))[:-1]
        self.encoder: nn.ModuleList = nn.ModuleList(_stage(width, count) for width, count in fine)
        self.down: nn.ModuleList = nn.ModuleList(
            Conv2d(a, b, 2, stride=2, bias=False) for a, b in zip(self.widths, self.widths[1:])
        )
        self.bottom: nn.Sequential = _stage(self.widths[-1], self.blocks[-1])
        self.up: nn.ModuleList = nn.ModuleList(
            ConvTranspose2d(b, a, 2, stride=2, bias=False)
            for a, b in zip(self.widths, self.widths[1:])
        )
        self.decoder: nn.ModuleList = nn.ModuleList(_stage(width, count) for width, count in fine)
        self.tail: Conv2d = Conv2d(widths[0], out_channels, 3, padding=1, bias=False)

    def run_levels(self, x: Tensor, bottom: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W).

        ``bottom`` runs in place of the blocks of the coarsest level.
        """
        return self.tail(self.run_trunk(x, bottom))

    def run_trunk(self, x: Tensor, bottom: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """As `run_levels`, without the tail: (N, widths[0], H, W)."""
        bottom = self.bottom if bottom is None else bottom
        features = self.head(x)
        skips = []
        for stage, down in zip(self.encoder, self.down):
            features = stage(features)
            skips.append(features)
            features = down(features)
        features = bottom(features)
        for stage, up in zip(reversed(self.decoder), reversed(self.up)):
            features = stage(skips.pop() + up(features))
        return features

    @torch.no_grad()
    def initialise_levels(self, generator: torch.Generator) -> None:
        """Random weights of all convolutions (He et al. 2015; ends of residual branches scaled)."""
        for module in self.modules():
            if isinstance(module, ConvTranspose2d):  # kernel = stride: each output has one tap
                nn.init.normal_(module.weight, std=module.in_channels**-0.5, generator=generator)
            elif isinstance(module, Conv2d):
                relu = module.activation == "relu"
                nn.init.kaiming_normal_(
                    module.weight, nonlinearity="relu" if relu else "linear", generator=generator
                )
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.conv2.weight.mul_(_BRANCH_SCALE)
        if hasattr(self, "tail"):  # networks with other heads may have none
            self.tail.weight.mul_(_BRANCH_SCALE)


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
