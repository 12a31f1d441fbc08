"""The states of all global generators that a forward may draw from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states() -> tuple[Any, ...]:
    """Those of Python, NumPy and PyTorch, and of the GPUs where they are in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_random_states(states: tuple[Any, ...]) -> None:
    """Restore what `random_states` returned."""
    python, numpy, pytorch, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(pytorch)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


def same_on_cpu(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    """Whether nothing was drawn on the CPU in between."""
    numpy_before, numpy_after = before[1], after[1]
    return (
        before[0] == after[0]
        and np.array_equal(numpy_before[1], numpy_after[1])
        and numpy_before[2:] == numpy_after[2:]
        and torch.equal(before[2], after[2])
    )
