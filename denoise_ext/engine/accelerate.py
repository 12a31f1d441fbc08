"""``accelerate``: replace parts of any module by faster operators of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from denoise_ext._choices import check_choice
from denoise_ext._loader import native
from denoise_ext._precision import ALGORITHMS
from denoise_ext.engine.capture.instrumented_copy import Wrapper
from denoise_ext.engine.capture.signature import is_ordinary, tensors_in
from denoise_ext.engine.fuse import verify
from denoise_ext.engine.report import Report, Row
from denoise_ext.engine.run.dispatch import shim
from denoise_ext.engine.run.output_tree import largest_error
from denoise_ext.engine.run.reference_run import ReferenceRun
from denoise_ext.engine.run.region import Settings

_OWN = frozenset({"training", "_original", "_options", "_settings", "_shim", "_decided"})


def accelerate(
    model: nn.Module,
    example_input: Any = None,
    *,
    precision: str = "default",
    dtype: torch.dtype | None = None,
) -> Accelerated:
    """Make ``model`` faster at inference without changing what it computes.

    Each replacement is compared with the original on ``example_input``.  It is used only if it is
    faster and its error is within its bound; ``result.report()`` lists every site.  The result
    shares parameters and attributes with ``model``.  docs/accelerate.md is the manual.

    Args:
        model: any :class:`torch.nn.Module`; in training mode the original runs.  Not changed.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments, best of the
            size in use.  None: the first call is the example, and takes longer.
        precision: "strict" sums convolutions directly; "default" also uses Winograd's algorithm
            F(4x4, 3x3) on the CPU; "fast" also F(6x6, 3x3).  On CUDA they set the use of tf32, as
            in :func:`denoise_ext.ops.conv2d`; plans are made anew when PyTorch's setting changes.
        dtype: torch.bfloat16 or torch.float16 for weights and intermediate tensors; sums stay
            float32, results keep the model's dtype.  None: the model's dtype.

    Returns:
        A module that is called like ``model``.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value.
        RuntimeError: the native library is missing; the message has the reason.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_choice("precision", precision, ALGORITHMS)
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.bfloat16, torch.float16 or None, got {dtype!r}")
    native()
    if isinstance(model, Accelerated):
        model = model._original
    result = Accelerated(model, precision, dtype)
    # In training mode the example would move the statistics of batch normalisations.
    if example_input is not None and not any(part.training for part in model.modules()):
        args, kwargs = _example(example_input)
        with torch.no_grad():
            result(*args, **kwargs)
    return result


class Accelerated(Wrapper):
    """A module whose plans replace the original at inference; see :func:`accelerate`."""

    def __init__(
        self, original: nn.Module, precision: str, dtype: torch.dtype | None, examine: bool = True
    ) -> None:
        super().__init__()
        # Past __setattr__: nn.Module would make the original a submodule, with keys of its own.
        own = self.__dict__
        own["_original"], own["_options"] = original, (precision, dtype, examine)
        # The same dictionaries: parameters, state_dict keys and submodules are the original's.
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            own[name] = getattr(original, name)
        own["training"] = original.training
        self.refresh()

    @property
    def original(self) -> nn.Module:
        """The unmodified module."""
        return self.__dict__["_original"]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the original returns for these arguments."""
        if self._must_run_original(args, kwargs):
            return self._original(*args, **kwargs)
        with torch.no_grad():
            if not self._decided:
                return self._decide(args, kwargs)
            if self._shim is None:
                return self._original(*args, **kwargs)
            return self._shim(*args, **kwargs)

    def report(self) -> Report:
        """List every site with its replacement, or the reason why it was left; print it.

        On a GPU the last rows are the convolutions of the plans, with the kernels that serve and
        the times by which they were chosen, as ``ops.explain`` has them.
        """
        plans = [(module, plan()) for module, plan in self._settings.plans]
        measured = [
            Row(module, site, "kernel", reason=reason, decided="timed")
            for module, plan in plans
            if plan is not None
            for site, reason in plan.measured().items()
        ]
        return Report([*self._settings.report.rows, *measured])

    def refresh(self) -> None:
        """Drop all plans and decisions; the next call is the example."""
        own = self.__dict__
        own["_settings"] = Settings(*self._options)
        own["_shim"] = shim(self._original, "", self._settings)
        own["_decided"] = not self._settings.examine

    # --- deciding ---------------------------------------------------------------------------------

    def _must_run_original(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        if self.training:
            return True
        grad = torch.is_grad_enabled() and any(x.requires_grad for x in tensors_in(args, kwargs))
        return not is_ordinary(args, kwargs, grad)

    def _decide(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The first call: regions verify themselves in it; then the whole is verified and timed."""
        with self._settings.lock:
            if self._decided:
                return self.forward(*args, **kwargs)
            reference = ReferenceRun(self._original, "forward", args, kwargs)
            expected = None if reference.missing else reference.run()
            if reference.missing:
                result = self._original(*args, **kwargs)  # what it raises leaves all undecided
                self._keep_original(reference.missing)
            else:
                result = self._shim(*args, **kwargs)
                rows = self._settings.report.rows
                planned = any(row.variant == "plan" for row in rows)
                whole = any(row.variant == "plan" and not row.module for row in rows)
                if planned and not whole and not self._parts_hold(result, expected):
                    result = expected
                elif not planned:
                    self.__dict__["_shim"] = None
            self.__dict__["_decided"] = True
        return result

    def _keep_original(self, reason: str) -> None:
        row = Row("", type(self._original).__name__, "original", reason=reason)
        self._settings.report.rows.append(row)
        self.__dict__["_shim"] = None

    def _parts_hold(self, result: Any, expected: Any) -> bool:
        """Compare the whole with the original if only parts are planned.

        Its parts have been timed.  The whole is not run again: it may keep a record of its calls.
        """
        rows = self._settings.report.rows
        bound = verify.whole_bound([row.bound for row in rows if row.variant == "plan"])
        error = largest_error(result, expected)
        if not error <= bound:
            self._keep_original(f"its result is off by {error:.1e}, allowed {bound:.0e}")
            rows[-1].error, rows[-1].bound = error, bound
            return False
        rows.append(Row("", type(self._original).__name__, "its parts' plans", error, bound))
        return True

    # --- the original's state ---------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_original"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN or name in self.__dict__:
            super().__setattr__(name, value)
        else:
            setattr(self._original, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._original, name)

    def train(self, mode: bool = True) -> Accelerated:
        """Set the mode; in training mode the original runs, after ``eval()`` the plans."""
        self._original.train(mode)
        self.__dict__["training"] = mode
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The original's."""
        return self._original.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load into the original; plans are made anew."""
        return self._original.load_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._original._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable, recurse: bool = True) -> Accelerated:
        self._original._apply(fn, recurse)
        return self

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """The original's."""
        return self._original.named_modules(*args, **kwargs)

    def __reduce__(self) -> tuple:
        return Accelerated, (self._original, *self._options)

    def extra_repr(self) -> str:
        """The options."""
        precision, dtype, _ = self._options
        return f"precision={precision!r}" + (f", dtype={dtype}" if dtype else "")


def plan(
    model: nn.Module, precision: str = "default", dtype: torch.dtype | None = None
) -> Accelerated:
    """Plan ``model`` by rule, without comparing or timing.

    For trusted modules, this package's own.  The forward runs on tensors without data before any
    real one.
    """
    native()
    return Accelerated(model, precision, dtype, examine=False)


def accelerated_like(model: Accelerated, other: nn.Module) -> Accelerated:
    """Accelerate ``other`` with the options of ``model``."""
    return Accelerated(other, *model._options)


def _example(example: Any) -> tuple[tuple, dict[str, Any]]:
    if isinstance(example, dict):
        return (), example
    if isinstance(example, tuple):
        return example, {}
    return (example,), {}


__all__ = ["Accelerated", "accelerate"]
