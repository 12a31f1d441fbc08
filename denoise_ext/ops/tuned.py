"""Operators that write into given memory, by what is fastest on this GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext.ops import _autotune
from denoise_ext.ops._by_pytorch import fused

PACKING_KERNELS = ("conv_rowring", "conv_gemm_mma", "conv_tiled")
"""The CUDA kernels that ``conv2d_pack`` packs weights for."""


class Tuned:
    """``op`` by the fastest that was measured for the geometry of a call.

    Contenders are our kernels and PyTorch's own convolution.  A CUDA graph records the winner, for
    a plan's steps run once before they are recorded.

    The weight of ``conv2d_out`` is packed once for the kernel that serves.  It must not change.

    Args:
        op: conv2d_out or conv_transpose2d_out.
        packed: where packed weights are kept, for all steps with that weight; None: for this one.

    Attributes:
        measured: what was measured for the last call's geometry; None: nothing.
        packed: the weight as kernels read it, by shape and dtype, which no two kernels share.
    """

    op: Any
    measured: _autotune.Choice | None
    packed: dict[Hashable, Tensor]

    def __init__(self, op: Any, packed: dict[Hashable, Tensor] | None = None) -> None:
        self.op, self.measured = op, None
        self.packed = {} if packed is None else packed
        self._by_pytorch = _BY_PYTORCH[op]
        self._weights: dict[str, Tensor | None] = {}  # by the kernels that were chosen

    def __call__(self, *arguments: Any) -> Any:
        """Run ``op(*arguments)``."""
        choice = _autotune.choose(self.op, self._by_pytorch, arguments)
        if choice is None:
            return self.op(*self._with_packed("", arguments))
        self.measured = choice if choice.seconds else None
        theirs = partial(self._by_pytorch, *arguments)
        ours = arguments if choice.pytorch else self._with_packed(choice.kernels, arguments)
        return _autotune.TUNER.follow(choice, partial(self.op, *ours), theirs)

    def _with_packed(self, kernels: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, with the weight packed for the kernel that will run."""
        if self.op is not _CONV2D or not arguments[0].numel():
            return arguments
        if kernels not in self._weights:
            if not _may_pack():
                return arguments
            self._weights[kernels] = self._pack(kernels, arguments)
        packed = self._weights[kernels]
        return arguments if packed is None else (*arguments[:2], packed, *arguments[3:])

    def _pack(self, kernels: str, arguments: tuple[Any, ...]) -> Tensor | None:
        name = kernels or _autotune.estimated_kernel(self.op, arguments)
        if name not in PACKING_KERNELS:
            return None
        weight, groups, precision = arguments[1], arguments[7], arguments[16]
        packed = torch.ops.denoise_ext.conv2d_pack(weight, name, groups, precision)
        if packed.is_cuda:  # other streams will read it
            torch.cuda.current_stream(packed.device).synchronize()
        return self.packed.setdefault((packed.shape, packed.dtype), packed)


def _may_pack() -> bool:
    """Whether what is made now will be there for later calls."""
    return (
        torch._C._len_torch_dispatch_stack() == 0  # such as fake tensors
        and not torch.compiler.is_compiling()
        and not torch.cuda.is_current_stream_capturing()
    )


def _conv2d_by_pytorch(
    input: Tensor, weight: Tensor, packed_weight: Tensor | None, bias: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
    border: str, activation: str, negative_slope: float, prelu_weight: Tensor | None,
    residual: Tensor | None, residual_position: str, algorithm: str, out: Tensor, precision: str,
) -> None:  # fmt: skip
    sums = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    out.copy_(fused(sums, activation, negative_slope, prelu_weight, residual, residual_position))


def _conv_transpose2d_by_pytorch(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], output_padding: Sequence[int], groups: int, dilation: Sequence[int],
    activation: str, negative_slope: float, prelu_weight: Tensor | None, residual: Tensor | None,
    residual_position: str, precision: str, out: Tensor, packed_weight: Tensor | None = None,
) -> None:  # fmt: skip
    sums = F.conv_transpose2d(
        input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    out.copy_(fused(sums, activation, negative_slope, prelu_weight, residual, residual_position))


_CONV2D: Any = torch.ops.denoise_ext.conv2d_out.default
_BY_PYTORCH: dict[Any, Callable[..., None]] = {
    _CONV2D: _conv2d_by_pytorch,
    torch.ops.denoise_ext.conv_transpose2d_out.default: _conv_transpose2d_by_pytorch,
}
