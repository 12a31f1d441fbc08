"""What a training run returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from denoise_ext.training.task import Label


@dataclass
class TrainResult:
    """The result of a run.

    Example:
        >>> result = denoise_ext.training.TrainResult(
        ...     Path("run/model.safetensors"), steps=400, validation={25.0: 29.0},
        ...     before={25.0: 28.9}, finished=True,
        ... )
        >>> round(result.validation[25.0] - result.before[25.0], 2)  # dB gained
        0.1
    """

    model_path: Path
    steps: int
    validation: dict[Label, float]  # sigma (0-255 scale), "chain", "pairs" ... -> figure
    before: dict[Label, float]  # of the weights of model.start
    finished: bool  # False: run.minutes are over, and there is no model_path yet
    is_main: bool = True  # whether this process is the one that wrote it
    metric: str = "psnr"  # what the figures are
    unit: str = "dB"
