"""Distances between a network's output and its target; images (N, C, H, W), float32.

All except `psnr` and `rmse` are means over all values of the batch. The loss of DnCNN's paper is
``1 / (2 N) * sum ||output - target||^2`` over N images. It is `mse` times half the number of values
of an image. The minimum is the same, and so are the steps of Adam, which divides by the gradient's
size. Divide the paper's weight decay and clip_norm by that factor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from denoise_ext.metrics import ssim

Criterion = Callable[[Tensor, Tensor], Tensor]
_CHARBONNIER_EPS = 1e-3  # in units of white, as in Lai et al. 2017 and MPRNet
_RMSE_EPS = 1e-6  # as a square: errors below a thousandth of white hardly count
_PSNR_EPS = 1e-8  # 80 dB: what is better than that hardly counts; as in HINet and NAFNet


def mse(output: Tensor, target: Tensor) -> Tensor:
    """``mean((output - target)^2)``."""
    return torch.nn.functional.mse_loss(output, target)


def l1(output: Tensor, target: Tensor) -> Tensor:
    """``mean(|output - target|)``."""
    return torch.nn.functional.l1_loss(output, target)


def charbonnier(output: Tensor, target: Tensor) -> Tensor:
    """``mean(sqrt((output - target)^2 + eps^2))``, eps = 0.001: l1 without its corner.

    Charbonnier et al. 1994; as a loss: Lai, Huang, Ahuja, Yang, "Deep Laplacian Pyramid Networks",
    CVPR 2017.
    """
    return ((output - target).square() + _CHARBONNIER_EPS**2).sqrt().mean()


def ssim_mixed(output: Tensor, target: Tensor, weight: float = 0.84) -> Tensor:
    """``weight * (1 - SSIM) + (1 - weight) * l1``.

    Zhao, Gallo, Frosio, Kautz: "Loss Functions for Image Restoration with Neural Networks", 2017,
    with SSIM at one scale. At least 11 x 11 pixels.
    """
    structure = 1.0 - ssim(output, target).mean().to(output.dtype)
    return weight * structure + (1.0 - weight) * l1(output, target)


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """``mean_i 10 log10(mse_i + eps)`` over the N images, eps = 1e-8: the negative mean PSNR in dB.

    This is the reported figure. Unlike in `mse`, images with strong noise do not dominate. The
    gradient of each image is that of its mse times 4.34 / (mse_i + eps). This is some thousand
    times as long: choose `optimiser.clip_norm` and `weight_decay` for it.

    Chen, Lu, Zhang, Chu, Chen: "HINet: Half Instance Normalization Network for Image Restoration",
    CVPR Workshops 2021; NAFNet (Chen et al., ECCV 2022) is trained with it, too.
    """
    errors = (output - target).square().flatten(1).mean(dim=1)  # (N,)
    return 10.0 * (errors + _PSNR_EPS).log10().mean()


def rmse(output: Tensor, target: Tensor) -> Tensor:
    """``mean_i sqrt(mse_i + eps)`` over the N images, eps = 1e-6: the mean of their RMSE.

    This is what tables of depth maps report. It weighs images more evenly than `mse`, and less
    evenly than `psnr`: the gradient of each is that of its mse, divided by twice its rmse.
    """
    errors = (output - target).square().flatten(1).mean(dim=1)  # (N,)
    return (errors + _RMSE_EPS).sqrt().mean()


def criterion(name: str, ssim_weight: float) -> Criterion:
    """The loss of a configuration's ``loss.name``."""
    if name == "ssim":
        return lambda output, target: ssim_mixed(output, target, ssim_weight)
    known = {"mse": mse, "rmse": rmse, "l1": l1, "charbonnier": charbonnier, "psnr": psnr}
    return known[name]
