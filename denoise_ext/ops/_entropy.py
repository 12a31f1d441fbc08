"""Fake kernels of the raw operators of entropy coding, on the CPU.

``torch.ops.denoise_ext.rans_encode(symbols, classes, frequencies)`` gives the bytes (uint8) of
``symbols`` (uint8, (N,)). ``classes`` (int16, (N,)) are rows of ``frequencies`` (int16, (K, S), S
at most 256), each of which sums to 4096. ``rans_decode(data, classes, frequencies)`` gives the
symbols back. A stream has 16 states of 32 bits, then words of 16 bits, little-endian
(csrc/cpu/rans.h).

``latents_encode(latents, weights, first, inside, frequencies)`` gives the bytes of ``latents``
(int16, (h, w, M)), ``latents_decode(data, rows, columns, ...)`` the latents. Classes come from
latents that are decoded before, by the tensors of `denoise_ext.models.coded_prior`.

Decoders raise RuntimeError for data that does not end where its numbers do. None has a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext.ops._library import native_op

_, _available = native_op("latents_decode")


def _bytes_fake(like: Tensor, *tensors: Tensor) -> Tensor:
    return like.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)


def _symbols_fake(data: Tensor, classes: Tensor, frequencies: Tensor) -> Tensor:
    return data.new_empty(classes.shape[0])


def _latents_fake(
    data: Tensor,
    rows: int,
    columns: int,
    weights: Tensor,
    first: Tensor,
    inside: Tensor,
    frequencies: Tensor,
) -> Tensor:
    return data.new_empty((rows, columns, weights.shape[1]), dtype=torch.int16)


if _available:
    torch.library.register_fake("denoise_ext::rans_encode", _bytes_fake)
    torch.library.register_fake("denoise_ext::latents_encode", _bytes_fake)
    torch.library.register_fake("denoise_ext::rans_decode", _symbols_fake)
    torch.library.register_fake("denoise_ext::latents_decode", _latents_fake)
