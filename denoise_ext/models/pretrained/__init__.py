"""The trained weights that ship with the package, and where they come from."""

from denoise_ext.models.pretrained import compression as compression
from denoise_ext.models.pretrained import denoising as denoising
from denoise_ext.models.pretrained import upscaling as upscaling
from denoise_ext.models.pretrained import video as video
