"""From a model's name, a checkpoint file or a network to a network ready to run.

Some names stand for two networks: "dxnet_s" for dxnet_s_gray and dxnet_s_color.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from denoise_ext._log import get_logger
from denoise_ext._modules import channels_last
from denoise_ext._suggestions import did_you_mean
from denoise_ext.engine import Accelerated
from denoise_ext.models import (
    ImageDenoiser,
    Network,
    create_model,
    interpolate,
    list_models,
    load_checkpoint,
    pretrained_info,
)
from denoise_ext.models.registry import IMPORT_HINT, build_named, has_model
from denoise_ext.nn import to_torch
from denoise_ext.runtime.device import check_backend, choose_device
from denoise_ext.runtime.session import place_of, planned

logger: logging.Logger = get_logger("denoise_ext.tasks")

Model = Network | Accelerated | nn.Module | str | os.PathLike[str] | None

DEFAULT = "dxnet_s"
_SUFFIXES = {1: "gray", 3: "color"}


def is_family(model: Any) -> bool:
    """Whether `model` is the name of a family, or None, the default family."""
    return model is None or (
        isinstance(model, str)
        and not has_model(model)
        and all(has_model(f"{model}_{suffix}") for suffix in _SUFFIXES.values())
    )


def member(model: Any, channels: int) -> Any:
    """Return the member of the family `model` for images of `channels` channels: 1 or 3.

    Alpha does not count. Anything but a family is returned unchanged.
    """
    if not is_family(model):
        return model
    if channels not in _SUFFIXES:
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB), got {channels!r}")
    return f"{model or DEFAULT}_{_SUFFIXES[channels]}"


def default_model(channels: int) -> str:
    """The shipped model for images of `channels` channels (alpha not counted): 1 or 3.

    Example:
        >>> denoise_ext.runtime.default_model(1), denoise_ext.runtime.default_model(3)
        ('dxnet_s_gray', 'dxnet_s_color')
    """
    return member(None, channels)


def image_models() -> list[str]:
    """The models with trained weights that denoise images; those of video are left out."""
    with torch.device("meta"):
        networks = {name: build_named(name) for name in list_models(pretrained=True)}
    return [name for name, network in networks.items() if isinstance(network, ImageDenoiser)]


def check_name(model: str | os.PathLike[str] | None) -> None:
    """Raise ValueError unless a model or family with weights, or a file, has this name.

    None, the shipped models, passes.
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

    Example:
        >>> network = denoise_ext.runtime.load_model("dxnet_s_gray", device="cpu")
        >>> network.training
        False
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
        network = cast("Network", to_torch(network))
    logger.info("loaded %s: %s on %s, %s layers", name, network.family, target, backend)
    return channels_last(network, target).eval()


def open_network(
    model: Model = None,
    device: str | torch.device | None = "auto",
    precision: str | None = None,
    backend: str = "native",
    *,
    channels: int,
) -> Network | Accelerated:
    """Return the network that `model` names, in eval mode.

    Args:
        model: a network (also accelerated), an argument of `load_model`, or the name of a family
            ("dxnet_s"). None: the shipped network for images of `channels` channels.
        device, backend: see `choose_device`; a network that is passed in stays where it is, and
            `device` must be "auto", None or that device.
        precision: one of `PRECISIONS`, to be planned where that is possible; None: as it is.
        channels: of the images, 1 or 3; it decides between the members of a family alone.

    Raises:
        TypeError, ValueError, RuntimeError: an argument that does not fit, or cannot be used.

    Example:
        >>> planned = denoise_ext.runtime.open_network("dxnet_s", precision="default", channels=3)
        >>> planned.original.in_channels
        3
    """
    check_backend(backend)
    model = member(model, channels)
    if isinstance(model, (str, os.PathLike)):
        network: Network | Accelerated = load_model(model, device, backend)
    else:
        network = _checked_network(model, device)
    if precision is None or backend != "native":
        return network
    return planned(network, precision)


def open_textured(
    model: Model,
    texture: float,
    device: str | torch.device | None = "auto",
    backend: str = "native",
) -> Network:
    """The network that a name means, interpolated with the one trained for natural fine detail.

    Args:
        model: a shipped model's name, or None: the default one. Of a family the colour network
            serves gray images, too.
        texture: 0: the model itself; 1: the other one (`models.interpolate`).
        device, backend: as of `load_model`.

    Raises:
        ValueError: a model without such a partner (`check_textured`).
    """
    name, partner = check_textured(model)
    first, second = (load_model(one, device, backend) for one in (name, partner))
    return channels_last(interpolate(first, second, texture)).eval()


def check_textured(model: Any) -> tuple[str, str]:
    """The names of the networks that `open_textured` interpolates; ValueError if there is none."""
    name = member(model, 3)
    known = isinstance(name, str) and name in list_models(pretrained=True)
    shipped = pretrained_info(name) if known else None
    if shipped is None or not shipped.textured:
        having = [n for n in list_models(pretrained=True) if _textured(n)]
        given = repr(name) if isinstance(name, (str, os.PathLike)) else type(name).__name__
        raise ValueError(
            f"texture: model {given} has no partner with natural detail; with one:"
            f" {', '.join(having) or 'none'}"
        )
    return name, shipped.textured


def named_texture(model: Model, texture: float) -> tuple[Model, float]:
    """Model and texture, where the name is that of a partner with texture: 1 of the other.

    Raises:
        ValueError: such a name with a texture between 0 and 1.
    """
    for name in list_models(pretrained=True):
        if _textured(name) and _textured(name) == model:
            if texture not in (0, 1):
                raise ValueError(
                    f"texture: model {model!r} is texture 1 of {name!r}, which takes others, got"
                    f" {texture!r}"
                )
            return name, 1.0
    return model, texture


def _textured(name: str) -> str:
    shipped = pretrained_info(name)
    return shipped.textured if shipped else ""


def _checked_network(model: Any, device: str | torch.device | None) -> Network | Accelerated:
    network = original_of(model)
    if not isinstance(network, Network):
        raise TypeError(
            "model must be a denoise_ext model, a torch.nn.Module, a name or a path, got"
            f" {type(model).__name__}"
        )
    if network.training:
        raise ValueError("model is in training mode; call model.eval() first")
    if device not in (None, "auto"):
        place, wanted = place_of(network)[0], choose_device(device, "torch")
        if wanted.type != place.type or wanted.index not in (None, place.index):
            raise ValueError(f"model is on {place}, but device is {str(device)!r}")
    return model


def original_of(model: Any) -> Any:
    """The network that an accelerated one was made from; anything else as it is."""
    return model.original if isinstance(model, Accelerated) else model
