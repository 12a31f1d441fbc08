"""Counter-based randomness: what step ``n`` draws depends on (seed, n) alone.

Nothing has to be remembered between steps, so a run that was interrupted draws, from any step on,
exactly what it would have drawn.
"""

from __future__ import annotations

import numpy as np

# Independent streams of one run: each purpose has its own, so that a change of one (say, a larger
# crop) does not shift the others.
(
    CROPS, NOISE, WEIGHTS, VALIDATION, MASKS, PROBES, ROLES, SCALES, RATES, CODES
) = range(10)  # fmt: skip

_STEP_BITS = 48


def step_generator(seed: int, step: int, stream: int) -> np.random.Generator:
    """A NumPy generator (Philox) that is a function of (seed, step, stream).

    Example:
        >>> draw = denoise_ext.data.step_generator(seed=0, step=7, stream=1).random()
        >>> draw == denoise_ext.data.step_generator(seed=0, step=7, stream=1).random()
        True
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
    if not 0 <= step < 2**_STEP_BITS:
        raise ValueError(f"step must be in [0, 2**{_STEP_BITS}), got {step}")
    key = np.array([seed, (stream << _STEP_BITS) | step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def step_seed(seed: int, step: int, stream: int) -> int:
    """A 63-bit seed for ``torch.Generator.manual_seed``: a function of (seed, step, stream).

    Example:
        >>> seed = denoise_ext.data.step_seed(seed=0, step=7, stream=1)
        >>> noise = torch.randn(3, generator=torch.Generator().manual_seed(seed))
    """
    return int(step_generator(seed, step, stream).integers(0, 2**63, dtype=np.uint64))


def image_generator(
    seed: int, step: int, stream: int, index: int, place: int = 0
) -> np.random.Generator:
    """As `step_generator`, for one image of a batch: a function of ``index`` and ``place``, too."""
    if not (0 <= index < 2**31 and 0 <= place < 2**8):
        raise ValueError(f"index must be in [0, 2**31) and place in [0, 256), got {index}, {place}")
    # the last word of Philox's counter: 2^192 draws away from those of any other image
    generator = step_generator(seed, step, stream)
    state = generator.bit_generator.state
    state["state"]["counter"] = np.array([0, 0, 0, (1 << 40) | (place << 32) | index], np.uint64)
    generator.bit_generator.state = state
    return generator
