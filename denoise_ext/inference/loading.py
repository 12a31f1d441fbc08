"""From a model's name or a checkpoint file to a network ready to run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from denoise_ext.inference.device import check_backend, choose_device
from denoise_ext.models import Denoiser, create_model, list_models
from denoise_ext.models._registry import IMPORT_HINT, has_model
from denoise_ext.models.checkpoints import load_checkpoint
from denoise_ext.nn import to_torch

logger = logging.getLogger("denoise_ext.inference")


def load_model(
    model: str | os.PathLike[str],
    device: str | torch.device | None = "auto",
    backend: str = "native",
) -> Denoiser:
    """A trained network, in eval mode, on `device`, weights in channels-last order.

    Args:
        model: a name of `denoise_ext.models.list_models(pretrained=True)`, or a checkpoint file
            (anything `load_checkpoint` reads). A registered name goes before a file of that name.
        device, backend: see `choose_device`.

    Raises:
        ValueError: neither a known name nor a file; a model without trained weights; a file that
            is not a readable checkpoint.
        RuntimeError: the device cannot be used, or shipped weights are damaged.
    """
    check_backend(backend)
    target = choose_device(device, backend)
    name = os.fspath(model)
    if has_model(name):
        network = create_model(name, pretrained=True)
    elif Path(name).exists():
        network = load_checkpoint(name)
    else:
        trained = ", ".join(list_models(pretrained=True)) or "none"
        raise ValueError(
            f"model {name!r} is neither a model's name nor an existing checkpoint file;"
            f" models with trained weights: {trained}. {IMPORT_HINT}"
        )
    if backend == "torch":
        network = to_torch(network)
    logger.info("loaded %s: %s on %s, %s layers", name, network.family, target, backend)
    return network.to(target, memory_format=torch.channels_last).eval()
