"""The training configuration: TOML, checked, every error naming its key."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from denoise_ext.data.noise.pipeline import STEP_KINDS
from denoise_ext.training.data_sections import Noise
from denoise_ext.training.schema import TrainConfig

DATA_VARIABLE = "DENOISE_EXT_DATA"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message has one line per mistake.

    Example:
        >>> try:
        ...     denoise_ext.training.load_config("recipe.toml", ["run.steps=-1"])
        ... except denoise_ext.training.ConfigError as error:
        ...     print("run.steps" in str(error))
        True
    """


def load_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a TOML file, apply ``section.key=value`` overrides, check everything.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has wrong keys or values; one line
            per mistake, with the key, the value and what is allowed.

    Example:
        >>> config = denoise_ext.training.load_config("recipe.toml", ["run.steps=100"])
        >>> config.run.steps
        100
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
        if section is Noise and part == "chain":
            section = STEP_KINDS  # a list of steps: place in the list and kind follow
        elif section is STEP_KINDS:
            section = STEP_KINDS.get(part, STEP_KINDS)
        else:
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


def override(key: str, value: str | list[str]) -> str:
    """An override that keeps texts texts: ``run.out=2024`` would be a number."""
    # A JSON text is a TOML text but for this one character, which JSON leaves as it is.
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{key}={text}"


def data_path(name: str) -> Path:
    """``name`` under $DENOISE_EXT_DATA (or the current directory), unless it is absolute."""
    return user_path(os.environ.get(DATA_VARIABLE, "")) / user_path(name)


def user_path(name: str) -> Path:
    """``name``, ``~`` in front of it being the home directory: no shell has expanded it."""
    return Path(os.path.expanduser(name))
