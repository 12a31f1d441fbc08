"""Convolution layers: constructors and ``state_dict`` keys of :mod:`torch.nn`, plus an activation.

Replace ``torch.nn.Conv2d`` and ``torch.nn.ConvTranspose2d`` by these classes to use this package's
kernels.  Checkpoints load unchanged.  ``activation=`` fuses the following non-linearity into the
convolution, so the result is written to memory once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.types import Device

from denoise_ext import ops
from denoise_ext._arguments import check_activation, check_precision

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
_PRELU_INIT = 0.25  # torch.nn.PReLU's initial slope


class _Activated(Protocol):
    """A layer that keeps an activation."""

    activation: str
    negative_slope: float
    prelu_weight: nn.Parameter | None

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None: ...


def _add_activation(
    module: _Activated,
    activation: str,
    negative_slope: float,
    prelu_parameters: int,
    out_channels: int,
    device: Device,
    dtype: torch.dtype | None,
) -> None:
    """Store the activation on ``module``; ``"prelu"`` adds the parameter ``prelu_weight``."""
    module.activation = check_activation(activation, negative_slope)
    module.negative_slope = float(negative_slope)
    if prelu_parameters not in (1, out_channels):
        raise ValueError(
            f"prelu_parameters must be 1 or out_channels ({out_channels}), got {prelu_parameters}"
        )
    # Registered as None otherwise, as torch.nn.Conv2d does with an absent bias: no state_dict key.
    weight = None
    if activation == "prelu":
        weight = nn.Parameter(
            torch.full((prelu_parameters,), _PRELU_INIT, device=device, dtype=dtype)
        )
    module.register_parameter("prelu_weight", weight)


def activation_text(activation: str, negative_slope: float) -> str:
    """Of a layer's `extra_repr`; "" without an activation."""
    if activation == "none":
        return ""
    slope = f", negative_slope={negative_slope}" if activation == "leaky_relu" else ""
    return f", activation={activation}{slope}"


def activation_repr(module: _Activated) -> str:
    """`activation_text` of a convolution, with the number of its slopes."""
    text = activation_text(module.activation, module.negative_slope)
    if module.prelu_weight is not None and module.prelu_weight.numel() > 1:
        text += f", prelu_parameters={module.prelu_weight.numel()}"
    return text


class Conv2d(nn.Conv2d):
    """:class:`torch.nn.Conv2d` followed by an activation, in one kernel.

    The arguments up to ``dtype`` are those of :class:`torch.nn.Conv2d`, all padding modes and
    ``padding="same"`` included.

    Args:
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"sigmoid"``,
            ``"tanh"``, ``"gelu"``, ``"gelu_tanh"``, ``"silu"``, ``"hardswish"``,
            ``"hardsigmoid"`` or ``"relu6"``.
        negative_slope: slope of ``leaky_relu`` below zero, at least 0.
        prelu_parameters: for ``"prelu"``, 1 (one slope for all channels) or ``out_channels``;
            the slopes are the parameter ``prelu_weight``, starting at 0.25.
        precision: ``"strict"``, ``"default"`` or ``"fast"`` (:func:`denoise_ext.ops.conv2d`); the
            attribute of that name may be changed later.

    Shape:
        input (N, C_in, H, W) or (C_in, H, W); output as :class:`torch.nn.Conv2d`.

    ``forward(input, residual=None)`` adds ``residual`` (the output's shape) before the activation.

    Example:
        >>> layer = denoise_ext.nn.Conv2d(3, 16, 3, padding=1, activation="relu")
        >>> layer.load_state_dict(torch.nn.Conv2d(3, 16, 3, padding=1).state_dict())
        <All keys matched successfully>
        >>> layer(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 16, 32, 32])
    """

    activation: str
    negative_slope: float
    prelu_weight: nn.Parameter | None
    precision: str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
        prelu_parameters: int = 1,
        precision: str = "default",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        _add_activation(
            self, activation, negative_slope, prelu_parameters, out_channels, device, dtype
        )
        self.precision = check_precision(precision)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``act(conv(input) + bias + residual)``."""
        padding: str | int | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            # The list torch.nn keeps for F.pad also holds the uneven halves of padding="same".
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return ops.conv2d(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups,
            activation=self.activation, negative_slope=self.negative_slope,
            prelu_weight=self.prelu_weight, residual=residual, precision=self.precision,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """torch.nn's text and the activation."""
        return super().extra_repr() + activation_repr(self)


class ConvReLU2d(Conv2d):
    """:class:`Conv2d` with ReLU as the default activation.

    Example:
        >>> layer = denoise_ext.nn.ConvReLU2d(3, 16, 3, padding="same")
        >>> bool((layer(torch.rand(1, 3, 32, 32)) >= 0).all())
        True
    """

    def __init__(self, *args: Any, activation: str = "relu", **kwargs: Any) -> None:
        super().__init__(*args, activation=activation, **kwargs)


class ConvTranspose2d(nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` followed by an activation, in one kernel.

    The arguments up to ``dtype`` are those of :class:`torch.nn.ConvTranspose2d`, which allows only
    ``padding_mode="zeros"``.  ``activation``, ``negative_slope``, ``prelu_parameters`` and
    ``precision`` are those of :class:`Conv2d`.

    Shape:
        input (N, C_in, H, W) or (C_in, H, W); output as :class:`torch.nn.ConvTranspose2d`,
        ``forward``'s ``output_size`` included.

    Example:
        >>> layer = denoise_ext.nn.ConvTranspose2d(16, 8, 2, stride=2)
        >>> layer(torch.rand(1, 16, 20, 30)).shape
        torch.Size([1, 8, 40, 60])
    """

    activation: str
    negative_slope: float
    prelu_weight: nn.Parameter | None
    precision: str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
        prelu_parameters: int = 1,
        precision: str = "default",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias,
            dilation, padding_mode, device, dtype,
        )  # fmt: skip
        _add_activation(
            self, activation, negative_slope, prelu_parameters, out_channels, device, dtype
        )
        self.precision = check_precision(precision)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return ``act(conv_transpose(input) + bias)``, of ``output_size`` if given."""
        assert isinstance(self.padding, tuple)  # transposed convolutions have no named paddings
        output_padding: Sequence[int] = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding(
                input, list(output_size), list(self.stride), list(self.padding),
                list(self.kernel_size), 2, list(self.dilation),
            )  # fmt: skip
        return ops.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups,
            self.dilation, activation=self.activation, negative_slope=self.negative_slope,
            prelu_weight=self.prelu_weight, precision=self.precision,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """torch.nn's text and the activation."""
        return super().extra_repr() + activation_repr(self)


class ConvTransposeReLU2d(ConvTranspose2d):
    """:class:`ConvTranspose2d` with ReLU as the default activation.

    Example:
        >>> layer = denoise_ext.nn.ConvTransposeReLU2d(16, 8, 4, stride=2, padding=1)
        >>> layer(torch.rand(1, 16, 20, 30)).shape
        torch.Size([1, 8, 40, 60])
    """

    def __init__(self, *args: Any, activation: str = "relu", **kwargs: Any) -> None:
        super().__init__(*args, activation=activation, **kwargs)


class DepthwiseSeparableConv2d(nn.Module):
    """A depthwise convolution (one filter per channel), then a 1x1 convolution across channels.

    MobileNet's factorisation (Howard et al., 2017, arXiv:1704.04861): ``kh*kw + C_out`` products
    per input value instead of ``kh*kw*C_out``.

    Args:
        in_channels, out_channels: channels in and out.
        kernel_size, stride, padding, dilation, padding_mode: of the depthwise part, as
            :class:`torch.nn.Conv2d`'s.
        bias: gives both parts a bias.
        activation: of the 1x1 part (see :class:`Conv2d`).
        depthwise_activation: between the two parts.
        negative_slope: slope of ``leaky_relu`` wherever it is used.
        precision: of both parts.

    Shape:
        input (N, C_in, H, W) or (C_in, H, W); output has ``out_channels`` channels.

    ``state_dict`` keys: ``depthwise.weight`` (C_in, 1, kh, kw), ``pointwise.weight``
    (C_out, C_in, 1, 1), and each part's ``bias`` and ``prelu_weight`` where it has one.

    Example:
        >>> layer = denoise_ext.nn.DepthwiseSeparableConv2d(16, 32, 3, padding=1, activation="relu")
        >>> layer(torch.rand(1, 16, 20, 30)).shape
        torch.Size([1, 32, 20, 30])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        depthwise_activation: str = "none",
        negative_slope: float = 0.01,
        precision: str = "default",
    ) -> None:
        super().__init__()
        common: dict[str, Any] = {
            "bias": bias, "device": device, "dtype": dtype, "negative_slope": negative_slope,
            "precision": precision,
        }  # fmt: skip
        self.depthwise: Conv2d = Conv2d(
            in_channels, in_channels, kernel_size, stride, padding, dilation, groups=in_channels,
            padding_mode=padding_mode, activation=depthwise_activation, **common,
        )  # fmt: skip
        self.pointwise: Conv2d = Conv2d(
            in_channels, out_channels, 1, activation=activation, **common
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return the 1x1 part of the depthwise part of ``input``."""
        return self.pointwise(self.depthwise(input))
