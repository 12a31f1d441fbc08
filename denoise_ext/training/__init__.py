"""Training of denoising networks from a TOML configuration."""

from denoise_ext.training.config import ConfigError, load_config
from denoise_ext.training.loop import TrainResult, train
from denoise_ext.training.schema import TrainConfig

__all__ = ["ConfigError", "TrainConfig", "TrainResult", "load_config", "train"]
