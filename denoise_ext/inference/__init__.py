"""Denoising whole images: `denoise`, `Denoiser`, and the pieces they are made of."""

import importlib
from typing import TYPE_CHECKING, Any

from denoise_ext.inference.denoise import denoise
from denoise_ext.inference.denoiser import Denoiser, Result
from denoise_ext.inference.device import choose_device
from denoise_ext.inference.families import default_model
from denoise_ext.inference.loading import load_model
from denoise_ext.inference.noise_level import estimate_sigma
from denoise_ext.inference.pixels import from_unit, to_unit

if TYPE_CHECKING:
    from denoise_ext.inference.evaluation import (
        Protocol,
        Scores,
        clean_pixels,
        evaluate_image,
        evaluate_pair,
    )

__all__ = [
    "Denoiser",
    "Protocol",
    "Result",
    "Scores",
    "choose_device",
    "clean_pixels",
    "default_model",
    "denoise",
    "estimate_sigma",
    "evaluate_image",
    "evaluate_pair",
    "from_unit",
    "load_model",
    "to_unit",
]

_OF_EVALUATION = ("Protocol", "Scores", "clean_pixels", "evaluate_image", "evaluate_pair")


def __getattr__(name: str) -> Any:
    """Import the evaluation on first use: synthetic noise loads pydantic, denoising does not."""
    if name in _OF_EVALUATION:
        return getattr(importlib.import_module("denoise_ext.inference.evaluation"), name)
    raise AttributeError(f"module 'denoise_ext.inference' has no attribute {name!r}")
