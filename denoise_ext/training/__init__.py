"""Training of networks from a TOML configuration."""

from denoise_ext.training.adapt import Adapted, adapt
from denoise_ext.training.config import ConfigError, load_config
from denoise_ext.training.loop import train
from denoise_ext.training.objectives import SeveralTasks, Supervised, build_objective
from denoise_ext.training.result import TrainResult
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.sections import Head
from denoise_ext.training.task import LearningObjective, Sampler, Task, Validator, register_task

__all__ = [
    "Adapted",
    "ConfigError",
    "Head",
    "LearningObjective",
    "Sampler",
    "SeveralTasks",
    "Supervised",
    "Task",
    "TrainConfig",
    "TrainResult",
    "Validator",
    "adapt",
    "build_objective",
    "load_config",
    "register_task",
    "train",
]
