"""The package's operators: native kernels behind PyTorch functions.

Each works under autograd, ``torch.compile``, ``torch.export`` and ``torch.inference_mode``; the raw
operators are ``torch.ops.denoise_ext.*``.  :mod:`denoise_ext.reference` has the same functions in
plain PyTorch.  :func:`explain` names the kernel of a call, and the reason against each other one.
"""

from denoise_ext.ops import _conv2d_out as _conv2d_out  # fake kernels of the raw operators
from denoise_ext.ops import _entropy as _entropy
from denoise_ext.ops._explain import explain as explain
from denoise_ext.ops._layout import is_channels_last as is_channels_last
from denoise_ext.ops._library import kernel_devices as kernel_devices
from denoise_ext.ops.bilateral_blur import bilateral_blur, joint_bilateral_blur
from denoise_ext.ops.conv2d import conv2d
from denoise_ext.ops.conv_transpose2d import conv_transpose2d
from denoise_ext.ops.gaussian_blur2d import gaussian_blur2d
from denoise_ext.ops.motion import block_match, block_warp, recurrent_fuse

__all__ = [
    "bilateral_blur",
    "block_match",
    "block_warp",
    "conv2d",
    "conv_transpose2d",
    "gaussian_blur2d",
    "joint_bilateral_blur",
    "recurrent_fuse",
]
