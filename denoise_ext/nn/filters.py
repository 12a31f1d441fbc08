"""Gaussian and bilateral filters as layers, with trainable sigmas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext import ops
from denoise_ext._arguments import (
    LARGEST_BILATERAL,
    LARGEST_GAUSSIAN,
    Sigma,
    check_border,
    check_color_distance,
    check_sigma_values,
    check_window,
    odd_kernel_size,
    positive_sigma,
)
from denoise_ext._choices import check_bool

# What the filters' functions take behind the images, in their order.
GaussianOptions = tuple[tuple[int, int], Sigma, str]
BilateralOptions = tuple[tuple[int, int], float | Tensor, Sigma, str, str, str]


def _pair_text(pair: tuple[int, int]) -> str:
    return f"({pair[0]}, {pair[1]})"


class _SigmaModule(nn.Module):
    """Keeps one or more sigmas, fixed or trained.

    A trained sigma is stored as its logarithm (parameter ``log_<name>``), so that no optimiser step
    can make it zero or negative; ``module.<name>`` gives the sigma itself.  A fixed one adds
    nothing to the ``state_dict``, as in Kornia: it is part of the architecture.
    """

    def _add_sigma(self, name: str, value: Sigma, length: int, trainable: bool) -> None:
        """Store ``value`` under ``name``: one number per image (length 1) or a pair (length 2)."""
        checked = positive_sigma(value, name, length)
        tensor = checked if isinstance(checked, Tensor) else None
        if tensor is not None:
            check_sigma_values(tensor, name)
        if trainable:
            if tensor is None:  # (1, 2) for a pair, (1,) for a single sigma
                tensor = torch.tensor([checked] if length == 2 else checked).reshape(
                    (1, 2) if length == 2 else (1,)
                )
            if not tensor.is_floating_point():
                tensor = tensor.float()
            self.register_parameter(f"log_{name}", nn.Parameter(tensor.detach().log()))
        elif tensor is not None:
            self.register_buffer(f"fixed_{name}", tensor.detach().clone(), persistent=False)
        else:
            setattr(self, f"fixed_{name}", checked)

    def _get_sigma(self, name: str) -> Any:
        log = self._parameters.get(f"log_{name}")
        return log.exp() if log is not None else getattr(self, f"fixed_{name}")

    def _sigma_repr(self, name: str) -> str:
        value = self._get_sigma(name)
        if isinstance(value, Tensor):
            value = value.detach()
            value = value.tolist() if value.numel() <= 4 else f"tensor{tuple(value.shape)}"
        trained = ", trained" if f"log_{name}" in self._parameters else ""
        return f"{name}={value}{trained}"


class GaussianBlur2d(_SigmaModule):
    """Gaussian blur (see :func:`denoise_ext.ops.gaussian_blur2d`).

    Args:
        kernel_size: odd int or pair (height, width), in pixels.
        sigma: standard deviation in pixels: a number, a pair (vertical, horizontal), or a tensor
            (1, 2), (B, 2) or (B,).
        border_type: ``"reflect"``, ``"replicate"``, ``"constant"`` or ``"circular"``.
        separable: a bool, as Kornia's; it changes nothing.
        trainable: make sigma a parameter; ``log_sigma`` holds its logarithm, which keeps the sigma
            positive.

    Shape:
        input (N, C, H, W) or (C, H, W); output the same.

    Example:
        >>> layer = denoise_ext.nn.GaussianBlur2d(9, sigma=1.5)
        >>> layer(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        sigma: Sigma,
        border_type: str = "reflect",
        separable: bool = True,
        *,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size: tuple[int, int] = odd_kernel_size(kernel_size, LARGEST_GAUSSIAN)
        self.border_type: str = check_border(border_type)
        self.separable: bool = check_bool("separable", separable)
        self._add_sigma("sigma", sigma, 2, trainable)

    @property
    def sigma(self) -> Sigma:
        """The standard deviations (vertical, horizontal) in use, in pixels."""
        return self._get_sigma("sigma")

    def _filter(self, input: Tensor, *options: *GaussianOptions) -> Tensor:
        return ops.gaussian_blur2d(input, *options)

    def forward(self, input: Tensor) -> Tensor:
        """Return the filtered ``input``."""
        return self._filter(input, self.kernel_size, self.sigma, self.border_type)

    def extra_repr(self) -> str:
        """The layer's settings."""
        return (
            f"kernel_size={_pair_text(self.kernel_size)}, {self._sigma_repr('sigma')}, "
            f"border_type={self.border_type}"
        )


class _BilateralBase(_SigmaModule):
    """Base of the bilateral and the joint bilateral layer."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        sigma_color: float | Tensor,
        sigma_space: Sigma,
        border_type: str = "reflect",
        color_distance_type: str = "l1",
        window: str = "square",
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size: tuple[int, int] = odd_kernel_size(kernel_size, LARGEST_BILATERAL)
        self.border_type: str = check_border(border_type)
        self.color_distance_type: str = check_color_distance(color_distance_type)
        self.window: str = check_window(window, self.kernel_size)
        self._add_sigma("sigma_color", sigma_color, 1, trainable)
        self._add_sigma("sigma_space", sigma_space, 2, trainable)

    @property
    def sigma_color(self) -> float | Tensor:
        """Range sigma in use, in the input's units."""
        return self._get_sigma("sigma_color")

    @property
    def sigma_space(self) -> Sigma:
        """Spatial sigmas (vertical, horizontal) in use, in pixels."""
        return self._get_sigma("sigma_space")

    def _options(self) -> BilateralOptions:
        return (
            self.kernel_size, self.sigma_color, self.sigma_space, self.border_type,
            self.color_distance_type, self.window,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """The layer's settings."""
        return (
            f"kernel_size={_pair_text(self.kernel_size)}, {self._sigma_repr('sigma_color')}, "
            f"{self._sigma_repr('sigma_space')}, border_type={self.border_type}, "
            f"color_distance_type={self.color_distance_type}, window={self.window}"
        )


class BilateralBlur(_BilateralBase):
    """Bilateral filter (see :func:`denoise_ext.ops.bilateral_blur`); Kornia's arguments.

    Args:
        kernel_size: odd int or pair (height, width), in pixels.
        sigma_color: range sigma, in the input's units (0.1 for an image in [0, 1] is 25.5 on the
            0-255 scale): a number or a tensor (1,) or (B,).
        sigma_space: spatial sigma in pixels: a number, a pair (vertical, horizontal), or a tensor
            (1, 2), (B, 2) or (B,).
        border_type: ``"reflect"``, ``"replicate"``, ``"constant"`` or ``"circular"``.
        color_distance_type: ``"l1"`` or ``"l2"``, over the channels.
        window: ``"square"`` (Kornia) or ``"circle"`` (OpenCV).
        trainable: make both sigmas parameters; ``log_sigma_color`` and ``log_sigma_space`` hold
            their logarithms, which keeps the sigmas positive.

    Shape:
        input (N, C, H, W) or (C, H, W); output the same.

    Example:
        >>> layer = denoise_ext.nn.BilateralBlur(5, 0.1, sigma_space=1.5, trainable=True)
        >>> layer(torch.rand(1, 3, 32, 32)).mean().backward()
        >>> [name for name, _ in layer.named_parameters()]
        ['log_sigma_color', 'log_sigma_space']
    """

    def _filter(self, input: Tensor, *options: *BilateralOptions) -> Tensor:
        return ops.bilateral_blur(input, *options)

    def forward(self, input: Tensor) -> Tensor:
        """Return the filtered ``input``."""
        return self._filter(input, *self._options())


class JointBilateralBlur(_BilateralBase):
    """Joint bilateral filter: weights from ``guidance``, averages of ``input``.

    Arguments as :class:`BilateralBlur`; ``sigma_color`` is in the guidance's units.

    Shape:
        input (N, C, H, W), guidance (N, C_guidance, H, W) (or both without N); output as input.

    Example:
        >>> depth, photo = torch.rand(1, 1, 32, 32), torch.rand(1, 3, 32, 32)
        >>> layer = denoise_ext.nn.JointBilateralBlur(9, sigma_color=0.05, sigma_space=2.0)
        >>> layer(depth, photo).shape
        torch.Size([1, 1, 32, 32])
    """

    def _filter(self, input: Tensor, guidance: Tensor, *options: *BilateralOptions) -> Tensor:
        return ops.joint_bilateral_blur(input, guidance, *options)

    def forward(self, input: Tensor, guidance: Tensor) -> Tensor:
        """Return ``input`` filtered with the weights of ``guidance``."""
        return self._filter(input, guidance, *self._options())
