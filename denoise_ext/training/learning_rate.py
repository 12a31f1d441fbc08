"""Learning rate over the steps."""

from __future__ import annotations

import math


def learning_rate(step: int, *, steps: int, peak: float, final: float, warmup_steps: int) -> float:
    """Rate of step ``step`` (counted from 0) of ``steps``.

    Linear from ``peak / warmup_steps`` up to ``peak`` over the warm-up, then a half cosine from
    ``peak`` down to ``final`` (Loshchilov, Hutter 2017, without restarts).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
