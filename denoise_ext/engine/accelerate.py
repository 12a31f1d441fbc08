"""``accelerate``: any module, with what this package computes faster put in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from denoise_ext._loader import native
from denoise_ext.engine.capture.instrumented_copy import Wrapper
from denoise_ext.engine.capture.signature import is_ordinary, tensors_in
from denoise_ext.engine.fuse import verify
from denoise_ext.engine.report import Report, Row
from denoise_ext.engine.run.dispatch import shadow
from denoise_ext.engine.run.output_tree import compare
from denoise_ext.engine.run.reference_run import Twin
from denoise_ext.engine.run.region import Settings

PRECISIONS = ("strict", "default", "fast")
_OWN = frozenset({"training", "_original", "_options", "_settings", "_shadow", "_decided"})


def accelerate(
    model: nn.Module,
    example_input: Any = None,
    *,
    precision: str = "default",
    dtype: torch.dtype | None = None,
) -> Accelerated:
    """Make ``model`` faster without changing what it computes.

    Looks into ``model``, whoever wrote it, for convolutions with what surrounds them (padding,
    batch normalisation, activation, skip connection) and transposed convolutions, and puts this
    package's operators in their place: batch normalisations folded into weights, weights packed
    once, channels_last throughout.  Intermediate tensors lie in one block of memory that is kept
    from call to call, those of PyTorch's own pooling, upsampling and pointwise operators too;
    concatenations are written in place.  On the CPU, Winograd convolutions read what lies before a
    nearest upsampling by 2 and a concatenation, and pool their own result by 2x2.  Everything else
    runs as it is.

    Each replacement is held against the original on the example: it is used only if it is faster
    and its error is within the bound of its arithmetic; the same is then asked of the whole.
    ``result.report()`` tells what became of every place, with errors, bounds, times and reasons.

    ===============  =============================================================================
    argument         constraint
    ===============  =============================================================================
    model            any :class:`torch.nn.Module`, in eval mode to have an effect; not changed
    example_input    what ``model`` is called with: a tensor, a tuple of positional arguments or a
                     dict of keyword arguments; best of the size it will be used for.  None: the
                     first call serves as the example, and takes that much longer.  Not run while
                     a part is in training mode: then the first call in eval mode decides
    precision        "strict": convolutions are summed directly in the tensors' own precision;
                     "default": on the CPU also by Winograd's algorithm F(4x4, 3x3);
                     "fast": on the CPU also by F(6x6, 3x3).  CUDA: float32 factors are rounded to
                     tf32 never, where PyTorch's own setting allows it, always
                     (:func:`denoise_ext.ops.conv2d`); plans are made anew when that changes
    dtype            torch.bfloat16 or torch.float16: weights and intermediate tensors are stored
                     so, sums stay float32, results have the model's dtype.  None: as the model
    ===============  =============================================================================

    What the result does:

    * **Sizes.** A plan is made for each shape, layout, dtype and device of the arguments (tens of
      milliseconds), held against a copy of the original, which runs once for that, and kept: at
      most 8 of them and at most 1 GiB besides the one in use.  What was decided on the example
      holds for other sizes.  Numbers among the arguments count like sizes; of a position that
      takes more than 4 values the rest run the original: make it a tensor.
    * **Gradients.** In eval mode results have none: parameters count as constants.  If an argument
      requires grad (in grad mode), and in training mode, the original runs, gradients included; so
      do parts of it where its own forward turns on gradients or autocast.  It also runs under
      autocast, function transforms, ``torch.compile`` and for tensor subclasses.
    * **Parameters** are the original's, and so are ``state_dict()``, ``parameters()``, ``to()`` and
      attributes.  Plans notice new and changed parameters, buffers and attributes, in-place changes
      included, and are made anew; a write through ``tensor.data`` or to inference tensors they
      cannot notice: call ``refresh()`` after it.
    * **Hooks** on the result run.  A submodule with hooks is left alone and so fires them.
    * **Modules that cannot be planned** (control flow that depends on the numbers in a tensor,
      writes to attributes, arguments changed in place, random numbers, submodules in training
      mode, tensors kept outside of the module) run their own forward, and their submodules are
      planned one by one.  Planning runs the forward once more on tensors without data; what that
      leaves in a list or cache outside of the module stays there.  A forward that reads anything
      but its arguments and its module's attributes (the clock, a global variable) is seen only
      once per plan.  A model that ``copy.deepcopy`` refuses is left as it is.
    * **Threads** may call it at the same time; each gets memory of its own.
    * **Copies and pickles** hold the original and the options; plans are made anew.

    On CUDA the same plan calls this package's CUDA operators, recorded as a CUDA graph when a
    size is first used on a stream, or by one more thread; that waits for the GPU and empties
    PyTorch's cache.  Where it cannot be done the report tells why.  Each graph keeps memory of its
    own besides the limit above (not yet run on a GPU).

    Returns:
        A module to be called as ``model`` is.

    Raises:
        TypeError, ValueError: an argument that does not fit.
        RuntimeError: the native library is missing (the message says why).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
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
    """What :func:`accelerate` returns."""

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
        """The module as it was given."""
        return self.__dict__["_original"]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original returns for these arguments."""
        if self._must_run_original(args, kwargs):
            return self._original(*args, **kwargs)
        with torch.no_grad():
            if not self._decided:
                return self._decide(args, kwargs)
            if self._shadow is None:
                return self._original(*args, **kwargs)
            return self._shadow(*args, **kwargs)

    def report(self) -> Report:
        """What was done where, and why the rest was left; print it."""
        return Report(list(self._settings.report.rows))

    def refresh(self) -> None:
        """Forget all plans and decisions; the next call is the example."""
        own = self.__dict__
        own["_settings"] = Settings(*self._options)
        own["_shadow"] = shadow(self._original, "", self._settings)
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
            twin = Twin(self._original, "forward", args, kwargs)
            expected = None if twin.missing else twin.run()
            if twin.missing:
                result = self._original(*args, **kwargs)  # what it raises leaves all undecided
                self._keep_original(twin.missing)
            else:
                result = self._shadow(*args, **kwargs)
                rows = self._settings.report.rows
                planned = any(row.variant == "plan" for row in rows)
                whole = any(row.variant == "plan" and not row.module for row in rows)
                if planned and not whole and not self._parts_hold(result, expected):
                    result = expected
                elif not planned:
                    self.__dict__["_shadow"] = None
            self.__dict__["_decided"] = True
        return result

    def _keep_original(self, reason: str) -> None:
        row = Row("", type(self._original).__name__, "original", reason=reason)
        self._settings.report.rows.append(row)
        self.__dict__["_shadow"] = None

    def _parts_hold(self, result: Any, expected: Any) -> bool:
        """Hold a model of which only parts are planned against the original, as a whole.

        Its parts have been timed.  The whole is not run again for that: it may remember its calls.
        """
        rows = self._settings.report.rows
        bound = verify.whole_bound([row.bound for row in rows if row.variant == "plan"])
        error = compare(result, expected)
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
        """Training mode: the original runs; ``eval()`` brings the plans back."""
        self._original.train(mode)
        self.__dict__["training"] = mode
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The original's."""
        return self._original.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Into the original; plans are made anew."""
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
    """:func:`accelerate` without examination: the best guess everywhere, at no cost.

    For trusted modules, this package's own: nothing is held against the original, neither at first
    nor at a new size, and the forward runs on tensors without data before any real one.
    """
    native()
    return Accelerated(model, precision, dtype, examine=False)


def accelerated_like(model: Accelerated, other: nn.Module) -> Accelerated:
    """``other`` with the options that ``model`` was accelerated with."""
    return Accelerated(other, *model._options)


def _example(example: Any) -> tuple[tuple, dict[str, Any]]:
    if isinstance(example, dict):
        return (), example
    if isinstance(example, tuple):
        return example, {}
    return (example,), {}


__all__ = ["Accelerated", "accelerate"]
