"""Layers that take the place of :mod:`torch.nn`'s, and filters as layers."""

from denoise_ext.nn.conv import (
    Conv2d,
    ConvReLU2d,
    ConvTranspose2d,
    ConvTransposeReLU2d,
    DepthwiseSeparableConv2d,
)
from denoise_ext.nn.convert import from_torch, to_torch
from denoise_ext.nn.filters import BilateralBlur, GaussianBlur2d, JointBilateralBlur
from denoise_ext.nn.motion import BlockMatch, BlockWarp, RecurrentFuse
from denoise_ext.nn.norm import GroupNorm, InstanceNorm2d, LayerNorm2d

__all__ = [
    "BilateralBlur",
    "BlockMatch",
    "BlockWarp",
    "Conv2d",
    "ConvReLU2d",
    "ConvTranspose2d",
    "ConvTransposeReLU2d",
    "DepthwiseSeparableConv2d",
    "GaussianBlur2d",
    "GroupNorm",
    "InstanceNorm2d",
    "JointBilateralBlur",
    "LayerNorm2d",
    "RecurrentFuse",
    "from_torch",
    "to_torch",
]
