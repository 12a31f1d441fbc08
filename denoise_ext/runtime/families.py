"""Names that stand for two networks: "dxnet_s" for dxnet_s_gray and dxnet_s_color."""

from __future__ import annotations

from typing import Any

from denoise_ext.models.registry import has_model

_DEFAULT = "dxnet_s"
_SUFFIXES = {1: "gray", 3: "color"}


def is_family(model: Any) -> bool:
    """Whether `model` is the name of a family, or None, which stands for the default."""
    return model is None or (
        isinstance(model, str)
        and not has_model(model)
        and all(has_model(f"{model}_{suffix}") for suffix in _SUFFIXES.values())
    )


def member(model: Any, channels: int) -> Any:
    """What `model` stands for with images of `channels` channels (alpha not counted): 1 or 3.

    Anything but a family is returned as it is.
    """
    if not is_family(model):
        return model
    if channels not in _SUFFIXES:
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB), got {channels!r}")
    return f"{model or _DEFAULT}_{_SUFFIXES[channels]}"


def default_model(channels: int) -> str:
    """The shipped model for images of `channels` channels (alpha not counted): 1 or 3."""
    return member(None, channels)
