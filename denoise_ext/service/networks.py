"""The networks of a service: which may be named, and a `Denoiser` for each in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from denoise_ext._suggestions import did_you_mean
from denoise_ext.models import create_model, list_models
from denoise_ext.runtime.model_names import DEFAULT, image_models, is_family
from denoise_ext.service.errors import Refused
from denoise_ext.service.options import ServiceOptions
from denoise_ext.tasks import Denoiser
from denoise_ext.tasks.processor import load_denoiser

AUTOMATIC = "auto"
_MOST = 4  # Denoisers with plans and memory at a time


class Networks:
    """Names that a request may use. A request never names a file."""

    def __init__(self, options: ServiceOptions) -> None:
        self._options = options
        self._denoisers: OrderedDict[tuple[str, str], Denoiser] = OrderedDict()
        self._lock = threading.Lock()
        self._described: list[dict[str, Any]] | None = None
        self._own = options.model and Path(options.model).name
        self._models: dict[str, str | None] = {AUTOMATIC: None, DEFAULT: DEFAULT}
        self._models |= {name: name for name in image_models()}
        if self._own:
            self._models[self._own] = options.model
        self.denoiser(None)  # a wrong model or device is an error now

    @property
    def default(self) -> str:
        """The name for requests without one."""
        return self._own or AUTOMATIC

    def check(self, name: str | None) -> str:
        """The name, or the default; Refused (400) unless it is known."""
        if name is not None and name not in self._models:
            names = ", ".join(self._models)
            shown = ascii(name[:60])
            raise Refused(
                400, f"model must be one of {names}, got {shown}{did_you_mean(name, self._models)}"
            )
        return name or self.default

    def chooses(self, name: str | None) -> bool:
        """Whether the noise of a picture decides, unless a level is given."""
        return self._models[self.check(name)] is None

    def denoiser(self, name: str | None, alpha: str = "keep") -> Denoiser:
        """The `Denoiser` of a network; the one unused longest is dropped. Threads may share it."""
        key = self.check(name), alpha
        with self._lock:
            if key not in self._denoisers:
                model = self._models[key[0]]
                self._denoisers[key] = load_denoiser(model, self._options.run, alpha=alpha)
                while len(self._denoisers) > _MOST:
                    self._denoisers.popitem(last=False)
            self._denoisers.move_to_end(key)
            return self._denoisers[key]

    def described(self) -> list[dict[str, Any]]:
        """Names with what the page must know of them."""
        if self._described is None:  # builds the networks: once
            self._described = [
                {"name": name, **self._facts(name, model)} for name, model in self._models.items()
            ]
        return self._described

    def _facts(self, name: str, model: str | None) -> dict[str, Any]:
        facts: dict[str, Any] = {"default": name == self.default}
        if model is None or is_family(model):
            return facts | {"channels": [1, 3], "needs_sigma": True}
        if model not in list_models():
            return facts
        network = create_model(model)
        # Blind networks for colour refuse gray pictures; all others take both.
        both = network.in_channels == 1 or network.needs_sigma
        channels = [1, 3] if both else [3]
        return facts | {"channels": channels, "needs_sigma": network.needs_sigma}
