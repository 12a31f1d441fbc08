"""``accelerate``: replace parts of any module by faster operators of this package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import cache
from typing import Any

import torch
from torch import nn

from denoise_ext._choices import check_choice
from denoise_ext._loader import native
from denoise_ext._log import get_logger
from denoise_ext._precision import ALGORITHMS
from denoise_ext.engine.capture.instrumented_copy import Wrapper
from denoise_ext.engine.capture.signature import is_ordinary, tensors_in
from denoise_ext.engine.fuse import verify
from denoise_ext.engine.report import Report, Row
from denoise_ext.engine.run.dispatch import rehearsal, shim
from denoise_ext.engine.run.output_tree import are_contiguous, contiguous, largest_error
from denoise_ext.engine.run.reference_run import ReferenceRun
from denoise_ext.engine.run.settings import Settings
from denoise_ext.engine.run.snapshot import Snapshot

logger = get_logger("denoise_ext")
_OWN = frozenset(
    {"training", "_original", "_options", "_settings", "_shim", "_decided", "_free", "_lock"}
)
_OF_VIEWS = RuntimeError  # what a view raises that another layout would allow


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

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU()).eval()
        >>> fast = denoise_ext.accelerate(network, torch.rand(1, 1, 32, 32))
        >>> x = torch.rand(1, 1, 48, 40)  # any size
        >>> torch.allclose(fast(x), network(x), atol=1e-4)
        True
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
    """A module whose plans replace the original at inference; see :func:`accelerate`.

    ``len``, indices, iteration and ``in`` are the original's, if it has them.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU()).eval()
        >>> fast = denoise_ext.accelerate(network, torch.rand(1, 1, 32, 32))
        >>> fast.original is network, fast(torch.rand(1, 1, 20, 20)).shape
        (True, torch.Size([1, 8, 18, 18]))
    """

    def __new__(cls, original: nn.Module, *options: Any, **named: Any) -> Accelerated:
        """Make an object of a subclass with the original's container methods."""
        own: Any = cls  # hashable, as `cache` needs
        return super().__new__(_with_methods(own, _container_methods(type(original))))

    def __init__(
        self, original: nn.Module, precision: str, dtype: torch.dtype | None, examine: bool = True
    ) -> None:
        super().__init__()
        # Past __setattr__: nn.Module would make the original a submodule, with keys of its own.
        own = self.__dict__
        own["_original"], own["_options"] = original, (precision, dtype, examine)
        own["_lock"] = threading.RLock()
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
            try:
                return self._own_layout(self._shim(*args, **kwargs), args, kwargs)
            except Exception as error:  # whatever a forward on replaced parts may raise
                return self._after(error, args, kwargs)

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
        self._begin(free_layouts=True)

    def _begin(self, free_layouts: bool) -> None:
        own = self.__dict__
        precision, dtype, examine = own["_options"]
        settings = Settings(precision, dtype, examine, free_layouts, own["_lock"])
        own["_settings"] = settings
        if settings.examine:
            settings.reconsider = self._reconsider
        own["_free"] = False  # parts' plans have left images in layouts of their own
        own["_shim"] = shim(self._original, "", self._settings)
        own["_decided"] = not self._settings.examine

    # --- deciding ---------------------------------------------------------------------------------

    def _must_run_original(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if self.training:
            return True
        grad = torch.is_grad_enabled() and any(x.requires_grad for x in tensors_in(args, kwargs))
        return not is_ordinary(args, kwargs, grad)

    def _reconsider(self) -> None:
        """A part that is left from now on may have been all that made the parts worth it."""
        rows = self._settings.report.rows
        rows[:] = [row for row in rows if row.variant != "its parts' plans"]
        self.__dict__["_decided"] = False

    def _decide(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first call: regions verify themselves in it; then the whole is verified and timed."""
        with self._settings.lock:
            if self._decided:
                return self.forward(*args, **kwargs)
            reference = ReferenceRun(self._original, "forward", args, kwargs)
            expected = None if reference.missing else reference.run()
            if self._settings.free_layouts and not are_contiguous((args, kwargs, expected)):
                self._begin(free_layouts=False)
            if reference.missing:
                result = self._original(*args, **kwargs)  # what it raises leaves all undecided
                self._keep_original(reference.missing)
            else:
                result = self._try(args, kwargs, reference, expected)
            self.__dict__["_decided"] = True
        return result

    def _try(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reference: ReferenceRun,
        expected: Any,
    ) -> Any:
        before = Snapshot(self._original, tensors_in(args, kwargs))
        try:
            result = self._shim(*args, **kwargs)
        except Exception as error:
            before.restore()
            if self._settings.free_layouts and isinstance(error, _OF_VIEWS):
                self._begin(free_layouts=False)
                return self._try(args, kwargs, reference, expected)
            result = self._original(*args, **kwargs)
            self._keep_original(f"with parts replaced it raises {_described(error)}")
            return result
        plans = {row.module for row in self._settings.report.rows if row.variant == "plan"}
        if not plans:
            self.__dict__["_shim"] = None
        elif "" not in plans:
            self.__dict__["_free"] = self._settings.free_layouts
            if not self._parts_hold(result, expected, reference):
                return expected
        return self._own_layout(result, args, kwargs)

    def _own_layout(self, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result as the original's, which makes contiguous images of contiguous images."""
        return contiguous(result) if self._free and are_contiguous((args, kwargs)) else result

    def _keep_original(self, reason: str) -> Row:
        row = Row("", type(self._original).__name__, "original", reason=reason)
        self._settings.report.rows.append(row)
        self.__dict__["_shim"] = None
        return row

    def _parts_hold(self, result: Any, expected: Any, reference: ReferenceRun) -> bool:
        """Compare and time the whole if only parts are planned; return whether they are right.

        It is timed on the reference: the whole may keep a record of its calls.
        """
        rows = self._settings.report.rows
        bound = verify.whole_bound([row.bound for row in rows if row.variant == "plan"])
        error = largest_error(result, expected)
        if not error <= bound:
            row = self._keep_original(f"its result is off by {error:.1e}, allowed {bound:.0e}")
            row.error, row.bound = error, bound
            return False
        row = Row("", type(self._original).__name__, "its parts' plans", error, bound)
        try:
            parts = rehearsal(self._shim, reference.module)
            row.original_ms, row.ours_ms = reference.times(
                lambda *args, **kwargs: self._own_layout(parts(*args, **kwargs), args, kwargs)
            )
        except Exception as failure:
            row.reason = f"a further call raises {_described(failure)}"
        else:
            row.decided = "timed"
            slower = (row.speedup or 0.0) < verify.WORTH_IT
            row.reason = "its parts' plans are not faster together" if slower else ""
        if row.reason:
            row.variant, self.__dict__["_shim"] = "original", None
        rows.append(row)
        return True

    def _after(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The original's result, or what it raises, after the plans raised ``error``.

        Without memory this call alone is the original's, else all that follow.
        """
        if not self._settings.examine and not _on_a_gpu(args, kwargs):
            raise error
        result = self._original(*args, **kwargs)
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            reason = f"with parts replaced it raises {_described(error)}"
            if self._free and isinstance(error, _OF_VIEWS):
                with self._lock:
                    self._begin(free_layouts=False)
                return result
            logger.warning("%s: the original runs from now on: %s", type(self).__name__, reason)
            self._keep_original(reason)
            self.__dict__["_decided"] = True
        return result

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

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Accelerated:
        self._original._apply(fn, recurse)
        return self

    def named_modules(
        self, *args: Any, **kwargs: Any
    ) -> Generator[tuple[str, nn.Module], None, None]:
        """The original's."""
        return self._original.named_modules(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Accelerated, (self._original, *self._options)

    def extra_repr(self) -> str:
        """The options."""
        precision, dtype, _ = self._options
        return f"precision={precision!r}" + (f", dtype={dtype}" if dtype else "")


_CONTAINER = (
    "__len__", "__bool__", "__getitem__", "__setitem__", "__delitem__", "__iter__",
    "__reversed__", "__contains__",
)  # fmt: skip


def _container_methods(cls: type[nn.Module]) -> tuple[str, ...]:
    return tuple(name for name in _CONTAINER if hasattr(cls, name))


@cache
def _with_methods(cls: type[Accelerated], names: tuple[str, ...]) -> Any:
    """``cls`` with these special methods, which Python looks up in classes alone."""

    def own(name: str) -> Callable[..., Any]:
        return lambda self, *args: getattr(self.__dict__["_original"], name)(*args)

    members = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), members | {n: own(n) for n in names}) if names else cls


def plan(
    model: nn.Module, precision: str = "default", dtype: torch.dtype | None = None
) -> Accelerated:
    """Plan ``model`` by rule, without comparing or timing.

    For trusted modules, this package's own.  The forward runs on tensors without data before any
    real one.  On a GPU the convolutions are timed, and if the plan raises an exception the original
    runs.

    Example:
        >>> network = denoise_ext.models.create_model("dxnet_s_gray", pretrained=True)
        >>> planned = denoise_ext.engine.plan(network, precision="strict")
        >>> planned(torch.rand(1, 1, 32, 32), 25.0).shape
        torch.Size([1, 1, 32, 32])
    """
    native()
    return Accelerated(model, precision, dtype, examine=False)


def accelerated_like(model: Accelerated, other: nn.Module) -> Accelerated:
    """Accelerate ``other`` with the options of ``model``."""
    return Accelerated(other, *model._options)


def _on_a_gpu(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(x.is_cuda for x in tensors_in(args, kwargs))


def _described(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _example(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, dict):
        return (), example
    if isinstance(example, tuple):
        return example, {}
    return (example,), {}


__all__ = ["Accelerated", "accelerate"]
