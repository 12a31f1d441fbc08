"""Twelve small networks, shaped like families that other people publish.

Each has the operators of its family, in the order in which the family has them: what matters to
the engine is what stands between the convolutions.  Written for these tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _ChannelNorm(torch.autograd.Function):
    """Normalisation over channels by an old-style function, as NAFNet's authors wrote it."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        y = (x - mean) / (variance + eps).sqrt()
        ctx.save_for_backward(y, variance, weight)
        return weight.view(1, -1, 1, 1) * y + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


class ChannelNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.bias = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        return _ChannelNorm.apply(x, self.weight, self.bias, 1e-6)


def conv(inside: int, out: int, kernel: int = 3, **more) -> nn.Conv2d:
    return nn.Conv2d(inside, out, kernel, padding=kernel // 2, **more)


class GatedBlock(nn.Module):
    """NAFNet: depthwise convolution, gate, channel attention, scaled skips."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.second = ChannelNorm(c), ChannelNorm(c)
        self.wide, self.depth, self.back = (
            conv(c, 2 * c, 1),
            conv(2 * c, 2 * c, groups=2 * c),
            conv(c, c, 1),
        )
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c, c, 1))
        self.feed, self.out = conv(c, 2 * c, 1), conv(c, c, 1)
        self.beta = nn.Parameter(torch.rand(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.depth(self.wide(self.norm(x))).chunk(2, dim=1)
        y = a * b
        x = x + self.back(y * self.attention(y)) * self.beta
        a, b = self.feed(self.second(x)).chunk(2, dim=1)
        return x + self.out(a * b) * self.beta


class GatedUNet(nn.Module):
    """NAFNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 16), conv(16, 3)
        self.encoder, self.middle, self.decoder = GatedBlock(16), GatedBlock(32), GatedBlock(16)
        self.down = nn.Conv2d(16, 32, 2, 2)
        self.up = nn.Sequential(conv(32, 64, 1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        padded = F.pad(x, (0, -w % 4, 0, -h % 4))
        a = self.encoder(self.first(padded))
        y = self.last(self.decoder(self.up(self.middle(self.down(a))) + a))
        return (y + padded)[:, :, :h, :w]


class WindowAttention(nn.Module):
    """Attention within windows of 4x4 pixels; the mask of shifted ones is made in forward."""

    def __init__(self, c: int, shift: int) -> None:
        super().__init__()
        self.shift, self.norm, self.next = shift, nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.mlp = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))

    def windows(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        return x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)

    def mask(self, h: int, w: int, x: Tensor) -> Tensor:
        image = torch.zeros(1, h, w, 1, device=x.device)
        for i, rows in enumerate((slice(0, -4), slice(-4, -2), slice(-2, None))):
            image[:, rows] += i
        ids = self.windows(image).squeeze(-1)
        different = ids[:, None] - ids[:, :, None]
        return different.masked_fill(different != 0, -100.0).masked_fill(different == 0, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
        q, k, v = self.qkv(self.windows(y)).chunk(3, -1)
        scores = q @ k.transpose(1, 2) * c**-0.5
        if self.shift:
            scores = scores + self.mask(h, w, x).repeat(n, 1, 1)
        y = self.out(scores.softmax(-1) @ v)
        y = y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.next(x))


class SwinRestorer(nn.Module):
    """SwinIR: its mean takes the dtype of the image at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.rand(1, 3, 1, 1)
        self.first, self.body = conv(3, 16), conv(16, 16)
        self.layers = nn.ModuleList(WindowAttention(16, shift) for shift in (0, 2))
        self.up = nn.Sequential(conv(16, 12), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean.type_as(x)
        x = self.first(x - self.mean)
        y = x.permute(0, 2, 3, 1)
        for layer in self.layers:
            y = layer(y)
        return self.up(x + self.body(y.permute(0, 3, 1, 2))) + self.mean


class SwinConvUNet(nn.Module):
    """SCUNet: half of the channels through attention, half through convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 32, bias=False), conv(32, 3, bias=False)
        self.split, self.join = conv(32, 32, 1), conv(32, 32, 1)
        self.attention = WindowAttention(16, 2)
        self.convolutions = nn.Sequential(
            conv(16, 16, bias=False), nn.ReLU(True), conv(16, 16, bias=False)
        )
        self.down, self.up = nn.Conv2d(32, 32, 2, 2, bias=False), nn.ConvTranspose2d(32, 32, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = F.pad(x, (0, -w % 8, 0, -h % 8), mode="replicate")
        x = self.first(x)
        y = self.down(x)
        a, b = self.split(y).split(16, dim=1)
        b = self.convolutions(b) + b
        a = self.attention(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = y + self.join(torch.cat((a, b), 1))
        return self.last(self.up(y) + x)[..., :h, :w]


class Merged(nn.Module):
    """SPAN: three convolutions in a row, merged into one at every call, through ``.data``."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.a, self.b = conv(inside, 2 * inside, 1, bias=False), conv(2 * inside, out, bias=False)
        self.merged = conv(inside, out)

    def forward(self, x: Tensor) -> Tensor:
        self.merged.weight.data = torch.einsum(
            "ohxy,hi->oixy", self.b.weight, self.a.weight[..., 0, 0]
        )
        return self.merged(x)


class Reparametrised(nn.Module):
    """SPAN."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = Merged(3, 16), Merged(16, 16), conv(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        a = F.silu(self.first(x))
        b = self.second(a)
        gate = torch.sigmoid(b) - 0.5
        return F.pixel_shuffle(self.last(torch.cat([a, (a + b) * gate], 1)), 2)


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bound):
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


class DivisiveNorm(nn.Module):
    """CompressAI's generalised divisive normalisation."""

    def __init__(self, c: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.rand(c) + 0.5)
        self.gamma = nn.Parameter(torch.rand(c, c) * 0.1)
        self.register_buffer("bound", torch.tensor([1e-3]))

    def forward(self, x: Tensor) -> Tensor:
        gamma = _LowerBound.apply(self.gamma, self.bound)[..., None, None]
        norm = F.conv2d(x**2, gamma, _LowerBound.apply(self.beta, self.bound))
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


class Hyperprior(nn.Module):
    """CompressAI's mean and scale hyperprior; a dict of dicts is its result."""

    def __init__(self) -> None:
        super().__init__()
        self.analysis = nn.Sequential(
            conv(3, 16, 5, stride=2), DivisiveNorm(16), conv(16, 16, 5, stride=2)
        )
        self.hyper = nn.Sequential(conv(16, 16), nn.LeakyReLU(True), conv(16, 16, 5, stride=2))
        self.back = nn.ConvTranspose2d(16, 32, 5, 2, 2, 1)
        self.synthesis = nn.Sequential(
            nn.ConvTranspose2d(16, 16, 5, 2, 2, 1), DivisiveNorm(16, True),
            nn.ConvTranspose2d(16, 3, 5, 2, 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> dict:
        y = self.analysis(x)
        z = torch.round(self.hyper(y))
        scales, means = self.back(z).chunk(2, 1)
        quantised = torch.round(y - means) + means
        likelihood = 0.5 * torch.erfc(-(quantised - means).abs() / F.softplus(scales))
        return {"x_hat": self.synthesis(quantised), "likelihoods": {"y": likelihood}}


@dataclass
class Sample:
    sample: Tensor


class TimeBlock(nn.Module):
    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.norm, self.next = nn.GroupNorm(4, inside), nn.GroupNorm(4, out)
        self.first, self.second, self.time = conv(inside, out), conv(out, out), nn.Linear(8, out)
        self.skip = conv(inside, out, 1) if inside != out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.first(F.silu(self.norm(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.second(F.silu(self.next(y)))


class Diffusion(nn.Module):
    """diffusers' UNet2DModel: slices of lists of blocks, a step that is a number, a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 16)
        self.down = nn.ModuleList([TimeBlock(16, 16), TimeBlock(16, 32)])
        self.up = nn.ModuleList([TimeBlock(48, 16), TimeBlock(32, 16)])
        self.norm, self.last = nn.GroupNorm(4, 16), conv(16, 3)

    def forward(self, x: Tensor, step: int = 10) -> Sample:
        time = torch.tensor([step], dtype=torch.long, device=x.device).expand(x.shape[0])
        angles = time[:, None].float() * torch.exp(-torch.arange(4, device=x.device).float())
        time = torch.cat([angles.sin(), angles.cos()], -1).to(x.dtype)
        skips = [y := self.first(2 * x - 1.0)]
        for block in self.down[:-1]:
            skips.append(y := block(y, time))
        y = self.down[-1](F.avg_pool2d(y, 2), time)
        for block in self.up:
            skip = skips.pop()
            if y.shape[2:] != skip.shape[2:]:
                y = F.interpolate(y, scale_factor=2.0, mode="nearest")
            y = block(torch.cat([y, skip], 1), time)
        return Sample(self.last(F.silu(self.norm(y))))


def _instance(inside: int, out: int, norm: type, kind: type) -> nn.Sequential:
    layers = [kind(inside, out, 3, padding=1), norm(out, affine=True), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class BasicUNet(nn.Module):
    """MONAI's BasicUNet: instance normalisation everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _instance(1, 16, nn.InstanceNorm2d, nn.Conv2d)
        self.deep = _instance(16, 32, nn.InstanceNorm2d, nn.Conv2d)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.join, self.last = _instance(32, 16, nn.InstanceNorm2d, nn.Conv2d), conv(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.up(self.deep(F.max_pool2d(a, 2)))
        if a.shape != b.shape:
            b = F.pad(b, (0, a.shape[3] - b.shape[3], 0, a.shape[2] - b.shape[2]), "replicate")
        return self.last(self.join(torch.cat([a, b], 1)))


class Volume(nn.Module):
    """nnU-Net in three dimensions: no convolution of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _instance(1, 8, nn.InstanceNorm3d, nn.Conv3d)
        self.deep = nn.Conv3d(8, 16, 3, 2, 1)
        self.up, self.last = nn.ConvTranspose3d(16, 8, 2, 2), nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        return self.last(a + self.up(self.deep(a)))


class ConvNeXt(nn.Module):
    """ConvNeXt: a depthwise 7x7 convolution, layer norm over channels, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.norm, self.depth = nn.LayerNorm(16), conv(16, 16, 7, groups=16)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.gamma, self.head = nn.Parameter(torch.rand(16)), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.mlp(self.norm(self.depth(x).permute(0, 2, 3, 1)))
        x = x + (self.gamma * y).permute(0, 3, 1, 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """ESRGAN: dense blocks, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 16)
        self.dense = nn.ModuleList(conv(16 + 8 * i, 8 if i < 3 else 16) for i in range(4))
        self.up, self.last = conv(16, 16), conv(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        parts = [x]
        for layer in self.dense[:-1]:
            parts.append(F.leaky_relu(layer(torch.cat(parts, 1)), 0.2))
        x = self.dense[-1](torch.cat(parts, 1)) * 0.2 + x
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.last(F.leaky_relu(self.up(x), 0.2))


class Residual(nn.Module):
    """DRUNet: strided and transposed convolutions without bias, residual blocks, padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(4, 16, bias=False), conv(16, 3, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(c, c, bias=False), nn.ReLU(True), conv(c, c, bias=False))
            for c in (16, 32, 16)
        )
        self.down = nn.Conv2d(16, 32, 2, 2, bias=False)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.full((x.shape[0], 1, *x.shape[2:]), 0.1, dtype=x.dtype, device=x.device)
        x = self.first(
            F.pad(torch.cat((x, noise), 1), (0, x.shape[3] % 2, 0, x.shape[2] % 2), "replicate")
        )
        a = self.blocks[0](x) + x
        b = self.down(a)
        b = self.up(self.blocks[1](b) + b) + a
        return self.last(self.blocks[2](b) + b)


class Transposed(nn.Module):
    """Restormer: attention between channels, a gate of GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 16, bias=False), conv(16, 3, bias=False)
        self.norm, self.next = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.depth = conv(16, 48, 1, bias=False), conv(48, 48, groups=48, bias=False)
        self.out, self.feed, self.back = conv(16, 16, 1), conv(16, 64, 1), conv(32, 16, 1)
        self.mix, self.temperature = conv(64, 64, groups=64), nn.Parameter(torch.ones(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        y = self.first(x)
        z = self.norm(y.flatten(2).transpose(1, 2)).transpose(1, 2).view(n, 16, h, w)
        q, k, v = (t.reshape(n, 2, 8, h * w) for t in self.depth(self.qkv(z)).chunk(3, dim=1))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        y = y + self.out(((scores * self.temperature).softmax(-1) @ v).reshape(n, 16, h, w))
        z = self.next(y.flatten(2).transpose(1, 2)).transpose(1, 2).view(n, 16, h, w)
        a, b = self.mix(self.feed(z)).chunk(2, dim=1)
        return self.last(y + self.back(F.gelu(a) * b)) + x


@dataclass(frozen=True)
class Family:
    """``convolutions``: sites in 2-D; ``planned``: "whole", "parts" or "original"."""

    build: Callable[[], nn.Module]
    convolutions: int
    planned: str = "whole"
    shape: tuple[int, ...] = (1, 3, 16, 24)


FAMILIES = {
    "NAFNet": Family(GatedUNet, 22),
    "SwinIR": Family(SwinRestorer, 3),
    "SCUNet": Family(SwinConvUNet, 8),
    "SPAN": Family(Reparametrised, 3, "whole"),
    "CompressAI": Family(Hyperprior, 7),  # and two in GDN
    "UNet2D": Family(Diffusion, 13),
    "BasicUNet": Family(BasicUNet, 5, shape=(1, 1, 16, 24)),
    "nnU-Net 3-D": Family(Volume, 0, "original", (1, 1, 8, 8, 8)),
    "ConvNeXt": Family(ConvNeXt, 2),
    "ESRGAN": Family(Dense, 7),
    "DRUNet": Family(Residual, 10),
    "Restormer": Family(Transposed, 8),
}
