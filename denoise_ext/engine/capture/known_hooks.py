"""Hooks that compute a weight before each call, of what a guard watches: no reason not to plan."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def has_unknown_hooks(module: nn.Module) -> bool:
    """Whether calls of this module must go through its own ``__call__``."""
    if module._forward_hooks:
        return True
    return bool(module._forward_pre_hooks) and None in map(_weight_of, _hooks(module))


def computed_weights(module: nn.Module) -> frozenset[str]:
    """Names of the attributes that the known hooks of ``module`` set."""
    if not module._forward_pre_hooks:
        return frozenset()
    return frozenset(filter(None, map(_weight_of, _hooks(module))))


def _hooks(module: nn.Module) -> list[object]:
    return list(module._forward_pre_hooks.values())


def _weight_of(hook: object) -> str | None:
    if type(hook) in (WeightNorm, SpectralNorm):
        return hook.name
    # Subclasses choose the mask; what a call does is the same.
    if isinstance(hook, BasePruningMethod) and type(hook).__call__ is BasePruningMethod.__call__:
        return hook._tensor_name
    return None
