"""Image quality measures."""

from denoise_ext.metrics.flicker import flicker
from denoise_ext.metrics.luma import luma
from denoise_ext.metrics.normals import angle, surface_normals
from denoise_ext.metrics.psnr import psnr
from denoise_ext.metrics.ssim import ssim
from denoise_ext.metrics.texture import high_frequency_energy, lpips, patch_wasserstein

__all__ = [
    "angle",
    "flicker",
    "high_frequency_energy",
    "lpips",
    "luma",
    "patch_wasserstein",
    "psnr",
    "ssim",
    "surface_normals",
]
