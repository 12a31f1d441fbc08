"""Training data: decoded images, random crops, synthetic noise, batches ahead of their step."""

from denoise_ext._cache import default_folder as default_cache_folder
from denoise_ext.data.cache import ImageCache
from denoise_ext.data.files import fingerprint, list_image_files, list_training_files, without
from denoise_ext.data.noise import add_gaussian_noise
from denoise_ext.data.prefetch import Prefetcher
from denoise_ext.data.random import step_generator, step_seed
from denoise_ext.data.sampler import PatchSampler

__all__ = [
    "ImageCache",
    "PatchSampler",
    "Prefetcher",
    "add_gaussian_noise",
    "default_cache_folder",
    "fingerprint",
    "list_image_files",
    "list_training_files",
    "step_generator",
    "step_seed",
    "without",
]
