"""Reading and writing model weights."""

from __future__ import annotations

import json
import os
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from denoise_ext.models._base import Denoiser

FORMAT = "denoise_ext"


def save_model(
    model: Denoiser,
    path: str | PathLike[str],
    dtype: torch.dtype = torch.float16,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write weights and configuration as one safetensors file, atomically.

    Args:
        model: the network; its ``config`` goes into the file's metadata.
        path: target; an existing file is replaced.
        dtype: what floating-point tensors are stored as.
        metadata: JSON-able facts about the training, kept under ``"training"``.

    Raises:
        ValueError: a weight is not finite, or does not fit into ``dtype``.
    """
    tensors: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        if value.is_floating_point():
            value = value.to(dtype)
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"weight {key!r} is not finite in {dtype}")
        tensors[key] = value.contiguous()
    header = {
        "format": FORMAT,
        "config": json.dumps(model.config, sort_keys=True),
        "training": json.dumps(metadata or {}, sort_keys=True),
    }
    write_atomically(Path(path), safetensors_bytes(tensors, header))


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: after a crash it is the old file or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
