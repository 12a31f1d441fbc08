"""Named models with their weights."""

from __future__ import annotations

from contextlib import nullcontext
from os import PathLike
from typing import Any

import torch

from denoise_ext.models.checkpoints import load_checkpoint
from denoise_ext.models.network import Network
from denoise_ext.models.registry import build_named, list_models, pretrained_info


def create_model(
    name: str,
    pretrained: bool = False,
    checkpoint_path: str | PathLike[str] | None = None,
    **kwargs: Any,
) -> Network:
    """Build a model by name.

    Args:
        name: one of :func:`list_models`.
        pretrained: load the shipped weights (checked against their SHA-256); eval mode.
        checkpoint_path: load these weights instead (see ``load_checkpoint``); they must fit the
            named model and ``kwargs``; eval mode.
        **kwargs: changes to the model's default configuration, e.g. ``channels=3, depth=20``.

    Raises:
        ValueError: unknown name (with the closest known ones) or option, no shipped weights,
            weights that do not fit.
        TypeError: the registered function returned no :class:`Network`.
        RuntimeError: the shipped file is missing or damaged.

    Example:
        >>> network = denoise_ext.models.create_model("dxnet_s_gray", pretrained=True)
        >>> small = denoise_ext.models.create_model("dncnn_gray", depth=5, width=16)  # not trained
    """
    if pretrained and checkpoint_path is not None:
        raise ValueError("pretrained=True and checkpoint_path exclude each other")
    loads = pretrained or checkpoint_path is not None
    # A model whose weights are loaded is built for its configuration only.
    with torch.device("meta") if loads else nullcontext():
        model = build_named(name, **kwargs)
    if pretrained:
        entry = pretrained_info(name)
        if entry is None:
            have = ", ".join(list_models(pretrained=True)) or "none"
            raise ValueError(f"model {name!r} ships without weights; with weights: {have}")
        entry.verify()
        checkpoint_path = entry.path
    if checkpoint_path is None:
        return model
    return _load_into(model, checkpoint_path, f"model {name!r}")


def _load_into(model: Network, path: str | PathLike[str], what: str) -> Network:
    loaded = load_checkpoint(path)
    different = [
        f"{key} is {loaded.config.get(key)!r}, wanted {value!r}"
        for key, value in model.for_inference().config.items()
        if loaded.config.get(key) != value
    ]
    if different:
        raise ValueError(f"checkpoint {path} does not fit {what}: {'; '.join(different)}")
    return loaded
