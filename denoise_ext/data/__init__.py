"""Training data: image cache, random crops, synthetic noise."""

from denoise_ext.data.dataset import ImageCache, PatchSampler, list_image_files
from denoise_ext.data.noise import add_gaussian_noise
from denoise_ext.data.random import step_generator, step_seed

__all__ = [
    "ImageCache",
    "PatchSampler",
    "add_gaussian_noise",
    "list_image_files",
    "step_generator",
    "step_seed",
]
