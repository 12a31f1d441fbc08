"""Undo blur, missing pixels and mosaics, with a denoiser as prior; enlarge images.

Functions for one image: `deblur`, `inpaint`, `demosaic`. `Restorer` keeps a network ready for many
images and takes any `Operator`. `upscale` and `Upscaler` enlarge images with a network of their
own, `GuidedUpscaler` with a picture of the larger size. `fit_kernel` and `fit_inverse_kernel` learn
from pairs of images. `estimate_kernel` finds the blur in a blurred image alone.
"""

from denoise_ext.restore.blind import estimate_kernel
from denoise_ext.restore.fit import fit_inverse_kernel, fit_kernel
from denoise_ext.restore.guided_upscaler import GuidedUpscaler
from denoise_ext.restore.kernels import disk_kernel, gaussian_kernel, motion_kernel, open_kernel
from denoise_ext.restore.operators import Blur, Mask, Mosaic, Operator
from denoise_ext.restore.restorer import Restored, Restorer
from denoise_ext.restore.tasks import deblur, demosaic, inpaint
from denoise_ext.restore.upscaled import Upscaled
from denoise_ext.restore.upscaler import Upscaler, upscale

__all__ = [
    "Blur",
    "GuidedUpscaler",
    "Mask",
    "Mosaic",
    "Operator",
    "Restored",
    "Restorer",
    "Upscaled",
    "Upscaler",
    "deblur",
    "demosaic",
    "disk_kernel",
    "estimate_kernel",
    "fit_inverse_kernel",
    "fit_kernel",
    "gaussian_kernel",
    "inpaint",
    "motion_kernel",
    "open_kernel",
    "upscale",
]
