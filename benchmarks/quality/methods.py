"""What is measured: our networks, checkpoint files, filters (`filters`)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from denoise_ext import models
from denoise_ext.runtime import load_model
from denoise_ext.runtime.model_names import image_models
from denoise_ext.tasks import Denoiser
from denoise_ext.tasks.evaluation import Method as Call

NETWORK, CHECKPOINT, FILTER, NOTHING = "network", "published checkpoint", "filter", "nothing"
_CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Method:
    """One way to denoise images of `channels` channels."""

    name: str
    kind: str
    channels: int
    call: Call
    # Whenever the figures may change, so does this: the SHA-256 of weights, or what a filter does.
    identity: str
    parameters: int | None = None
    file_bytes: int | None = None
    # The only noise level it was trained for, on the 0-255 scale; None: it is measured at all.
    only_sigma: float | None = None


@dataclass(frozen=True)
class Skipped:
    """What is not in the table, and why."""

    name: str
    reason: str


def noisy_image(channels: int) -> Method:
    """The noisy image itself."""
    return Method("noisy image", NOTHING, channels, lambda noisy, sigma: noisy, "noisy image")


def shipped_networks() -> list[Method]:
    """Every image denoiser with trained weights in the package."""
    found = []
    for name in image_models():
        weights = models.pretrained_info(name)
        found.append(_network(name, NETWORK, name, weights.path, None))
    return found


def published_checkpoints(folder: Path) -> tuple[list[Method], list[Skipped]]:
    """Every checkpoint file of a folder, and those that cannot be measured.

    A blind network whose name ends in a number, as KAIR's ``dncnn_25``, was trained for this noise
    level alone.
    """
    if not folder.is_dir():
        return [], [Skipped("published checkpoints", f"there is no folder {folder}")]
    found: list[Method] = []
    skipped: list[Skipped] = []
    for file in sorted(folder.iterdir()):
        if file.suffix not in _CHECKPOINT_SUFFIXES or not file.is_file():
            continue
        level = re.search(r"_(\d+)$", file.stem)
        try:
            method = _network(file.name, CHECKPOINT, str(file), file, level and float(level[1]))
        except ValueError as error:  # not a checkpoint, or of no network that is known
            skipped.append(Skipped(file.name, str(error)))
        else:
            found.append(method)
    if not (found or skipped):
        skipped = [Skipped("published checkpoints", f"{folder} holds none")]
    return found, skipped


def _network(name: str, kind: str, model: str, file: Path, level: float | None) -> Method:
    """A network as ``denoise-ext evaluate --device cpu`` runs it: by one `Denoiser`."""
    network = load_model(model, "cpu")
    if network.in_channels not in (1, 3):
        raise ValueError(f"{file}: the network takes {network.in_channels} channels, not 1 or 3")
    denoiser = Denoiser(network)
    try:
        denoiser(torch.full((1, network.in_channels, 32, 32), 0.5), 25.0)
    except RuntimeError as error:  # its output is not finite
        raise ValueError(f"{file}: {error}") from error
    data = file.read_bytes()
    return Method(
        name, kind, network.in_channels, denoiser, hashlib.sha256(data).hexdigest(),
        sum(p.numel() for p in network.parameters()), len(data),
        None if network.needs_sigma else level,
    )  # fmt: skip
