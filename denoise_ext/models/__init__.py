"""Denoising networks: build by name, load published and own checkpoints."""

from denoise_ext.models import (  # noqa: F401  (they register)
    deconvnet,
    dncnn,
    drunet,
    dxnet,
    dxnet_blind,
    ffdnet,
    nafnet,
    sepdncnn,
)
from denoise_ext.models import pretrained as pretrained  # after the names that it refers to
from denoise_ext.models._base import Denoiser
from denoise_ext.models._entry_points import EntryPointWarning
from denoise_ext.models._folding import fold_batchnorm
from denoise_ext.models._recognise import CheckpointError
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
from denoise_ext.models.checkpoints import load_checkpoint, read_metadata, save_model
from denoise_ext.models.cost import gflop_per_megapixel
from denoise_ext.models.export import ExportError, export_onnx
from denoise_ext.models.from_module import FromModule, from_module
from denoise_ext.models.geometry import Geometry, GeometryError

__all__ = [
    "CheckpointError",
    "Denoiser",
    "EntryPointWarning",
    "ExportError",
    "FromModule",
    "Geometry",
    "GeometryError",
    "Pretrained",
    "build_model",
    "create_model",
    "export_onnx",
    "fold_batchnorm",
    "from_module",
    "gflop_per_megapixel",
    "list_models",
    "load_checkpoint",
    "pretrained_info",
    "read_metadata",
    "register_architecture",
    "register_model",
    "register_pretrained",
    "save_model",
]
