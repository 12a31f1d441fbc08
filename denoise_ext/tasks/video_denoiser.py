"""`VideoDenoiser`: a recurrent network kept ready, frame after frame."""

from __future__ import annotations

import math
import os
import threading
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from denoise_ext._log import get_logger
from denoise_ext.io.channels import colour_channels
from denoise_ext.models import Network, load_checkpoint
from denoise_ext.models.network import Tensors
from denoise_ext.models.registry import build_named, has_model, list_models
from denoise_ext.runtime.model_names import Model, member, open_network, original_of
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.images import ImageView, open_image
from denoise_ext.tasks.noise_level import sigma_of_batch
from denoise_ext.tasks.scene_cuts import changed_share
from denoise_ext.tasks.value_range import Range, check_range, from_unit, to_unit

logger = get_logger("denoise_ext.tasks")

_FAMILY = "rdxnet_s"
_CUT = 0.6  # share of changed blocks from which a frame is another scene
_ESTIMATE_EVERY = 8  # frames
_ESTIMATE_WEIGHT = 0.125  # of a new estimate of the noise level in the running mean


def is_recurrent(network: object) -> bool:
    """Whether a network denoises frames one after the other, with a state."""
    network = original_of(network)
    if not isinstance(network, Network):
        return False
    inputs, outputs = network.signature.inputs, network.signature.outputs
    known = set(inputs) <= {"image", "noise_map"} and "image" in outputs
    return known and bool(network.signature.state)


def names_recurrent(model: Model) -> bool:
    """Whether an argument `model` stands for a recurrent network."""
    if not isinstance(model, (str, os.PathLike)):
        return is_recurrent(model)
    name = os.fspath(member(model, 1))
    if has_model(name):
        with torch.device("meta"):
            return is_recurrent(build_named(name))
    return os.path.isfile(name) and is_recurrent(load_checkpoint(name))


def default_video_model() -> str | None:
    """The family of recurrent networks that ships with weights; None: there is none."""
    members = {f"{_FAMILY}_gray", f"{_FAMILY}_color"}
    return _FAMILY if members <= set(list_models(pretrained=True)) else None


class VideoDenoiser:
    """Denoise the frames of a video in their order, each with what the frames before left.

    Args:
        model: a recurrent network (such as `denoise_ext.models.create_model("rdxnet_s_gray")`,
            also accelerated), the name of one with trained weights or of a family, or a checkpoint
            file.  Gray frames need a gray network and RGB frames a colour one.
        sigma: standard deviation of the noise on the 0-255 scale.  None: estimated from the first
            frame of a scene, then a running mean of estimates of every eighth frame.
        strength: 1: the network's result; 0: the frame; between, a blend of both.
        scene_cut: "auto": begin anew where at least 60 % of a frame's blocks are found nowhere in
            the last frame; a number above 0 and up to 1: that share; "off": never.
        device, precision, backend: as of `denoise_ext.Denoiser`.

    Memory is bounded: one state, whatever the number of frames.  Threads may share one
    `VideoDenoiser`; their calls queue.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
    """

    def __init__(
        self,
        model: Model = _FAMILY,
        *,
        sigma: float | None = None,
        strength: float = 1.0,
        scene_cut: str | float = "auto",
        device: str | torch.device | None = "auto",
        precision: str = "default",
        backend: str = "native",
    ) -> None:
        self._options = RunOptions(device, precision, backend)
        if sigma is not None and not (_is_number(sigma) and 0 <= sigma < math.inf):
            raise ValueError(f"sigma must be a finite number >= 0 (0-255 scale), got {sigma!r}")
        if not (_is_number(strength) and 0 <= strength <= 1):
            raise ValueError(f"strength must be a number from 0 to 1, got {strength!r}")
        self._strength, self._cut = float(strength), _cut_share(scene_cut)
        self._model, self._given = model, sigma
        self._sessions: dict[int, Session] = {}  # by channels
        self._lock = threading.Lock()
        self._size: tuple[int, ...] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next one begins a video, of any size."""
        with self._lock:
            self._state: Tensors | None = None
            self._last: Tensor | None = None
            self._level: float | None = self._given
            self._size = None
            self._count = self._since = 0

    @property
    def sigma(self) -> float | None:
        """The noise level of the last frame, given or estimated; None before the first."""
        return self._level

    @property
    def frames(self) -> int:
        """Frames since the last `reset`."""
        return self._count

    def push(self, frame: Any, *, value_range: Range | None = None) -> Any:
        """Denoise the next frame.

        Args:
            frame: any kind that `denoise_ext.Denoiser` takes, one image, of the size of the frames
                before.  Alpha is passed through.
            value_range: the numbers that mean black and white.  Default: those of the type.

        Returns:
            The result, of the same kind.

        Raises:
            TypeError, ValueError: no such image, another size or other channels than before, or
                pixels that are not finite; the message has the frame's number.  The state stays as
                it was: the next frame can follow.
        """
        with self._lock:
            try:
                return self._push(frame, value_range)
            except (TypeError, ValueError) as error:
                raise type(error)(f"frame {self._count}: {error}") from None

    def flush(self) -> list[Any]:
        """The frames that are still to come: none, as every frame is given at once."""
        return []

    def _push(self, frame: Any, value_range: Range | None) -> Any:
        opened = open_image(frame)
        value_range = opened.value_range if value_range is None else value_range
        checked = check_range(value_range, opened.source.dtype)
        value_range = None if value_range is None else checked
        source = opened.source
        channels = colour_channels(source.shape[1])
        self._check(opened, channels)
        session = self._session(channels)
        with torch.inference_mode():
            image = to_unit(source[:, :channels].to(session.device), session.dtype, value_range)
            luma = image.mean(1, keepdim=True)
            state, level, since = self._state, self._level, self._since
            if self._is_cut(luma):
                logger.debug("frame %d begins a scene", self._count)
                state, level, since = None, self._given, 0
            if self._given is None and since % _ESTIMATE_EVERY == 0:
                level = _updated(level, float(sigma_of_batch(source[:, :channels], value_range)))
            assert level is not None
            inputs = {"image": image}
            if "noise_map" in session.original.signature.inputs:
                inputs["noise_map"] = image.new_full((1, 1, 1, 1), level / 255.0)
            outputs, state, _ = session.run(inputs, state)
            target = opened.target(Fraction(1))
            made = outputs["image"]
            blend = made if self._strength == 1 else torch.lerp(image, made, self._strength)
            target.pixels[:, :channels] = from_unit(blend, target.pixels.dtype, value_range)
            target.pixels[:, channels:] = source[:, channels:]
            result = target.result()
        # nothing has failed: the frame counts
        self._state, self._level, self._size = state, level, tuple(source.shape)
        self._last = made.mean(1, keepdim=True) if self._cut is not None else None
        self._count, self._since = self._count + 1, since + 1
        return result

    def _check(self, opened: ImageView, channels: int) -> None:
        shape = tuple(opened.source.shape)
        if shape[0] != 1 or 0 in shape or channels not in (1, 3):
            raise ValueError(f"frame must be one gray or RGB image, got a tensor of {shape}")
        if self._size is not None and shape != self._size:
            raise ValueError(
                f"frame must have the size of those before, (channels, rows, columns)"
                f" {self._size[1:]}, got {shape[1:]}; reset() begins another video"
            )

    def _session(self, channels: int) -> Session:
        if channels not in self._sessions:
            options = self._options
            network = open_network(
                self._model, options.device, None, options.backend, channels=channels
            )
            if not is_recurrent(network):
                raise TypeError(
                    f"model must be a recurrent network, such as rdxnet_s, got {self._model!r}"
                )
            own = original_of(network).signature.inputs["image"].channels
            if own != channels:
                raise ValueError(f"model takes {own} channels, but the frame has {channels}")
            native = options.backend == "native"
            self._sessions[channels] = Session(network, options.precision, native)
        return self._sessions[channels]

    def _is_cut(self, luma: Tensor) -> bool:
        if self._cut is None or self._last is None:
            return False
        assert self._level is not None
        native = self._options.backend == "native" and luma.device.type == "cpu"
        return changed_share(luma, self._last, self._level, native) >= self._cut


def _updated(level: float | None, estimate: float) -> float:
    return estimate if level is None else level + _ESTIMATE_WEIGHT * (estimate - level)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cut_share(scene_cut: object) -> float | None:
    if scene_cut == "auto":
        return _CUT
    if scene_cut == "off":
        return None
    if _is_number(scene_cut) and 0 < scene_cut <= 1:  # type: ignore[operator]
        return float(scene_cut)  # type: ignore[arg-type]
    raise ValueError(
        f"scene_cut must be 'auto', 'off' or a number above 0 and up to 1, got {scene_cut!r}"
    )
