"""Names -> models: architectures, named models and the trained weights that exist for them."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch

from denoise_ext.models._base import Denoiser

_WEIGHTS_DIR = Path(__file__).parent / "weights"

_architectures: dict[str, type[Denoiser]] = {}
_models: dict[str, Callable[..., Denoiser]] = {}
_pretrained: dict[str, Pretrained] = {}

M = TypeVar("M", bound=Callable[..., Denoiser])
A = TypeVar("A", bound=type[Denoiser])


@dataclass(frozen=True)
class Pretrained:
    """Trained weights of one named model, stored next to this file in ``weights/``."""

    file: str  # in denoise_ext/models/weights
    sha256: str  # of the whole file
    config: dict[str, Any]  # what build_model takes
    recipe: str  # the training recipe that produced it
    training_data: str
    noise: str
    steps: int
    licence: str
    psnr: dict[str, float] = field(default_factory=dict)  # "BSD68 sigma 25" -> dB, as measured
    protocol: str = ""  # how psnr was measured

    @property
    def path(self) -> Path:
        return _WEIGHTS_DIR / self.file

    def verify(self) -> None:
        """Raise RuntimeError unless the file is there and has the recorded SHA-256."""
        if not self.path.is_file():
            raise RuntimeError(f"weights file {self.path} is missing from this installation")
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise RuntimeError(
                f"weights file {self.path} is damaged: sha256 {digest}, expected {self.sha256}"
            )


def register_architecture(name: str) -> Callable[[A], A]:
    """Class decorator: ``config["family"] == name`` builds this class."""

    def register(cls: A) -> A:
        if name in _architectures:
            raise ValueError(f"architecture {name!r} is already registered")
        _architectures[name] = cls
        return cls

    return register


def register_model(function: M) -> M:
    """Decorator: make ``function(**kwargs) -> Denoiser`` available under its own name."""
    name = function.__name__
    if name in _models:
        raise ValueError(f"model {name!r} is already registered")
    _models[name] = function
    return function


def register_pretrained(name: str, weights: Pretrained) -> None:
    """Attach trained weights to a registered model name."""
    if name not in _models:
        raise ValueError(f"no model {name!r} to attach weights to")
    if name in _pretrained:
        raise ValueError(f"model {name!r} already has weights")
    _pretrained[name] = weights


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the closest ones that do."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}"


def build_model(config: dict[str, Any]) -> Denoiser:
    """The untrained network ``config`` (a model's ``.config``) describes.

    Raises ValueError for an unknown family or option.
    """
    options = dict(config)
    family = options.pop("family", None)
    if family not in _architectures:
        raise ValueError(unknown_name("model family", family, _architectures))
    try:
        return _architectures[family](**options)
    except TypeError as error:
        message = str(error).replace("__init__()", "model").split(".")[-1].strip()
        raise ValueError(f"model family {family!r}: {message}") from None


def list_models(pattern: str | None = None, pretrained: bool = False) -> list[str]:
    """Registered model names, sorted; ``pattern`` filters like a shell glob (``"ffdnet*"``).

    ``pretrained=True`` keeps only those that ship with trained weights.
    """
    names = sorted(_pretrained if pretrained else _models)
    return names if pattern is None else fnmatch.filter(names, pattern)


def pretrained_info(name: str) -> Pretrained | None:
    """What is known about the shipped weights of ``name``; None where there are none."""
    if name not in _models:
        raise ValueError(unknown_name("model", name, _models))
    return _pretrained.get(name)


def create_model(
    name: str,
    pretrained: bool = False,
    checkpoint_path: str | PathLike[str] | None = None,
    **kwargs: Any,
) -> Denoiser:
    """Build a model by name.

    Args:
        name: one of :func:`list_models`.
        pretrained: load the shipped weights (checked against their SHA-256); eval mode.
        checkpoint_path: load these weights instead (see ``load_checkpoint``); they must fit the
            named model and ``kwargs``; eval mode.
        **kwargs: changes to the model's default configuration, e.g. ``channels=3, depth=20``.

    Raises:
        ValueError: unknown name (with the closest known ones) or option, no shipped weights,
            weights that do not fit.
        RuntimeError: the shipped file is missing or damaged.
    """
    if name not in _models:
        raise ValueError(unknown_name("model", name, _models))
    if pretrained and checkpoint_path is not None:
        raise ValueError("pretrained=True and checkpoint_path exclude each other")
    loads = pretrained or checkpoint_path is not None
    try:
        # What weights are loaded for is built for its configuration alone.
        with torch.device("meta") if loads else nullcontext():
            model = _models[name](**kwargs)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        message = str(error).split("() ")[-1]
        raise ValueError(f"model {name!r}: {message}") from None
    if pretrained:
        return _load_pretrained(name, model)
    if checkpoint_path is not None:
        return _load_into(model, checkpoint_path, f"model {name!r}")
    return model


def _load_pretrained(name: str, model: Denoiser) -> Denoiser:
    entry = _pretrained.get(name)
    if entry is None:
        have = ", ".join(sorted(_pretrained)) or "none"
        raise ValueError(f"model {name!r} ships without weights; with weights: {have}")
    entry.verify()
    return _load_into(model, entry.path, f"model {name!r}")


def _load_into(model: Denoiser, path: str | PathLike[str], what: str) -> Denoiser:
    from denoise_ext.models.checkpoints import load_checkpoint  # imports this module

    loaded = load_checkpoint(path)
    wanted = {**model.config, "batch_norm": False} if "batch_norm" in model.config else model.config
    different = [
        f"{key} is {loaded.config.get(key)!r}, wanted {value!r}"
        for key, value in wanted.items()
        if loaded.config.get(key) != value
    ]
    if different:
        raise ValueError(f"checkpoint {path} does not fit {what}: {'; '.join(different)}")
    return loaded
