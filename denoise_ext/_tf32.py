"""PyTorch's setting for float32 convolutions on a GPU, which ours follow by default."""

from __future__ import annotations

from typing import Any

import torch


def tf32_allowed() -> bool:
    """Whether PyTorch's own convolutions may round float32 factors to tf32 now.

    The setting is ``torch.backends.cudnn.conv.fp32_precision``.  ``torch.backends.fp32_precision``,
    ``torch.backends.cudnn.fp32_precision`` and ``torch.backends.cudnn.allow_tf32`` change it too.
    """
    cudnn: Any = torch.backends.cudnn  # PyTorch makes `conv` an attribute of it at run time
    return cudnn.conv.fp32_precision == "tf32"
