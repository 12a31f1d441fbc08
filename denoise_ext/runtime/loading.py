"""From a model's name or a checkpoint file to a network ready to run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from denoise_ext._suggestions import did_you_mean
from denoise_ext.models import Network, create_model, list_models, pretrained_info
from denoise_ext.models.checkpoints import load_checkpoint
from denoise_ext.models.registry import IMPORT_HINT, has_model
from denoise_ext.nn import to_torch
from denoise_ext.runtime.device import check_backend, choose_device
from denoise_ext.runtime.families import is_family, member

logger = logging.getLogger("denoise_ext.tasks")


def check_name(model: str | os.PathLike[str] | None) -> None:
    """Raise ValueError unless a model or family with weights, or a file, has this name.

    None, which stands for the shipped models, is one of them.
    """
    if model is None:
        return
    name = os.fspath(model)
    known = has_model(name) or is_family(name)
    names = [name] if has_model(name) else [member(name, 1), member(name, 3)]
    if known and all(pretrained_info(one) is not None for one in names):
        return
    if not known and Path(name).exists():
        return
    trained = list_models(pretrained=True)
    pairs = {one.rpartition("_")[0] for one in trained}
    families = sorted(pair for pair in pairs if is_family(pair))
    what = (
        "ships without weights"
        if known
        else "is neither a model's name nor an existing checkpoint file"
    )
    raise ValueError(
        f"model {name!r} {what}{did_you_mean(name, [*trained, *families])}; models with trained"
        f" weights: {', '.join(trained) or 'none'}. {IMPORT_HINT}"
    )


def load_model(
    model: str | os.PathLike[str],
    device: str | torch.device | None = "auto",
    backend: str = "native",
) -> Network:
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
    check_name(name)
    if is_family(name):
        raise ValueError(
            f"model {name!r} is a family: name {member(name, 1)} (gray) or {member(name, 3)} (RGB)"
        )
    if has_model(name):
        network = create_model(name, pretrained=True)
    else:
        network = load_checkpoint(name)
    if backend == "torch":
        network = to_torch(network)
    logger.info("loaded %s: %s on %s, %s layers", name, network.family, target, backend)
    return network.to(target, memory_format=torch.channels_last).eval()
