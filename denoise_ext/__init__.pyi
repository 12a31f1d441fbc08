"""Names of the package for type checkers: `__init__.py` imports them when they are first used."""

from denoise_ext import (
    analysis,
    codec,
    data,
    engine,
    export,
    integrations,
    io,
    jobs,
    metrics,
    models,
    nn,
    ops,
    reference,
    report,
    resampling,
    restore,
    runtime,
    service,
    tasks,
    training,
)
from denoise_ext._info import info
from denoise_ext.engine.accelerate import accelerate
from denoise_ext.tasks import Denoiser, NoiseProfile, VideoDenoiser, analyse_noise
from denoise_ext.tasks.denoise import denoise

__version__: str

__all__ = [
    "Denoiser", "NoiseProfile", "VideoDenoiser", "__version__", "accelerate", "analyse_noise",
    "analysis", "codec", "data", "denoise", "engine", "export", "info", "integrations", "io",
    "jobs", "metrics", "models", "nn", "ops", "reference", "report", "resampling", "restore",
    "runtime", "service", "tasks", "training",
]  # fmt: skip
