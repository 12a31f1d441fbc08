"""Build the network and the optimiser of a configuration."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from denoise_ext._modules import channels_last
from denoise_ext.data.random import WEIGHTS, step_seed
from denoise_ext.models import (
    Network,
    create_model,
    list_models,
    load_checkpoint,
    pretrained_info,
    read_metadata,
)
from denoise_ext.models.recognise import CheckpointError
from denoise_ext.models.registry import IMPORT_HINT, check_config, has_model, unknown_name
from denoise_ext.nn import to_torch
from denoise_ext.training.config import user_path
from denoise_ext.training.muon import Muon
from denoise_ext.training.schema import TrainConfig

_BYTES_PER_PARAMETER = 16  # the weight, its gradient, two running means of Adam; float32


def build_network(config: TrainConfig) -> tuple[Network, dict[str, Any] | None]:
    """The network with the weights training starts from, and how those were trained.

    Raises ValueError where model and start do not fit together.
    """
    start: dict[str, Any] | None = None
    if config.model.new:
        model, start = _extended(config)
    elif config.model.start:
        model, start = _started(config)
    else:
        options = _checked_options(config.model.name, config.model.options)
        model = create_model(config.model.name, **options)
    if not config.model.start:
        model.initialise(_weights_generator(config))
    if config.run.layers == "torch":
        model = cast("Network", to_torch(model))
    freeze(model, config.model.freeze)
    return channels_last(model).train(), start


def _started(config: TrainConfig) -> tuple[Network, dict[str, Any] | None]:
    name, start = config.model.name, config.model.start
    options: dict[str, Any] = dict(config.model.options)
    if name:
        _checked_options(name, options)
    if has_model(start):
        if name not in ("", start):
            raise ValueError(f"model.name is {name!r}, but model.start the model {start!r}")
        model = create_model(start, pretrained=True, **options)
        shipped = pretrained_info(start)
        assert shipped is not None  # create_model has found it
        return model, {"model": start, "sha256": shipped.sha256, "recipe": shipped.recipe}
    path = user_path(start)
    if not os.path.isfile(path):
        trained = ", ".join(list_models(pretrained=True)) or "none"
        raise ValueError(
            f"model.start: {start!r} is neither a model with trained weights nor a checkpoint file;"
            f" models with trained weights: {trained}. {IMPORT_HINT}"
        )
    if name:
        model = create_model(name, checkpoint_path=path, **options)
    else:
        model = load_checkpoint(path)
    try:
        return model, read_metadata(path)["training"]
    except CheckpointError:  # not written by save_model: published elsewhere, or a run's state
        return model, {"checkpoint": path.name}


def _extended(config: TrainConfig) -> tuple[Network, dict[str, Any] | None]:
    """The named network with the weights of ``model.start``; those of ``model.new`` are random."""
    options = _checked_options(config.model.name, config.model.options)
    model = create_model(config.model.name, **options)
    model.initialise(_weights_generator(config))
    plain = config.model.model_copy(update={"name": "", "options": {}, "new": []})
    source, start = _started(config.model_copy(update={"model": plain}))
    own = model.state_dict()
    new = {name for pattern in config.model.new for name in fnmatch.filter(own, pattern)}
    weights = source.state_dict()
    shapes = {name: value.shape for name, value in weights.items()}
    missing = {name for name, value in own.items() if shapes.get(name) != value.shape}
    if new != missing:
        wrong = min(new ^ missing)
        if wrong in shapes and wrong in own and wrong not in new:
            raise ValueError(
                f"model.start: {config.model.start!r} does not fit: {wrong!r} is "
                f"{tuple(shapes[wrong])}, and {tuple(own[wrong].shape)} in the network;"
                " model.new names what begins anew"
            )
        raise ValueError(
            f"model.new: {config.model.new} must name what {config.model.start!r} does not hold "
            f"and nothing else; {wrong!r} is {'in it' if wrong in new else 'missing'}"
        )
    kept = {name: value for name, value in weights.items() if name not in new}
    try:
        model.load_state_dict({**own, **kept})
    except RuntimeError as error:  # other names, other shapes: torch lists them, a line each
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"model.start: {config.model.start!r} does not fit: {reason}") from None
    return model, start


def _weights_generator(config: TrainConfig) -> torch.Generator:
    return torch.Generator().manual_seed(step_seed(config.run.seed, 0, WEIGHTS))


def _checked_options(name: str, given: Mapping[str, object]) -> dict[str, Any]:
    """Build the network without data: ValueError where that, or its training, cannot be."""
    if not has_model(name):
        raise ValueError(f"model.name: {unknown_name('model', name, list_models())}")
    options: dict[str, Any] = dict(given)
    for weights in ("pretrained", "checkpoint_path"):
        if weights in options:
            raise ValueError(f"model.options: {weights} is no option; model.start names weights")
    try:
        with torch.device("meta"):
            model = create_model(name, **options)
        count = sum(p.numel() for p in model.parameters())
        check_config(model)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model.options: {error}") from None
    except (RuntimeError, OverflowError):  # sizes beyond 64 bits; torch's words for it are many
        raise ValueError(f"model.options: no network is as large as {options}") from None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = count * _BYTES_PER_PARAMETER
    if needed > memory:
        raise ValueError(
            f"model.options: {count / 1e9:.1f} * 10^9 parameters of {options} need "
            f"{needed / 1e9:.0f} GB to be trained, and this machine has {memory / 1e9:.0f} GB"
        )
    return options


def freeze(model: nn.Module, patterns: list[str]) -> None:
    """Take the parameters that ``patterns`` name out of training.

    Raises ValueError for a pattern that names none, and where none is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            raise ValueError(f"model.freeze: {pattern!r} names no parameter; there are {shown}")
        frozen.update(matching)
    if len(frozen) == len(names):
        raise ValueError(f"model.freeze: {patterns} leaves no parameter to train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def build_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam or Muon over the parameters that train, weight decay on matrices and kernels alone."""
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decay if parameter.dim() > 1 else plain).append(parameter)
    options = config.optimiser
    # Biases and normalisation are left free.
    groups = [
        {"params": decay, "weight_decay": config.loss.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    common: dict[str, Any] = {
        "lr": config.schedule.peak, "betas": (options.beta1, options.beta2), "eps": options.eps
    }  # fmt: skip
    groups = [group for group in groups if group["params"]]
    decoupled = config.loss.decay == "decoupled"
    if options.name == "muon":
        return Muon(groups, decoupled=decoupled, **common)
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(groups, **common)
