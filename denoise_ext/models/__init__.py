"""Denoising networks: build by name, load published and own checkpoints."""

from denoise_ext.models import dncnn, ffdnet  # noqa: F401  (each registers its models)
from denoise_ext.models._base import Denoiser
from denoise_ext.models._registry import (
    Pretrained,
    build_model,
    create_model,
    list_models,
    pretrained_info,
    register_architecture,
    register_model,
    register_pretrained,
)
from denoise_ext.models.checkpoints import save_model

__all__ = [
    "Denoiser",
    "Pretrained",
    "build_model",
    "create_model",
    "list_models",
    "pretrained_info",
    "register_architecture",
    "register_model",
    "register_pretrained",
    "save_model",
]
