"""A whole network: what a user sees of all of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denoise_ext import nn as dn
from harness.cases import channels_last, uniform
from harness.networks import randomise
from on_gpu.cases import KernelCase, Tensors, Way

DEPTH, WIDTH = 17, 64


def _dncnn(device: torch.device) -> nn.Sequential:
    """The layers of a DnCNN for gray images, with batch normalisation folded."""
    layers = [dn.Conv2d(1, WIDTH, 3, padding=1, activation="relu")]
    layers += [dn.Conv2d(WIDTH, WIDTH, 3, padding=1, activation="relu") for _ in range(DEPTH - 2)]
    layers += [dn.Conv2d(WIDTH, 1, 3, padding=1)]
    network = randomise(nn.Sequential(*layers)).requires_grad_(False)
    return network.to(device, torch.float16).to(memory_format=torch.channels_last)


def network_cases() -> list[KernelCase]:
    networks: dict[str, nn.Module] = {}

    def make(s: tuple[int, int, int, int], device: torch.device, seed: int) -> Tensors:
        if not networks:
            networks["ours"] = _dncnn(device)
            networks["torch"] = dn.to_torch(networks["ours"])
        return {"x": channels_last(uniform(s, device, seed).half())}

    def theirs(t: Tensors) -> Tensor:
        return networks["torch"](t["x"])

    weights = WIDTH * 9 * 2 + (DEPTH - 2) * WIDTH * WIDTH * 9
    # Between layers every value is written once and read once.
    values = 2 + (DEPTH - 1) * WIDTH * 2
    return [
        KernelCase(
            f"DnCNN-{DEPTH} gray 1080p, float16, channels_last", "network", "conv2d",
            (1, 1, 1080, 1920), (1, 1, 5, 7), torch.float16, make,
            lambda t: networks["ours"](t["x"]),
            {
                "torch eager channels_last": Way(theirs),
                "torch.compile": Way(theirs, compiled=True),
            },
            lambda s: 2 * s[2] * s[3] * values,
            lambda s: 2 * s[2] * s[3] * weights,
        )
    ]  # fmt: skip
