"""Swap layers between this package and plain :mod:`torch.nn`, keeping the ``state_dict`` keys."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from denoise_ext import reference
from denoise_ext.nn.conv import (
    Conv2d,
    ConvReLU2d,
    ConvTranspose2d,
    ConvTransposeReLU2d,
    activation_repr,
)
from denoise_ext.nn.filters import (
    BilateralBlur,
    BilateralOptions,
    GaussianBlur2d,
    GaussianOptions,
    JointBilateralBlur,
)
from denoise_ext.nn.motion import BlockMatch, BlockWarp, RecurrentFuse
from denoise_ext.nn.norm import (
    GroupNorm,
    InstanceNorm2d,
    LayerNorm2d,
    TorchGroupNorm,
    TorchInstanceNorm2d,
    TorchLayerNorm2d,
)
from denoise_ext.reference.activation import apply_activation


class TorchConv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` and a ``torch.nn.functional`` activation: what ``to_torch`` puts in."""

    activation: str
    negative_slope: float
    prelu_weight: nn.Parameter | None
    precision: str  # of the layer that it was made from

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``act(conv(input) + bias + residual)``."""
        output = super().forward(input)
        if residual is not None:
            output = output + residual
        # In place, as in torch.nn.ReLU(inplace=True): nobody else has this tensor, and a
        # convolution's gradient does not need its output.
        slope, weight = self.negative_slope, self.prelu_weight
        return apply_activation(output, self.activation, slope, weight, inplace=True)

    def extra_repr(self) -> str:
        """torch.nn's text and the activation."""
        return super().extra_repr() + activation_repr(self)


class TorchConvTranspose2d(nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` and a ``torch.nn.functional`` activation."""

    activation: str
    negative_slope: float
    prelu_weight: nn.Parameter | None
    precision: str  # of the layer that it was made from

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return ``act(conv_transpose(input) + bias)``, of ``output_size`` where that is given."""
        output = super().forward(input, output_size)
        slope, weight = self.negative_slope, self.prelu_weight
        return apply_activation(output, self.activation, slope, weight, inplace=True)

    def extra_repr(self) -> str:
        """torch.nn's text and the activation."""
        return super().extra_repr() + activation_repr(self)


class TorchGaussianBlur2d(GaussianBlur2d):
    """:class:`GaussianBlur2d` computed by :mod:`denoise_ext.reference`."""

    def _filter(self, input: Tensor, *options: *GaussianOptions) -> Tensor:
        return reference.gaussian_blur2d(input, *options)


class TorchBilateralBlur(BilateralBlur):
    """:class:`BilateralBlur` computed by :mod:`denoise_ext.reference`."""

    def _filter(self, input: Tensor, *options: *BilateralOptions) -> Tensor:
        return reference.bilateral_blur(input, *options)


class TorchJointBilateralBlur(JointBilateralBlur):
    """:class:`JointBilateralBlur` computed by :mod:`denoise_ext.reference`."""

    def _filter(self, input: Tensor, guidance: Tensor, *options: *BilateralOptions) -> Tensor:
        return reference.joint_bilateral_blur(input, guidance, *options)


class TorchBlockMatch(BlockMatch):
    """:class:`BlockMatch` computed by :mod:`denoise_ext.reference`."""

    def forward(self, input: Tensor, previous: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """See :class:`BlockMatch`."""
        return reference.block_match(input, previous, sigma)


class TorchBlockWarp(BlockWarp):
    """:class:`BlockWarp` computed by :mod:`denoise_ext.reference`."""

    def forward(self, input: Tensor, motion: Tensor) -> Tensor:
        """See :class:`BlockWarp`."""
        return reference.block_warp(input, motion)


class TorchRecurrentFuse(RecurrentFuse):
    """:class:`RecurrentFuse` computed by :mod:`denoise_ext.reference`."""

    def forward(
        self, input: Tensor, previous: Tensor, gate: Tensor, level: float | Tensor
    ) -> Tensor:
        """See :class:`RecurrentFuse`."""
        return reference.recurrent_fuse(input, previous, gate, level)


def _to_torch_conv(
    plain: type[nn.Module], fused: type[nn.Module]
) -> Callable[[nn.Module], type[nn.Module]]:
    def target(module: nn.Module) -> type[nn.Module]:
        return plain if module.activation == "none" else fused

    return target


# The class a layer becomes, by its exact class: a user's subclass may do more in its forward.
_TO_TORCH: dict[type[nn.Module], Callable[[nn.Module], type[nn.Module]]] = {
    Conv2d: _to_torch_conv(nn.Conv2d, TorchConv2d),
    ConvReLU2d: _to_torch_conv(nn.Conv2d, TorchConv2d),
    ConvTranspose2d: _to_torch_conv(nn.ConvTranspose2d, TorchConvTranspose2d),
    ConvTransposeReLU2d: _to_torch_conv(nn.ConvTranspose2d, TorchConvTranspose2d),
    GaussianBlur2d: lambda module: TorchGaussianBlur2d,
    BilateralBlur: lambda module: TorchBilateralBlur,
    JointBilateralBlur: lambda module: TorchJointBilateralBlur,
    BlockMatch: lambda module: TorchBlockMatch,
    BlockWarp: lambda module: TorchBlockWarp,
    RecurrentFuse: lambda module: TorchRecurrentFuse,
    LayerNorm2d: lambda module: TorchLayerNorm2d,
    GroupNorm: lambda module: TorchGroupNorm,
    InstanceNorm2d: lambda module: TorchInstanceNorm2d,
}
_FROM_TORCH: dict[type[nn.Module], Callable[[nn.Module], type[nn.Module]]] = {
    nn.Conv2d: lambda module: Conv2d,
    TorchConv2d: lambda module: Conv2d,
    nn.ConvTranspose2d: lambda module: ConvTranspose2d,
    TorchConvTranspose2d: lambda module: ConvTranspose2d,
    TorchGaussianBlur2d: lambda module: GaussianBlur2d,
    TorchBilateralBlur: lambda module: BilateralBlur,
    TorchJointBilateralBlur: lambda module: JointBilateralBlur,
    TorchBlockMatch: lambda module: BlockMatch,
    TorchBlockWarp: lambda module: BlockWarp,
    TorchRecurrentFuse: lambda module: RecurrentFuse,
    TorchLayerNorm2d: lambda module: LayerNorm2d,
    TorchGroupNorm: lambda module: GroupNorm,
    TorchInstanceNorm2d: lambda module: InstanceNorm2d,
}
_ACTIVATED = (Conv2d, ConvTranspose2d, TorchConv2d, TorchConvTranspose2d)
_PLAIN = (nn.Conv2d, nn.ConvTranspose2d)


def _convert(
    model: nn.Module, table: dict[type[nn.Module], Callable[[nn.Module], type[nn.Module]]]
) -> nn.Module:
    # The classes of a pair have the same attributes, parameters and hooks and differ in forward and
    # the activation alone.  Changing the class of the copy therefore keeps everything a user may
    # have hung on a layer: hooks, tied weights, requires_grad, training mode.
    model = copy.deepcopy(model)
    for module in model.modules():
        choose = table.get(type(module))
        if choose is None:
            continue
        module.__class__ = choose(module)
        if isinstance(module, _ACTIVATED):
            if not hasattr(module, "activation"):
                module.activation, module.negative_slope = "none", 0.01
                module.precision = "default"
                module.register_parameter("prelu_weight", None)
        elif isinstance(module, _PLAIN) and hasattr(module, "activation"):
            del module.activation, module.negative_slope, module.precision, module.prelu_weight
    return model


def to_torch(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which this package's layers are plain :mod:`torch.nn` ones.

    A convolution becomes ``torch.nn.Conv2d``/``ConvTranspose2d``, or a small subclass of it that
    applies the activation with :mod:`torch.nn.functional`; a filter becomes one computed by
    :mod:`denoise_ext.reference`.  ``state_dict`` keys, hooks, tied weights, devices and dtypes
    stay.  The copy runs on any device of PyTorch and needs no native library.

    Args:
        model: any module; one layer alone works too.

    Raises:
        TypeError: ``model`` holds a subclass of one of this package's layers (a parametrised layer
            is one), which only its author can translate.

    Example:
        >>> fast = torch.nn.Sequential(denoise_ext.nn.Conv2d(3, 8, 3, activation="relu"))
        >>> plain = denoise_ext.nn.to_torch(fast)
        >>> plain.state_dict().keys() == fast.state_dict().keys()
        True
    """
    _check_module(model)
    own = tuple(_TO_TORCH)
    for name, module in model.named_modules():
        known = type(module) in _TO_TORCH or type(module) in _FROM_TORCH
        if isinstance(module, own) and not known:
            raise TypeError(
                f"model: layer {name or '(the model itself)'!r} is a {type(module).__name__}, a "
                "subclass of a denoise_ext layer that to_torch cannot convert; remove "
                "parametrisations first, or replace the layer by hand"
            )
    return _convert(model, _TO_TORCH)


def from_torch(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose ``torch.nn.Conv2d`` and ``ConvTranspose2d`` are this package's.

    Only layers of exactly these classes (and those ``to_torch`` made) are swapped: a subclass may
    do something else in its ``forward``.  ``state_dict`` keys, hooks and tied weights stay.

    Args:
        model: any module; one layer alone works too.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> fast = denoise_ext.nn.from_torch(network)
        >>> x = torch.rand(1, 3, 32, 32)
        >>> torch.allclose(fast(x), network(x), atol=1e-4)
        True
    """
    _check_module(model)
    return _convert(model, _FROM_TORCH)


def _check_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


__all__ = ["from_torch", "to_torch"]
