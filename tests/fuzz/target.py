"""What a fuzz target is."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

RESULT = "result"
"""The case gave a result, and the result is right."""
REFUSED = "refused"
"""The case was refused with the error that the interface promises."""

MEBIBYTE = 1 << 20


SANITIZED = "DENOISE_EXT_SANITIZED_LIBRARY" in os.environ
SANITIZED_TIMES = 5  # AddressSanitizer and UBSan together, at -O1


@dataclass(frozen=True)
class Target:
    """A function that runs one random case."""

    name: str
    run: Callable[[random.Random], str]
    """Returns RESULT or REFUSED; whatever it raises is a finding."""
    seconds: float = 20.0
    """Processor time that one case may take, `SANITIZED_TIMES` as much with sanitizers."""
    patience: float = 90.0
    """Time until the parent takes a case for one that hangs, on a busy machine too."""
    memory: int = 512 * MEBIBYTE
    """Bytes by which one case may raise the memory in use."""


verbose = False
"""Whether cases say what they do: they do where one is repeated."""


def tell(text: Callable[[], str]) -> None:
    """Say what the case is about to do, before it may end the process."""
    if verbose:
        print(text(), flush=True)
