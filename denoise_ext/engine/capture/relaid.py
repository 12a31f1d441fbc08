"""Trace a forward as if its images were in channels_last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext.engine.capture.constants import NotPlannedError
from denoise_ext.engine.capture.graph import Graph
from denoise_ext.engine.capture.instrumented_copy import Guard
from denoise_ext.engine.capture.layouts import far_from_convolutions
from denoise_ext.engine.capture.signature import tensors_in
from denoise_ext.engine.capture.trace import trace


def trace_relaid(
    module: nn.Module,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dtype: torch.dtype | None,
) -> tuple[Graph, list[Tensor], Guard]:
    """`trace` with images and weights in channels_last, or as much of it as the forward allows."""
    call = (module, method, args, kwargs, dtype)
    for weights_last in (True, False):
        try:
            traced = trace(*call, channels_last=True, weights_last=weights_last)
            kept = far_from_convolutions(traced[0], tensors_in(args, kwargs))
            return trace(*call, True, kept, weights_last) if kept else traced
        except NotPlannedError:
            continue  # perhaps a view that only the layout it was written for allows
    return trace(*call, channels_last=False)
