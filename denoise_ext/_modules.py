"""Calls of `torch.nn.Module` whose stubs say less than the method does."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def channels_last(model: ModuleT, device: torch.device | None = None) -> ModuleT:
    """Move ``model`` itself to ``device``, its 4-D weights in channels-last order."""
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stub
    return model
