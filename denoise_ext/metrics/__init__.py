"""Image quality measures."""

from denoise_ext.metrics.flicker import flicker
from denoise_ext.metrics.luma import luma
from denoise_ext.metrics.psnr import psnr
from denoise_ext.metrics.ssim import ssim

__all__ = ["flicker", "luma", "psnr", "ssim"]
