"""The training configuration: TOML, checked, every error naming its key."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]

DATA_VARIABLE = "DENOISE_EXT_DATA"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message has one line per mistake."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Data(_Section):
    """What to train on."""

    train: str = Field(
        min_length=1,
        description="Image folder or list file; relative to $DENOISE_EXT_DATA, or to the current "
        "directory where that is not set.",
    )
    channels: Literal[1, 3] = Field(1, description="1: gray (Pillow's L of colour images), 3: RGB.")
    crop: PositiveInt = Field(64, description="Side of the square training crops in pixels.")
    augment: bool = Field(True, description="Random flips and quarter turns.")


class Noise(_Section):
    """White Gaussian noise, its sigma drawn uniformly for every crop; not clipped."""

    sigma_min: NonNegativeFloat = Field(0.0, description="On the 0-255 scale.")
    sigma_max: NonNegativeFloat = Field(55.0, description="On the 0-255 scale.")

    @model_validator(mode="after")
    def _ordered(self) -> Noise:
        if self.sigma_max < self.sigma_min:
            raise ValueError(f"sigma_max must be >= sigma_min ({self.sigma_min:g})")
        return self


class Model(_Section):
    """A registered model and changes to its default configuration."""

    name: str = Field(min_length=1)
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    start: str = Field(
        "",
        description="Checkpoint whose weights training starts from, relative to the current "
        "directory; empty: random weights.",
    )


class Loss(_Section):
    """``mean((output - clean)^2) + weight_decay / 2 * sum(w^2)`` over the convolution weights."""

    name: Literal["mse"] = "mse"
    weight_decay: NonNegativeFloat = 0.0


class Optimiser(_Section):
    """Adam (Kingma, Ba 2015), or Muon (``muon.py``; beta1 0.95 and rates near 0.005 suit it)."""

    name: Literal["adam", "muon"] = "adam"
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    eps: PositiveFloat = 1e-8
    clip_norm: NonNegativeFloat = Field(
        0.0, description="Largest norm of the gradient of all weights together; 0: no limit."
    )


class Schedule(_Section):
    """Learning rate: linear warm-up from 0 to peak, then a half cosine down to final."""

    peak: PositiveFloat = 1e-3
    final: NonNegativeFloat = 1e-6
    warmup_steps: NonNegativeInt = 300


class Validation(_Section):
    """PSNR on training images that are held out (never trained on)."""

    images: NonNegativeInt = Field(8, description="How many; spread evenly over the list.")
    crop: PositiveInt = Field(256, description="Largest side of the centre crop that is used.")
    sigmas: list[NonNegativeFloat] = Field(default_factory=lambda: [15.0, 25.0, 50.0])
    every: PositiveInt = Field(1000, description="Steps between validations.")


class Run(_Section):
    """How the run is carried out."""

    out: str = Field(min_length=1, description="Run directory, relative to the current one.")
    steps: PositiveInt
    batch_size: PositiveInt = 16
    seed: NonNegativeInt = 0
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: torch.autocast; weights, loss and optimiser stay float32."
    )
    layers: Literal["denoise_ext", "torch"] = Field(
        "denoise_ext", description="Which convolution layers train; the weights are the same."
    )
    threads: NonNegativeInt = Field(0, description="CPU threads; 0: torch's default.")
    checkpoint_every: PositiveInt = 1000
    log_every: PositiveInt = 100


class TrainConfig(_Section):
    """A whole training configuration."""

    data: Data
    noise: Noise = Field(default_factory=Noise)
    model: Model
    loss: Loss = Field(default_factory=Loss)
    optimiser: Optimiser = Field(default_factory=Optimiser)
    schedule: Schedule = Field(default_factory=Schedule)
    validation: Validation = Field(default_factory=Validation)
    run: Run

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.schedule.warmup_steps >= self.run.steps:
            raise ValueError(
                f"schedule.warmup_steps must be below run.steps ({self.run.steps}), "
                f"got {self.schedule.warmup_steps}"
            )
        return self


def load_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a TOML file, apply ``section.key=value`` overrides, check everything.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has wrong keys or values; one line
            per mistake, with the key, the value and what is allowed.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    for override in overrides or []:
        _apply_override(tree, override)
    return parse_config(tree, str(path))


def parse_config(tree: dict[str, Any], source: str = "config") -> TrainConfig:
    """Check a configuration given as nested dicts; raises ConfigError."""
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        lines = [f"{source}: {_describe(item)}" for item in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _describe(item: Any) -> str:
    """One pydantic error as ``key: what is wrong``."""
    key = ".".join(str(part) for part in item["loc"])
    kind, message = item["type"], item["msg"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key; allowed here: {', '.join(_allowed_keys(item['loc'][:-1]))}"
    if kind == "missing":
        return f"{key}: required, but not given"
    message = message.removeprefix("Value error, ")
    if kind == "value_error":  # of a whole section: the message names its keys
        return f"{key}: {message}" if key else message
    return f"{key}: got {item['input']!r}; {message[:1].lower()}{message[1:]}"


def _allowed_keys(loc: tuple[Any, ...]) -> list[str]:
    section: Any = TrainConfig
    for part in loc:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """``a.b=value`` into the nested dict; the value in TOML syntax, or a bare string."""
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or len(parts) < 2 or not all(parts):
        raise ConfigError(f"--set must be section.key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        value = text.strip()
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: {part!r} is not a section")
    tree[parts[-1]] = value


def data_path(name: str) -> Path:
    """``name`` under $DENOISE_EXT_DATA (or the current directory), unless it is absolute."""
    return Path(os.environ.get(DATA_VARIABLE, "")) / name
