"""Every operator of :mod:`denoise_ext.ops` in plain PyTorch, with the same signature.

They are the oracle the kernels are tested against, and they run where the kernels do not: on any
device, in any floating dtype, differentiable as often as PyTorch is.
"""

from denoise_ext.reference.conv import conv2d, conv_transpose2d
from denoise_ext.reference.filters import bilateral_blur, gaussian_blur2d, joint_bilateral_blur
from denoise_ext.reference.motion import block_match, block_warp, recurrent_fuse
from denoise_ext.reference.norm import group_norm, layer_norm2d

__all__ = [
    "bilateral_blur",
    "block_match",
    "block_warp",
    "conv2d",
    "conv_transpose2d",
    "gaussian_blur2d",
    "group_norm",
    "joint_bilateral_blur",
    "layer_norm2d",
    "recurrent_fuse",
]
