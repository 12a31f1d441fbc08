"""Training of denoising networks from a TOML configuration."""

from denoise_ext.training.config import ConfigError, TrainConfig, load_config
from denoise_ext.training.loop import TrainResult, train

__all__ = ["ConfigError", "TrainConfig", "TrainResult", "load_config", "train"]
