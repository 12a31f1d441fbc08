"""Sample pictures, curves and TensorBoard logs of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoise_ext.io.atomic import replace_file
from denoise_ext.training.task import Validator

_MISSING = "is not installed; pip install denoise-ext[train]"


def write_samples(path: Path, pictures: Sequence[Tensor]) -> None:
    """A PNG with one row for each picture (1, C, h, w), clipped to [0, 1]."""
    rows = [picture[0] for picture in pictures]
    width = max(row.shape[2] for row in rows)
    padded = [torch.nn.functional.pad(row, (0, width - row.shape[2])) for row in rows]
    pixels = (torch.cat(padded, dim=1).clamp(0, 1) * 255.0).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path.parent.mkdir(exist_ok=True)
    replace_file(path, buffer.getvalue())


def write_curves(path: Path, rows: Sequence[dict[str, str]], validator: Validator | None) -> bool:
    """Loss and quality of a log over its steps, as a PNG; False where matplotlib is missing."""
    figures = _matplotlib()
    if figures is None or not rows:
        return False
    figure = figures.Figure(figsize=(8, 6), layout="constrained")
    loss, quality = figure.subplots(2, 1, sharex=True)
    steps, losses = _curve(rows, "loss")
    loss.plot(steps, losses, linewidth=0.8)
    if all(value > 0 for value in losses):  # that of PSNR is negative
        loss.set_yscale("log")
    loss.set_ylabel("loss of one batch")
    quality.set_xlabel("step")
    if validator is not None:
        for column, label in validator.columns.items():
            quality.plot(*_curve(rows, column), marker=".", label=label)
        quality.legend()
        unit = f", {validator.unit}" if validator.unit else ""
        quality.set_ylabel(f"{validator.metric.upper()} of held-out samples{unit}")
    for axes in (loss, quality):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    replace_file(path, buffer.getvalue())
    return True


def _matplotlib() -> ModuleType | None:
    try:
        import matplotlib.figure
    except ImportError:
        return None
    return matplotlib.figure


def _curve(rows: Sequence[dict[str, str]], column: str) -> tuple[list[int], list[float]]:
    points = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
    return [step for step, _ in points], [value for _, value in points]


class EventLog(Protocol):
    """What is used of TensorBoard's writer."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """One point of a curve."""

    def close(self) -> None:
        """Write out what is left."""


def tensorboard_log(folder: Path, wanted: str, step: int) -> EventLog | None:
    """A TensorBoard writer in ``folder`` that continues after ``step``; None without TensorBoard.

    ``wanted`` is run.tensorboard; ValueError where it is "on" and TensorBoard is missing.
    """
    if wanted == "off":
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        if wanted == "on":
            raise ValueError(f"run.tensorboard is 'on', but tensorboard {_MISSING}") from None
        return None
    # Points of steps from here on, of a run that was killed, are dropped by TensorBoard.
    return SummaryWriter(str(folder), purge_step=step + 1)


def log_row(events: EventLog, row: dict[str, Any], validator: Validator | None) -> None:
    """The numbers of a row of the log, as TensorBoard's curves."""
    judged = {} if validator is None else validator.columns
    for column, value in row.items():
        if column not in ("step", "seconds", "waited"):
            name = column
            if validator is not None and column in judged:
                name = f"{validator.metric}/{judged[column]}"
            events.add_scalar(name, float(value), int(row["step"]))
