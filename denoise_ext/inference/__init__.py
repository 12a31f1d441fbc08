"""Denoising whole images: `denoise`, and the pieces it is made of."""

from denoise_ext.inference.denoise import default_model, denoise
from denoise_ext.inference.device import choose_device
from denoise_ext.inference.evaluation import Protocol, Scores, clean_pixels, evaluate_image
from denoise_ext.inference.loading import load_model
from denoise_ext.inference.pixels import from_unit, to_unit

__all__ = [
    "Protocol",
    "Scores",
    "choose_device",
    "clean_pixels",
    "default_model",
    "denoise",
    "evaluate_image",
    "from_unit",
    "load_model",
    "to_unit",
]
