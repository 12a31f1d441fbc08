"""The script one would write: one gray picture through DXNet in PyTorch, channels_last.

python torch_one_image.py WEIGHTS.pth IN OUT SIGMA      what benchmarks/one_image.py compares with
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class DXNetS(nn.Module):
    """Two levels of 64 and 80 channels on the pixel-unshuffled image and a noise map."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(5, 64, 3, padding=1, bias=False)
        self.encoder = nn.Sequential(Block(64), Block(64))
        self.down = nn.Conv2d(64, 80, 2, stride=2, bias=False)
        self.bottom = nn.Sequential(Block(80), Block(80), Block(80))
        self.up = nn.ConvTranspose2d(80, 64, 2, stride=2, bias=False)
        self.decoder = nn.Sequential(Block(64), Block(64))
        self.tail = nn.Conv2d(64, 4, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        level = x.new_full((x.shape[0], 1, x.shape[2] // 2, x.shape[3] // 2), sigma / 255)
        fine = self.encoder(self.head(torch.cat([F.pixel_unshuffle(x, 2), level], 1)))
        coarse = self.bottom(self.down(fine))
        return x - F.pixel_shuffle(self.tail(self.decoder(fine + self.up(coarse))), 2)


def main() -> None:
    weights, source, target, sigma = sys.argv[1:5]
    model = DXNetS().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model = model.to(memory_format=torch.channels_last)
    image = np.asarray(Image.open(source).convert("L"))
    x = torch.from_numpy(image.copy())[None, None].float() / 255
    with torch.inference_mode():
        y = model(x.contiguous(memory_format=torch.channels_last), float(sigma))
    clean = (y[0, 0].clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(clean).save(target)


if __name__ == "__main__":
    main()
