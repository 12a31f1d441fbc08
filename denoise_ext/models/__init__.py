"""Denoising networks: build by name, load published and own checkpoints."""

from denoise_ext.models import (  # noqa: F401  (they register)
    deconvnet,
    dncnn,
    drunet,
    dxcodec,
    dxnet,
    dxnet_blind,
    dxnet_guided,
    dxnet_normals,
    dxnet_vae,
    fastdvdnet,
    ffdnet,
    nafnet,
    rdxnet,
    rdxnet_blind,
    rrdb,
    sepdncnn,
    span,
    srnet,
    srvgg,
)
from denoise_ext.models import pretrained as pretrained  # after the names that it refers to
from denoise_ext.models.checkpoints import load_checkpoint, read_metadata, save_model
from denoise_ext.models.dncnn import fold_batchnorm
from denoise_ext.models.entry_points import EntryPointWarning
from denoise_ext.models.factory import create_model
from denoise_ext.models.image_denoiser import ImageDenoiser, ImageNetwork, ImageUpscaler
from denoise_ext.models.interpolation import interpolate
from denoise_ext.models.network import Network, Port, Signature
from denoise_ext.models.recognise import CheckpointError
from denoise_ext.models.registry import (
    Pretrained,
    build_model,
    list_models,
    pretrained_info,
    register_architecture,
    register_model,
    register_pretrained,
)

__all__ = [
    "CheckpointError",
    "EntryPointWarning",
    "ImageDenoiser",
    "ImageNetwork",
    "ImageUpscaler",
    "Network",
    "Port",
    "Pretrained",
    "Signature",
    "build_model",
    "create_model",
    "fold_batchnorm",
    "interpolate",
    "list_models",
    "load_checkpoint",
    "pretrained_info",
    "read_metadata",
    "register_architecture",
    "register_model",
    "register_pretrained",
    "save_model",
]
