"""The script one would write: a folder through a DnCNN in PyTorch, channels_last, file by file.

python torch_folder.py WEIGHTS.pth IN OUT      what benchmarks/throughput.py compares with
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn


class DnCNN(nn.Module):
    """Zhang et al. 2017, batch normalisation folded into the convolutions."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [channels] + [width] * (depth - 1) + [channels]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.layers(x)


def main() -> None:
    weights, source, target = sys.argv[1:4]
    state = torch.load(weights, weights_only=True)
    channels, width = state["layers.0.weight"].shape[1], state["layers.0.weight"].shape[0]
    depth = sum(name.endswith("weight") for name in state)
    model = DnCNN(channels, width, depth).eval().to(memory_format=torch.channels_last)
    model.load_state_dict(state)
    Path(target).mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    files = sorted(Path(source).iterdir())
    with torch.inference_mode():
        for file in files:
            image = np.asarray(Image.open(file).convert("RGB"))
            x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
            y = model(x.contiguous(memory_format=torch.channels_last))
            clean = (y[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(clean).save(Path(target) / file.name)
    print(json.dumps({"images": len(files), "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
