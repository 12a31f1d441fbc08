"""Networks of others that the benchmarks run, in plain torch.nn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BaseUNet(nn.Module):
    """The base U-Net of Intel Open Image Denoise, the network of its CPU filter ``RT``.

    Channels: encoder 32, 32, 48, 64, 80, 96, 96, decoder 112, 112, 96, 96, 64, 64, 64, 32; 3x3
    convolutions with ReLU (none after the last), 2x2 maximum pooling, nearest upsampling, skip
    connections by concatenation. Architecture: OIDN 2.5.1, ``training/model.py`` (Apache-2.0).

    ``forward``: (N, in_channels, H, W), H and W multiples of 16 -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 3) -> None:
        super().__init__()

        def conv(channels: int, filters: int) -> nn.Conv2d:
            return nn.Conv2d(channels, filters, 3, padding=1)

        self.enc_conv0 = conv(in_channels, 32)
        self.enc_conv1 = conv(32, 32)
        self.enc_conv2 = conv(32, 48)
        self.enc_conv3 = conv(48, 64)
        self.enc_conv4 = conv(64, 80)
        self.enc_conv5a = conv(80, 96)
        self.enc_conv5b = conv(96, 96)
        self.dec_conv4a = conv(96 + 64, 112)
        self.dec_conv4b = conv(112, 112)
        self.dec_conv3a = conv(112 + 48, 96)
        self.dec_conv3b = conv(96, 96)
        self.dec_conv2a = conv(96 + 32, 64)
        self.dec_conv2b = conv(64, 64)
        self.dec_conv1a = conv(64 + in_channels, 64)
        self.dec_conv1b = conv(64, 32)
        self.dec_conv0 = conv(32, out_channels)

    def forward(self, input: Tensor) -> Tensor:
        x = F.relu(self.enc_conv0(input))
        pool1 = F.max_pool2d(F.relu(self.enc_conv1(x)), 2)  # (N, 32, H/2, W/2)
        pool2 = F.max_pool2d(F.relu(self.enc_conv2(pool1)), 2)  # (N, 48, H/4, W/4)
        pool3 = F.max_pool2d(F.relu(self.enc_conv3(pool2)), 2)  # (N, 64, H/8, W/8)
        x = F.max_pool2d(F.relu(self.enc_conv4(pool3)), 2)  # (N, 80, H/16, W/16)
        x = F.relu(self.enc_conv5b(F.relu(self.enc_conv5a(x))))

        x = _joined(x, pool3)
        x = F.relu(self.dec_conv4b(F.relu(self.dec_conv4a(x))))
        x = _joined(x, pool2)
        x = F.relu(self.dec_conv3b(F.relu(self.dec_conv3a(x))))
        x = _joined(x, pool1)
        x = F.relu(self.dec_conv2b(F.relu(self.dec_conv2a(x))))
        x = _joined(x, input)
        x = F.relu(self.dec_conv1b(F.relu(self.dec_conv1a(x))))
        return self.dec_conv0(x)


def _joined(low: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([F.interpolate(low, scale_factor=2, mode="nearest"), skip], dim=1)


class AtSigma(nn.Module):
    """A denoiser with its noise level fixed: a network of the image alone."""

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.model = model
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, self.sigma)


def convolution_operations(model: nn.Module, x: Tensor) -> int:
    """Multiplications and additions of all convolutions of ``model(x)``, done directly."""
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        transposed = isinstance(module, nn.ConvTranspose2d)
        # Every position of the one side meets every weight once.
        side = inputs[0] if transposed else output
        counts.append(2 * side.shape[0] * side[0, 0].numel() * module.weight.numel())

    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that keep a signal's size from layer to layer, and BatchNorm as if trained."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, shape: torch.Size) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                bound = (6 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(uniform(-bound, bound, module.weight.shape))
                if module.bias is not None:
                    module.bias.copy_(uniform(-0.1, 0.1, module.bias.shape))
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(uniform(-0.2, 0.2, module.running_mean.shape))
                module.running_var.copy_(uniform(0.5, 1.5, module.running_var.shape))
                module.weight.copy_(uniform(0.7, 1.3, module.weight.shape))
                module.bias.copy_(uniform(-0.1, 0.1, module.bias.shape))
    return model.eval()
