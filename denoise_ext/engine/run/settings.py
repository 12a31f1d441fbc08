"""What the regions of an accelerated model share: the user's options, the report, the plans."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from denoise_ext.engine.report import Report

if TYPE_CHECKING:
    from denoise_ext.engine.run.plan import Plan


@dataclass
class Settings:
    """The user's options, and what belongs to no single region."""

    precision: str
    dtype: torch.dtype | None
    examine: bool = True  # False: take the best guess everywhere
    free_layouts: bool = True  # images between parts are laid out as plans prefer
    lock: threading.RLock = field(default_factory=threading.RLock)
    report: Report = field(default_factory=lambda: Report([]))
    # Times of a site of one kind and size serve all regions.
    timings: dict[str, list[float]] = field(default_factory=dict)
    # Called when a region that has had a plan is left for good.
    reconsider: Callable[[], None] = lambda: None
    # What runs, by the module's name; a plan that is dropped leaves its report.
    plans: list[tuple[str, weakref.ref[Plan]]] = field(default_factory=list)
