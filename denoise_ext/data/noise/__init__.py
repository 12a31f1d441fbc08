"""Synthetic noise: one function per kind, and chains of random kinds for training.

Every function takes images ``x`` (N, C, H, W), floating point, in [0, 1] (1.0 is white), and
returns a tensor of x's shape, dtype and device, **not clipped** unless stated. Strengths are a
number or a tensor (N,), one per image. ``generator`` is one ``torch.Generator`` for all,
or a list with one per image: what an image gets then does not depend on the batch it is in.
"""

from denoise_ext.data.noise.banding import add_banding_noise
from denoise_ext.data.noise.gaussian import add_gaussian_noise
from denoise_ext.data.noise.h264 import add_h264_artefacts
from denoise_ext.data.noise.impulse import add_salt_and_pepper_noise
from denoise_ext.data.noise.jpeg import add_jpeg_artefacts
from denoise_ext.data.noise.magnetic import add_rician_noise
from denoise_ext.data.noise.photo import PhotoNoise, add_photo_noise
from denoise_ext.data.noise.photons import (
    ISO_PRESETS,
    add_poisson_gaussian_noise,
    add_poisson_noise,
    camera_noise,
    iso_noise,
)
from denoise_ext.data.noise.pipeline import NoiseStep, add_clip_noise_chain, add_noise_chain
from denoise_ext.data.noise.speckle import add_speckle_noise

__all__ = [
    "ISO_PRESETS",
    "NoiseStep",
    "PhotoNoise",
    "add_banding_noise",
    "add_clip_noise_chain",
    "add_gaussian_noise",
    "add_h264_artefacts",
    "add_jpeg_artefacts",
    "add_noise_chain",
    "add_photo_noise",
    "add_poisson_gaussian_noise",
    "add_poisson_noise",
    "add_rician_noise",
    "add_salt_and_pepper_noise",
    "add_speckle_noise",
    "camera_noise",
    "iso_noise",
]
