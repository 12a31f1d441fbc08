"""Denoise images (`denoise`, `Denoiser`) and evaluate the result."""

import importlib
from typing import TYPE_CHECKING, Any

from denoise_ext.tasks.denoise import denoise
from denoise_ext.tasks.denoiser import Denoiser
from denoise_ext.tasks.noise_analysis import NoiseProfile, analyse_noise
from denoise_ext.tasks.noise_level import estimate_sigma
from denoise_ext.tasks.result import Result
from denoise_ext.tasks.value_range import from_unit, to_unit
from denoise_ext.tasks.video_denoiser import VideoDenoiser

if TYPE_CHECKING:
    from denoise_ext.tasks.evaluation import (
        Protocol,
        Scores,
        clean_pixels,
        evaluate_image,
        evaluate_pair,
    )

__all__ = [
    "Denoiser",
    "NoiseProfile",
    "Protocol",
    "Result",
    "Scores",
    "VideoDenoiser",
    "analyse_noise",
    "clean_pixels",
    "denoise",
    "estimate_sigma",
    "evaluate_image",
    "evaluate_pair",
    "from_unit",
    "to_unit",
]

_OF_EVALUATION = ("Protocol", "Scores", "clean_pixels", "evaluate_image", "evaluate_pair")


def __getattr__(name: str) -> Any:
    """Import the evaluation on first use: synthetic noise loads pydantic, denoising does not."""
    if name in _OF_EVALUATION:
        return getattr(importlib.import_module("denoise_ext.tasks.evaluation"), name)
    raise AttributeError(f"module 'denoise_ext.tasks' has no attribute {name!r}")
