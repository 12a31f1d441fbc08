"""Denoising whole images: `denoise`, `Denoiser`, and the pieces they are made of."""

from denoise_ext.inference.denoise import denoise
from denoise_ext.inference.denoiser import Denoiser, Result
from denoise_ext.inference.device import choose_device
from denoise_ext.inference.evaluation import (
    Protocol,
    Scores,
    clean_pixels,
    evaluate_image,
    evaluate_pair,
)
from denoise_ext.inference.families import default_model
from denoise_ext.inference.loading import load_model
from denoise_ext.inference.noise_level import estimate_sigma
from denoise_ext.inference.pixels import from_unit, to_unit

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
