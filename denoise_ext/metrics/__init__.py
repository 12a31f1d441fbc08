"""Image quality measures."""

from denoise_ext.metrics.psnr import psnr

__all__ = ["psnr"]
