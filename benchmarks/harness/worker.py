"""Sets a case's contenders up and compares their results, before anything is timed."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from harness.cases import Absent, Contender, Work
from harness.records import one_line


def set_up(
    work: Work,
    finish: Callable[[Any], Any] = lambda made: made,
    guard: Callable[[Contender], AbstractContextManager] = lambda contender: nullcontext(),
    fatal: Callable[[Exception], bool] = lambda error: False,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Make and run every contender once, and compare its result with the first one's.

    Args:
        work: its contenders' `make` gives one call, or a list of calls of which the first is run.
        finish: what becomes of the calls of a contender that computed the expected result, such as
            a recording of them.
        guard: around each contender, such as a time limit.
        fatal: whether an error must be raised. Other errors are recorded.

    Returns:
        Name -> what `finish` returned, for contenders that computed the expected result; name ->
        what is recorded: "difference" and the rates, or the reason as "absent" or "failed".
    """
    ready: dict[str, Any] = {}
    records: dict[str, dict[str, Any]] = {}
    expected: Tensor | None = None
    for contender in work.contenders:
        record = records[contender.name] = {}
        try:
            with guard(contender):
                made = contender.make()
                value = (made[0] if isinstance(made, list) else made)()
                if contender.result is not None:
                    result = contender.result(value).detach().clone()
                    expected = result if expected is None else expected
                    record["difference"] = difference(result, expected, work.tolerance)
                ready[contender.name] = finish(made)
        except Absent as reason:
            record["absent"] = str(reason)
        except Exception as error:  # the others are still worth their times
            if fatal(error):
                raise
            traceback.print_exc()
            record["failed"] = one_line(error)
        else:
            record |= contender.rates or {}
    return ready, records


def difference(result: Tensor, expected: Tensor, tolerance: float) -> float:
    """The largest difference as a part of the expected result's scale, or ValueError."""
    if result.shape != expected.shape:
        raise ValueError(f"another shape: {tuple(result.shape)}, not {tuple(expected.shape)}")
    scale = 255.0 if expected.dtype == torch.uint8 else float(expected.abs().max())
    part = float((_wide(result) - _wide(expected)).abs().max()) / max(scale, 1e-30)
    if not part <= tolerance:
        raise ValueError(f"another result: off by {part:.1e} of the scale, not {tolerance:.1e}")
    return part


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
