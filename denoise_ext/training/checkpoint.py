"""The state of a run on disk, so that it can be continued exactly."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch

from denoise_ext.io.atomic import replace_file
from denoise_ext.models import CheckpointError
from denoise_ext.models.archive import with_checksum
from denoise_ext.models.checkpoints import TRAINING_FORMAT, load_plain_data
from denoise_ext.training.config import ConfigError, parse_config

# Keys of the configuration that do not change the weights a run ends with.
_FREE = {"run.out", "run.checkpoint_every", "run.log_every", "run.tensorboard", "run.minutes",
         "data.cache", "data.workers", "validation.samples"}  # fmt: skip
# Those, too, unless validation decides when the run ends.
_FREE_WITHOUT_PATIENCE = {"validation.every", "validation.sigmas", "validation.crop"}


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a run's state, atomically: plain data and tensors, and a SHA-256 of all of it.

    Batches and noise are functions of (seed, step); torch's global generator is kept as well for
    models that draw from it.
    """
    buffer = io.BytesIO()
    torch.save({"format": TRAINING_FORMAT, "torch_rng": torch.get_rng_state(), **state}, buffer)
    data = bytearray(buffer.getbuffer())
    with_checksum(data)
    replace_file(path, data)


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; nothing in the file is executed.

    A state of a version that wrote no checksum is checked by the CRC-32 of each of its tensors.

    Raises:
        ValueError: not such a file, truncated, or other bytes than were written.
    """
    try:
        state = load_plain_data(path, records=True)
    except CheckpointError as error:
        raise ValueError(f"{path}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    if not isinstance(state, dict) or state.get("format") != TRAINING_FORMAT:
        raise ValueError(f"{path}: not a training checkpoint of this version")
    return state


def config_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys on which two configurations disagree in a way that changes the weights.

    A key that an earlier version lacked counts as having its default.
    """
    with contextlib.suppress(ConfigError):  # of a version too different: compared as it is
        before = parse_config(before).model_dump(mode="json")
    a, b = _flat(before), _flat(now)
    free = _FREE if now["validation"]["patience"] else _FREE | _FREE_WITHOUT_PATIENCE
    return [
        f"{key}: was {a.get(key)!r}, is {b.get(key)!r}"
        for key in sorted(a.keys() | b.keys())
        if key not in free and a.get(key) != b.get(key)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat
