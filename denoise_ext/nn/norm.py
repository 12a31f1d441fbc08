"""Normalisation layers: constructors and ``state_dict`` keys of :mod:`torch.nn`, an activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.types import Device

from denoise_ext import ops, reference
from denoise_ext._norm_arguments import check_norm_activation
from denoise_ext.nn.conv import activation_text
from denoise_ext.reference.activation import apply_activation


class LayerNorm2d(nn.Module):
    """Normalise each pixel over its channels (see :func:`denoise_ext.ops.layer_norm2d`).

    Args:
        num_channels: C.
        eps: added to the variance, at least 0.
        affine: give the layer the parameters ``weight`` and ``bias`` (C,), ones and zeros.
        activation: as in :class:`Conv2d`, but not ``"prelu"``.
        negative_slope: slope of ``leaky_relu`` below zero, at least 0.

    Shape:
        input (N, C, H, W) or (C, H, W); output the same. Another C is a ValueError.

    Example:
        >>> layer = denoise_ext.nn.LayerNorm2d(16, activation="gelu")
        >>> layer(torch.rand(1, 16, 8, 8)).shape
        torch.Size([1, 16, 8, 8])
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_channels: int = num_channels
        self.eps: float = eps
        self.activation: str = check_norm_activation(activation, negative_slope)
        self.negative_slope: float = float(negative_slope)
        weight = bias = None
        if affine:
            weight = nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype))
            bias = nn.Parameter(torch.zeros(num_channels, device=device, dtype=dtype))
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``input``."""
        self._check_channels(input)
        return ops.layer_norm2d(
            input, self.weight, self.bias, self.eps, activation=self.activation,
            negative_slope=self.negative_slope,
        )  # fmt: skip

    def _check_channels(self, input: Tensor) -> None:
        if isinstance(input, Tensor) and input.shape[-3:-2] not in ((), (self.num_channels,)):
            raise ValueError(
                f"input must have {self.num_channels} channels, got shape {tuple(input.shape)}"
            )

    def extra_repr(self) -> str:
        """The layer's settings."""
        text = f"{self.num_channels}, eps={self.eps}, affine={self.weight is not None}"
        return text + activation_text(self.activation, self.negative_slope)


class GroupNorm(nn.GroupNorm):
    """:class:`torch.nn.GroupNorm` followed by an activation.

    The arguments up to ``dtype`` are those of :class:`torch.nn.GroupNorm`.  ``activation`` and
    ``negative_slope`` are those of :class:`LayerNorm2d`.

    Shape:
        input (N, C, H, W), or (N, C, ...) of other sizes, which PyTorch computes; output the same.

    Example:
        >>> layer = denoise_ext.nn.GroupNorm(4, 16, activation="silu")
        >>> layer(torch.rand(1, 16, 8, 8)).shape
        torch.Size([1, 16, 8, 8])
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        self.activation: str = check_norm_activation(activation, negative_slope)
        self.negative_slope: float = float(negative_slope)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``input``."""
        if input.dim() != 4:
            return apply_activation(super().forward(input), self.activation, self.negative_slope)
        return ops.group_norm(
            input, self.num_groups, self.weight, self.bias, self.eps, activation=self.activation,
            negative_slope=self.negative_slope,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """torch.nn's text and the activation."""
        return super().extra_repr() + activation_text(self.activation, self.negative_slope)


class InstanceNorm2d(nn.InstanceNorm2d):
    """:class:`torch.nn.InstanceNorm2d` followed by an activation.

    The arguments up to ``dtype`` are those of :class:`torch.nn.InstanceNorm2d`.  With
    ``track_running_stats=True`` PyTorch computes the result.  ``activation`` and
    ``negative_slope`` are those of :class:`LayerNorm2d`.

    Shape:
        input (N, C, H, W) or (C, H, W); output the same.

    Example:
        >>> layer = denoise_ext.nn.InstanceNorm2d(16, activation="leaky_relu")
        >>> layer(torch.rand(1, 16, 8, 8)).shape
        torch.Size([1, 16, 8, 8])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype
        )  # fmt: skip
        self.activation: str = check_norm_activation(activation, negative_slope)
        self.negative_slope: float = float(negative_slope)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``input``."""
        if self.track_running_stats:
            return apply_activation(super().forward(input), self.activation, self.negative_slope)
        # Without weights any number of channels is taken, as by torch.nn's layer.
        channels = int(input.shape[-3]) if input.dim() > 2 else self.num_features
        return ops.group_norm(
            input, channels, self.weight, self.bias, self.eps, activation=self.activation,
            negative_slope=self.negative_slope,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """torch.nn's text and the activation."""
        return super().extra_repr() + activation_text(self.activation, self.negative_slope)


class TorchLayerNorm2d(LayerNorm2d):
    """:class:`LayerNorm2d` computed by :mod:`denoise_ext.reference`: what ``to_torch`` puts in."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``input``."""
        self._check_channels(input)
        return reference.layer_norm2d(
            input, self.weight, self.bias, self.eps, activation=self.activation,
            negative_slope=self.negative_slope,
        )  # fmt: skip


class TorchGroupNorm(GroupNorm):
    """:class:`GroupNorm` computed by PyTorch."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``input``."""
        output = nn.GroupNorm.forward(self, input)
        return apply_activation(output, self.activation, self.negative_slope)


class TorchInstanceNorm2d(InstanceNorm2d):
    """:class:`InstanceNorm2d` computed by PyTorch."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``input``."""
        output = nn.InstanceNorm2d.forward(self, input)
        return apply_activation(output, self.activation, self.negative_slope)


__all__ = ["GroupNorm", "InstanceNorm2d", "LayerNorm2d"]
