"""Registry of architectures, named models and their trained weights."""

from __future__ import annotations

import bisect
import dataclasses
import fnmatch
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from denoise_ext._suggestions import did_you_mean
from denoise_ext.models.entry_points import load_entry_points
from denoise_ext.models.network import Network

_WEIGHTS_DIR = Path(__file__).parent / "weights"

_architectures: dict[str, type[Network]] = {}
_models: dict[str, Callable[..., Network]] = {}
_pretrained: dict[str, Pretrained] = {}

IMPORT_HINT = "One of your own: import its module first, on the command line with --import MODULE"

M = TypeVar("M", bound=Callable[..., Network])
A = TypeVar("A", bound=type[Network])


@dataclass(frozen=True)
class Factors:
    """How far the stated uncertainty of a network is from its errors, at one level of noise.

    Pairs are for smooth places and for places with detail (`tasks.expected_error`).
    """

    variance_ratio: tuple[float, float]
    """Mean squared error over the noise's variance times the mean of the Jacobian's diagonal;
    geometric mean over images."""
    variance_ratio_error: tuple[float, float]
    """Standard deviation of its logarithm over images."""
    correlation: float
    """Of the two logarithms over images."""
    interval_90: float
    """Conformal factor: an error is at most so many stated deviations in 90 % of the pixels."""
    removed: float = 0.0
    """Of the noise's variance: squared error where the Jacobian shows none, as of fine grain."""

    def towards(self, other: Factors, share: float) -> Factors:
        """Between this (share 0) and another (share 1)."""

        def between(a: Any, b: Any) -> Any:
            if isinstance(a, tuple):
                return tuple(between(*pair) for pair in zip(a, b, strict=True))
            return (1 - share) * a + share * b

        names = (item.name for item in dataclasses.fields(self))
        return Factors(*(between(getattr(self, name), getattr(other, name)) for name in names))


@dataclass(frozen=True)
class Calibration:
    """`Factors` of a network at several levels of noise, fitted on images held out."""

    levels: Mapping[float, Factors]
    """By level on the 0-255 scale, ascending."""
    images: str
    """What the factors were fitted on."""

    def at(self, sigma: float) -> Factors:
        """The factors at a level: between two levels linear in its logarithm, beyond constant."""
        known = list(self.levels)
        place = bisect.bisect_left(known, sigma)
        if place == 0 or place == len(known):
            return self.levels[known[min(place, len(known) - 1)]]
        low, high = known[place - 1], known[place]
        share = math.log(sigma / low) / math.log(high / low)
        return self.levels[low].towards(self.levels[high], share)


@dataclass(frozen=True)
class Pretrained:
    """Trained weights of one named model.

    Example:
        >>> facts = denoise_ext.models.pretrained_info("dxnet_s_gray")
        >>> facts.verify()  # RuntimeError: the file is damaged
        >>> facts.licence
        'Apache-2.0'
    """

    file: str  # an absolute path, or a name in denoise_ext/models/weights
    sha256: str  # of the whole file
    config: dict[str, Any]  # what build_model takes
    recipe: str  # the training recipe that produced it
    training_data: str
    noise: str
    steps: int
    licence: str
    psnr: dict[str, float] = field(default_factory=dict)  # "BSD68 sigma 25" -> dB, as measured
    protocol: str = ""  # how psnr was measured
    calibration: Calibration | None = None  # of the uncertainty (`tasks.uncertainty`)
    textured: str = ""  # the model that was trained on from these weights for natural detail

    @property
    def path(self) -> Path:
        """Where the file lies in this installation."""
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
    """Class decorator: ``config["family"] == name`` builds this class.

    Sets the class's ``family`` to ``name``. A class that is defined again (a notebook's cell, a
    reloaded module) takes the place of the first.

    Raises:
        TypeError: not a subclass of :class:`Network`.
        ValueError: a name that is empty, or that another class has; ``family`` is another name.

    Example:
        >>> @denoise_ext.models.register_architecture("example_family")
        ... class Same(denoise_ext.models.ImageDenoiser):
        ...     def __init__(self, channels: int = 1) -> None:
        ...         super().__init__(channels, needs_sigma=False)
        ...     @property
        ...     def config(self):
        ...         return {"family": self.family, "channels": self.in_channels}
        ...     def denoise(self, x, noise_map):
        ...         return x
        >>> denoise_ext.models.build_model({"family": "example_family", "channels": 3}).in_channels
        3
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a text that is not empty, got {name!r}")

    def register(cls: A) -> A:
        if not (isinstance(cls, type) and issubclass(cls, Network)):
            raise TypeError(f"architecture {name!r}: {cls!r} is no subclass of models.Network")
        if cls.__dict__.get("family", name) != name:
            raise ValueError(f"architecture {name!r}: {cls.__name__}.family is {cls.family!r}")
        _check_free("architecture", name, _architectures.get(name), cls)
        cls.family = name
        _architectures[name] = cls
        return cls

    return register


def register_model(function: M) -> M:
    """Decorator: make ``function(**kwargs) -> Network`` available under its own name.

    ``kwargs`` are changes to the model's defaults. A function that is defined again takes the
    place of the first.

    Raises ValueError for a name that another function has.

    Example:
        >>> @denoise_ext.models.register_model
        ... def example_small(**options):
        ...     return denoise_ext.models.create_model("dncnn_gray", **{"depth": 3, **options})
        >>> network = denoise_ext.models.create_model("example_small", width=8)
    """
    name = function.__name__
    _check_free("model", name, _models.get(name), function)
    _models[name] = function
    return function


def _check_free(kind: str, name: str, known: Any, new: Any) -> None:
    """ValueError unless nothing, or an earlier definition of the same, has this name."""
    if known is None:
        return
    places = [f"{item.__module__}.{item.__qualname__}" for item in (known, new)]
    if places[0] != places[1]:
        raise ValueError(f"{kind} {name!r} is already registered, by {places[0]}")


def register_pretrained(name: str, weights: Pretrained) -> None:
    """Attach trained weights to a registered model name.

    Example:
        >>> network = denoise_ext.models.create_model("dncnn_gray", depth=3, width=8)
        >>> facts = denoise_ext.models.Pretrained(
        ...     file="example.safetensors", sha256="0" * 64, config=network.config,
        ...     recipe="mine.toml", training_data="my pictures", noise="sigma 25", steps=1000,
        ...     licence="Apache-2.0",
        ... )
        >>> @denoise_ext.models.register_model
        ... def example_trained(**options):
        ...     return denoise_ext.models.create_model("dncnn_gray", depth=3, width=8, **options)
        >>> denoise_ext.models.register_pretrained("example_trained", facts)
    """
    if name not in _models:  # those of entry points attach their own weights
        raise ValueError(f"no model {name!r} to attach weights to")
    if name in _pretrained:
        raise ValueError(f"model {name!r} already has weights")
    _pretrained[name] = weights


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the closest ones that do."""
    names = sorted(known)
    hint = did_you_mean(str(name), names) or ";"
    return f"unknown {kind} {name!r}{hint} known: {', '.join(names)}. {IMPORT_HINT}"


def has_family(name: object) -> bool:
    """Whether the family ``name`` can be built; loads entry points if it is not our own."""
    if name not in _architectures:
        load_entry_points()
    return name in _architectures


def has_model(name: object) -> bool:
    """Whether ``create_model(name)`` accepts the name; loads entry points if it is not our own."""
    if name not in _models:
        load_entry_points()
    return name in _models


def build_model(config: dict[str, Any]) -> Network:
    """The untrained network ``config`` (a model's ``.config``) describes.

    Raises ValueError for an unknown family or option.

    Example:
        >>> network = denoise_ext.models.create_model("ffdnet_gray", depth=3)
        >>> type(denoise_ext.models.build_model(network.config)).__name__
        'FFDNet'
    """
    options = dict(config)
    family = options.pop("family", None)
    if not has_family(family):
        raise ValueError(unknown_name("model family", family, _architectures))
    try:
        return _architectures[family](**options)
    except TypeError as error:
        message = str(error).replace("__init__()", "model").split(".")[-1].strip()
        raise ValueError(f"model family {family!r}: {message}") from None


def list_models(pattern: str | None = None, pretrained: bool = False) -> list[str]:
    """Registered model names, sorted, those of entry points included.

    ``pattern`` filters like a shell glob (``"ffdnet*"``). ``pretrained=True`` keeps only those that
    ship with trained weights.

    Example:
        >>> denoise_ext.models.list_models("ffdnet*", pretrained=True)
        ['ffdnet_color_small', 'ffdnet_gray_small']
    """
    load_entry_points()
    names = sorted(_pretrained if pretrained else _models)
    return names if pattern is None else fnmatch.filter(names, pattern)


def pretrained_info(name: str) -> Pretrained | None:
    """Return the facts about the shipped weights of ``name``, or None.

    Example:
        >>> facts = denoise_ext.models.pretrained_info("dxnet_s_gray")
        >>> facts.config["family"], len(facts.sha256)
        ('dxnet', 64)
    """
    if not has_model(name):
        raise ValueError(unknown_name("model", name, _models))
    return _pretrained.get(name)


def build_named(name: str, **kwargs: Any) -> Network:
    """The untrained network of that name; ``kwargs`` are changes to its default configuration.

    Raises ValueError for an unknown name or option, TypeError where the registered function
    returns no :class:`Network`.
    """
    if not has_model(name):
        raise ValueError(unknown_name("model", name, _models))
    try:
        model = _models[name](**kwargs)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        message = str(error).split("() ")[-1]
        raise ValueError(f"model {name!r}: {message}") from None
    if not isinstance(model, Network):
        kind = type(model).__name__
        raise TypeError(f"model {name!r}: its function returned {kind}, no models.Network")
    return model


def check_config(model: Network) -> None:
    """Raise ValueError unless ``build_model(model.config)`` gives such a network again.

    Otherwise a file of its weights could not be read. ``model`` may be on the "meta" device.
    """
    kind = type(model).__name__
    config = model.config
    if not isinstance(config, dict):
        raise ValueError(f"{kind}.config must be a dict, got {type(config).__name__}")
    try:
        if json.loads(json.dumps(config)) != config:
            raise TypeError("it differs after json.dumps and json.loads")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kind}.config must hold what JSON holds: {error}") from None
    with torch.device("meta"):
        built = build_model(config)
    ours, theirs = (
        {key: tuple(value.shape) for key, value in network.state_dict().items()}
        for network in (model, built)
    )
    if type(built) is not type(model) or ours != theirs:
        raise ValueError(f"{kind}.config does not describe the network: {config}")
