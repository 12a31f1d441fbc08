"""Calls whose weight has been packed before, as plans on a GPU keep it."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_emulator.faults.images import compare, image
from denoise_ext import reference

F16, F32 = torch.float16, torch.float32


def _packed(kernel: str, x: Tensor, weight: Tensor, stride: int = 1) -> float:
    raw = torch.ops.denoise_ext
    geometry = ([stride, stride], [1, 1], [1, 1], 1)

    def conv(x: Tensor, weight: Tensor) -> Tensor:
        like = reference.conv2d(x, weight, stride=stride, padding=1)
        out = torch.full_like(like, torch.nan)
        packed = raw.conv2d_pack(weight, kernel)
        raw.conv2d_out(
            x, weight, packed, None, *geometry, "constant", "none", 0.0, None, None, "before",
            "auto", out,
        )  # fmt: skip
        return out

    def exact(x: Tensor, weight: Tensor) -> Tensor:
        return reference.conv2d(x, weight, stride=stride, padding=1)

    return compare(conv, exact, x, weight)


def packed_row_ring_f16() -> float:
    return _packed("conv_rowring", image((1, 72, 6, 35), F16), image((72, 72, 3, 3), F16))


def packed_product_f16() -> float:
    return _packed("conv_gemm_mma", image((1, 20, 9, 13), F16), image((72, 20, 3, 3), F16), 2)


def packed_product_f32() -> float:
    return _packed("conv_tiled", image((1, 20, 9, 13), F32), image((72, 20, 3, 3), F32), 2)


def packed_for_tf32() -> float:
    """A weight rounded to tf32, which a call that must not round has to refuse."""
    raw, weight = torch.ops.denoise_ext, image((16, 16, 3, 3), F32)
    x, rounded = image((1, 16, 6, 7), F32), raw.conv2d_pack(weight, "conv_rowring", 1, "fast")
    try:
        raw.conv2d_out(
            x, weight, rounded, None, [1, 1], [1, 1], [1, 1], 1, "constant", "none", 0.0, None,
            None, "before", "auto", torch.empty_like(x),
        )  # fmt: skip
    except RuntimeError as error:
        if "packed_weight must be" in str(error):
            return 0.0
        raise
    return 1.0


CALLS = {
    function.__name__: function
    for function in (packed_row_ring_f16, packed_product_f16, packed_product_f32, packed_for_tf32)
}
