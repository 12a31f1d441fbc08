"""`VideoDenoiser`: a recurrent network kept ready, frame after frame."""

from __future__ import annotations

import copy
import logging
import math
import os
import threading
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from denoise_ext._choices import check_strength
from denoise_ext._log import get_logger
from denoise_ext.io.channels import colour_channels
from denoise_ext.models import Network, load_checkpoint
from denoise_ext.models.registry import build_named, has_model
from denoise_ext.runtime.model_names import Model, member, open_network, original_of
from denoise_ext.runtime.options import RunOptions, Tile
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.frame_run import FrameRun, Scene
from denoise_ext.tasks.images import ImageT, ImageView, open_image
from denoise_ext.tasks.noise_level import sigma_of_batch
from denoise_ext.tasks.value_range import Range, check_range, from_unit, to_unit

logger: logging.Logger = get_logger("denoise_ext.tasks")

VIDEO_OF_CAMERAS = "rdxnet_m_photo"
VIDEO_OF_WHITE_NOISE = "rdxnet_s_gray"
_FAMILY = "rdxnet_s"
_CUT = 0.6  # share of changed blocks from which a frame is another scene
LEAD_IN = 4  # of films in files; more gains less than 0.04 dB
_LONGEST_LEAD_IN = 16  # frames are kept so long
_ESTIMATE_EVERY = 8  # frames, from the second of a scene on: two in a row are needed
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


class VideoDenoiser:
    """Denoise the frames of a video in their order, each with what the frames before left.

    Args:
        model: a recurrent network (such as `denoise_ext.models.create_model("rdxnet_s_gray")`,
            also accelerated), the name of one with trained weights or of a family (its gray
            network), or a checkpoint file.  A gray network denoises RGB frames in three planes:
            brightness and two differences of colours.  A colour network takes RGB frames alone.
        sigma: standard deviation of the noise on the 0-255 scale.  None: estimated from the first
            frame of a scene, then from the first two, then a running mean of estimates of every
            eighth frame and the one before.
        strength: 1: the network's result; 0: the frame; between, a blend of both.
        scene_cut: "auto": begin anew where at least 60 % of a frame's blocks are found nowhere in
            the last frame; a number above 0 and up to 1: that share; "off": never.
        device, precision, backend, tile, max_memory: as of `denoise_ext.Denoiser`.  The state is
            kept for whole frames, whose tiles read it.  Tiles therefore have no seams.

    Memory is bounded: one state, whatever the number of frames, a frame whose noise is measured
    beside the next one's, and `delay` + 1 frames where results come late.  Threads may share
    one `VideoDenoiser`; their calls queue.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.

    Example:
        >>> denoiser = denoise_ext.VideoDenoiser("rdxnet_s_gray", sigma=15)
        >>> frames = np.random.default_rng(0).integers(0, 256, (3, 48, 64), dtype=np.uint8)
        >>> [denoiser.push(frame).shape for frame in frames]
        [(48, 64), (48, 64), (48, 64)]
    """

    def __init__(
        self,
        model: Model = _FAMILY,
        *,
        sigma: float | None = None,
        strength: float = 1.0,
        scene_cut: str | float = "auto",
        lead_in: int = 0,
        device: str | torch.device | None = "auto",
        precision: str = "default",
        backend: str = "native",
        tile: Tile = "auto",
        max_memory: int | None = None,
    ) -> None:
        self._options = RunOptions(device, precision, backend, tile, max_memory)
        if sigma is not None and not (_is_number(sigma) and 0 <= sigma < math.inf):
            raise ValueError(f"sigma must be a finite number >= 0 (0-255 scale), got {sigma!r}")
        self._strength, self._cut = check_strength(strength), _cut_share(scene_cut)
        whole = isinstance(lead_in, int) and not isinstance(lead_in, bool)
        if not (whole and 0 <= lead_in <= _LONGEST_LEAD_IN):
            raise ValueError(
                f"lead_in must be an integer from 0 to {_LONGEST_LEAD_IN}, got {lead_in!r}"
            )
        self._lead_in = lead_in
        self._model, self._given = model, sigma
        self._runs: dict[int, FrameRun] = {}  # by channels
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next one begins a video, of any size."""
        with self._lock:
            self._run: FrameRun | None = None
            self._scene: Scene | None = None
            self._waiting: tuple[_Waiting, ...] = ()
            self._made: tuple[Tensor, ...] = ()  # what the network made of the first ones of these
            self._level: float | None = self._given
            self._size: tuple[int, ...] | None = None
            self._count = 0

    @property
    def sigma(self) -> float | None:
        """The noise level of the last frame, given or estimated; None before the first."""
        return self._level

    @property
    def frames(self) -> int:
        """Frames since the last `reset`."""
        return self._count

    @property
    def delay(self) -> int:
        """By how many frames results are late: those that the network looks ahead, or the lead-in.

        Known from the first frame on; 0 before.
        """
        return 0 if self._run is None else self._run.delay

    def memory(self) -> int:
        """Bytes that are kept between two frames: state, and frames that wait for their result."""
        with self._lock:
            tensors = [] if self._scene is None else self._scene.tensors()
            tensors += [*self._made, *(waiting.image for waiting in self._waiting)]
            # A tensor that two lists share counts once.
            return sum(x.nbytes for x in {id(x): x for x in tensors}.values())

    @overload
    def push(
        self, frame: str | os.PathLike[str], *, value_range: Range | None = None
    ) -> np.ndarray | None: ...
    @overload
    def push(self, frame: ImageT, *, value_range: Range | None = None) -> ImageT | None: ...
    def push(self, frame: Any, *, value_range: Range | None = None) -> Any:
        """Denoise the next frame.

        Args:
            frame: any kind that `denoise_ext.Denoiser` takes, one image, of the size of the frames
                before.  Alpha is passed through.
            value_range: the numbers that mean black and white.  Default: those of the type.

        Returns:
            The result, of the same kind.  With a network that looks ahead, or a lead-in: that of
            the frame `delay` pushes before, and None while there is none.

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
        """End the video: the results of the last `delay` frames. The next frame begins a scene."""
        with self._lock, torch.inference_mode():
            rest = [] if self._run is None else self._run.end(self._scene)
            made = [*self._made, *rest]
            results = [self._result(entry, y) for entry, y in zip(self._waiting, made, strict=True)]
            self._scene, self._waiting, self._made = None, (), ()
            return results

    def _push(self, frame: Any, value_range: Range | None) -> Any:
        opened = open_image(frame)
        value_range = opened.value_range if value_range is None else value_range
        checked = check_range(value_range, opened.source.dtype)
        value_range = None if value_range is None else checked
        source = opened.source
        channels = colour_channels(source.shape[1])
        self._check(opened, channels)
        run = self._run_for(channels)
        session = run.session
        if run.delay:  # the frame is needed later, when its memory may hold another one
            opened = open_image(_copied(frame))
            source = opened.source
        with torch.inference_mode():
            image = to_unit(source[:, :channels].to(session.device), session.dtype, value_range)
            scene, made = self._scene, [*self._made]
            if scene is not None and self._cut is not None and run.changed(scene, image, self._cut):
                logger.debug("frame %d begins a scene", self._count)
                made += run.end(scene)
                scene = None
            scene = Scene(self._given) if scene is None else scene
            if self._given is None:
                scene = _measured(scene, run, source[:, :channels], value_range, image)
            more, scene = run.advance(scene, image, self._cut is not None)
            made += more
            waiting = (*self._waiting, _Waiting(opened, image, value_range))
            due = len(waiting) > run.delay
            result = self._result(waiting[0], made[0]) if due else None
        # nothing has failed: the frame counts
        self._run, self._scene, self._level = run, scene, scene.level
        self._waiting, self._made = waiting[due:], tuple(made[due:])
        self._size, self._count = tuple(source.shape), self._count + 1
        return result

    def _result(self, entry: _Waiting, y: Tensor) -> Any:
        """What the network made of a frame, as the frame's own kind."""
        source, target = entry.opened.source, entry.opened.target(Fraction(1))
        channels = y.shape[1]
        blend = y if self._strength == 1 else torch.lerp(entry.image, y, self._strength)
        pixels = from_unit(blend, target.pixels.dtype, entry.value_range)
        target.pixels[:, :channels] = pixels
        target.pixels[:, channels:] = source[:, channels:]
        return target.result()

    def _check(self, opened: ImageView, channels: int) -> None:
        shape = tuple(opened.source.shape)
        if shape[0] != 1 or 0 in shape or channels not in (1, 3):
            raise ValueError(f"frame must be one gray or RGB image, got a tensor of {shape}")
        if self._size is not None and shape != self._size:
            raise ValueError(
                f"frame must have the size of those before, (channels, rows, columns)"
                f" {self._size[1:]}, got {shape[1:]}; reset() begins another video"
            )

    def _run_for(self, channels: int) -> FrameRun:
        if channels not in self._runs:
            options = self._options
            # In three planes, a family's gray network leaves less white noise than that for colour.
            model = member(self._model, 1) if isinstance(self._model, str) else self._model
            network = open_network(model, options.device, None, options.backend, channels=channels)
            if not is_recurrent(network):
                raise TypeError(
                    f"model must be a recurrent network, such as rdxnet_s, got {self._model!r}"
                )
            own = original_of(network).signature.inputs["image"].channels
            if own != channels and own != 1:
                raise ValueError(f"model takes {own} channels, but the frame has {channels}")
            native = options.backend == "native"
            session = Session(network, options.precision, native)
            self._runs[channels] = FrameRun(session, options, channels, self._lead_in)
        return self._runs[channels]


@dataclass(frozen=True)
class _Waiting:
    """A frame whose result is not due."""

    opened: ImageView
    image: Tensor
    value_range: Range | None


def _copied(frame: Any) -> Any:
    return frame.detach().clone() if isinstance(frame, Tensor) else copy.deepcopy(frame)


def _measured(
    scene: Scene, run: FrameRun, source: Tensor, value_range: Range | None, image: Tensor
) -> Scene:
    """The scene with a noise level, where that is due at its next frame.

    The first frame shows its highest frequencies alone. The second one's level replaces it.
    """
    level, noisy = scene.level, scene.noisy
    if level is None:
        level = float(sigma_of_batch(source, value_range))
    elif noisy is not None:
        estimate = float(sigma_of_batch(source, value_range))
        between = run.sigma_of(image, noisy, level)
        # A frame that is repeated differs in nothing from the one before.
        estimate = estimate if between is None else max(estimate, between)
        weight = 1.0 if scene.frames == 1 else _ESTIMATE_WEIGHT
        level += weight * (estimate - level)
    kept = image.clone() if scene.frames % _ESTIMATE_EVERY == 0 else None  # callers reuse memory
    return replace(scene, level=level, noisy=kept)


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
