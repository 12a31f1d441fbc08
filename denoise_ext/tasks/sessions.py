"""The networks of a task, each loaded and planned once."""

from __future__ import annotations

import threading
from typing import Any

from denoise_ext.runtime.from_module import check_image_denoiser
from denoise_ext.runtime.model_names import Model, is_family, open_network, open_textured
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.guide import takes_guide
from denoise_ext.tasks.guided_filter import guided_session, is_guided_filter
from denoise_ext.tasks.texture import check_treatment


class Sessions:
    """A session for each network, number of channels and kind of guide, made once.

    Args:
        model: what runs where no other model is named.
        options: of all networks: device, backend and precision count.
        texture: above 0 there is one network, the textured form of `model`.

    Threads may share it.  Copies and pickles have no sessions yet.
    """

    def __init__(self, model: Model, options: RunOptions, texture: float = 0.0) -> None:
        self._model, self._options, self._texture = model, options, texture
        self._made: dict[tuple[str, int, int], Session] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def of(self, channels: int, guide_channels: int = 0, model: Model = None) -> Session:
        """The network for images of so many channels.

        Args:
            channels: 1 or 3; alpha does not count.
            guide_channels: 1 or 3; 0: there is no guide.
            model: runs in place of the own one.

        Raises:
            ModelKindError: (a TypeError, a ValueError) a network that denoises no image.
            TypeError, ValueError, RuntimeError: as `open_network`.
        """
        model = self._model if model is None else model
        name = model if isinstance(model, str) else ""
        if self._texture:
            check_treatment(name)  # what the noise would take without texture
            key = ("", 0, 0)
        else:
            per_channels = guide_channels or is_family(model)
            key = (name, channels if per_channels else 0, guide_channels)
        with self._lock:
            if key not in self._made:
                self._made[key] = self._make(model, channels, guide_channels)
            return self._made[key]

    def _make(self, model: Model, channels: int, guide_channels: int) -> Session:
        options, native = self._options, self._options.backend == "native"
        if self._texture:
            textured = open_textured(self._model, self._texture, options.device, options.backend)
            return Session(textured, options.precision, native)
        if guide_channels and is_guided_filter(model):
            return guided_session(model, channels, guide_channels, options.device, options.backend)
        network = open_network(model, options.device, None, options.backend, channels=channels)
        check_denoiser(network)
        return Session(network, options.precision, native)


def check_denoiser(model: Model) -> None:
    """ModelKindError for a network that denoises no image, be it with a guide or without."""
    if not takes_guide(model):
        check_image_denoiser(model)
