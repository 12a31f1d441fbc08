"""`VideoDenoiser`: a recurrent network kept ready, frame after frame."""

from __future__ import annotations

import copy
import logging
import math
import os
import threading
from dataclasses import replace
from typing import Any, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoise_ext._choices import check_strength
from denoise_ext._log import get_logger
from denoise_ext.io import Picture
from denoise_ext.io.channels import colour_channels
from denoise_ext.io.video.frames import VideoFrame
from denoise_ext.models import Network, load_checkpoint
from denoise_ext.models.registry import build_named, has_model
from denoise_ext.runtime.model_names import Model, member, open_network, original_of
from denoise_ext.runtime.options import RunOptions, Tile
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.frame_run import Frame, FrameRun, Scene
from denoise_ext.tasks.images import open_image
from denoise_ext.tasks.value_range import Range, check_range
from denoise_ext.tasks.video_frames import ImageFrame, OpenFrame, PlanesFrame

# The kinds of frames that come back as what they were; a file comes back as an array.
FrameT = TypeVar("FrameT", bound=np.ndarray | Tensor | Image.Image | Picture | VideoFrame)

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
            brightness and two differences of colours.  Of films with subsampled chroma, such as
            4:2:0, it takes the planes as they are stored.  A colour network takes RGB frames alone.
        sigma: standard deviation of the noise on the 0-255 scale; of RGB before chroma was
            subsampled.  None: estimated from the first frame of a scene, then from the first two,
            then a running mean of estimates of every eighth frame and the one before.  Planes that
            are taken as they are stored have each a level of its own then.
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
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next one begins a video, of any size."""
        with self._lock:
            self._run: FrameRun | None = None
            self._scene: Scene | None = None
            self._waiting: tuple[tuple[OpenFrame, Frame], ...] = ()
            self._made: tuple[Frame, ...] = ()  # what the network made of the first ones of these
            self._level: float | None = self._given
            self._shape: tuple[tuple[int, ...], ...] | None = None
            self._count = 0

    @property
    def sigma(self) -> float | None:
        """The noise level of the last frame, given or estimated; None before the first.

        Of planes as they are stored: that of white noise in RGB that is as strong in all of them.
        """
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

    def takes_planes(self, frame: VideoFrame) -> bool:
        """Whether `push` denoises the planes of such a frame as they are stored, not its picture.

        So it is with a gray network where chroma is subsampled and of at least 8 x 8 numbers.
        """
        return frame.subsampled and self._run_for(3).takes_planes(frame)

    def memory(self) -> int:
        """Bytes that are kept between two frames: state, and frames that wait for their result."""
        with self._lock:
            tensors = [] if self._scene is None else self._scene.tensors()
            frames = [*self._made, *(image for _, image in self._waiting)]
            tensors += [part for frame in frames for part in frame]
            # A tensor that two lists share counts once.
            return sum(x.nbytes for x in {id(x): x for x in tensors}.values())

    @overload
    def push(
        self, frame: str | os.PathLike[str], *, value_range: Range | None = None
    ) -> np.ndarray | None: ...
    @overload
    def push(self, frame: FrameT, *, value_range: Range | None = None) -> FrameT | None: ...
    def push(self, frame: Any, *, value_range: Range | None = None) -> Any:
        """Denoise the next frame.

        Args:
            frame: any kind that `denoise_ext.Denoiser` takes, one image, of the size of the frames
                before; or a `denoise_ext.io.video.VideoFrame`.  Alpha is passed through.
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
            results = [self._result(*x, y) for x, y in zip(self._waiting, made, strict=True)]
            self._scene, self._waiting, self._made = None, (), ()
            return results

    def _push(self, frame: Any, value_range: Range | None) -> Any:
        run, opened = self._opened(frame, value_range)
        if self._shape is not None and opened.shape != self._shape:
            raise ValueError(
                f"frame must have the size of those before, {_shown(self._shape)}, got"
                f" {_shown(opened.shape)}; reset() begins another video"
            )
        with torch.inference_mode():
            image = opened.read(run.session)
            scene, made = self._scene, [*self._made]
            if scene is not None and self._cut is not None and run.changed(scene, image, self._cut):
                logger.debug("frame %d begins a scene", self._count)
                made += run.end(scene)
                scene = None
            if scene is None:
                given = self._given
                scene = Scene(None if given is None else opened.levels_of(given))
            if self._given is None:
                scene = _measured(scene, run, opened, image)
            more, scene = run.advance(scene, image, self._cut is not None)
            made += more
            waiting = (*self._waiting, (opened, image))
            due = len(waiting) > run.delay
            result = self._result(*waiting[0], made[0]) if due else None
        # nothing has failed: the frame counts
        assert scene.levels is not None
        self._level = opened.sigma_of(scene.levels) if self._given is None else self._given
        self._run, self._scene = run, scene
        self._waiting, self._made = waiting[due:], tuple(made[due:])
        self._shape, self._count = opened.shape, self._count + 1
        return result

    def _result(self, opened: OpenFrame, image: Frame, made: Frame) -> Any:
        return opened.result(image, made, self._strength)

    def _opened(self, frame: Any, value_range: Range | None) -> tuple[FrameRun, OpenFrame]:
        """A frame, and what runs frames like it."""
        if isinstance(frame, VideoFrame):
            if value_range is not None:
                raise ValueError(f"value_range: a VideoFrame has its own, got {value_range!r}")
            run = self._run_for(1 if frame.colour.kind == "gray" else 3)
            if run.takes_planes(frame):
                return run, PlanesFrame(frame)
            return run, ImageFrame(open_image(frame.picture()), None, frame.with_picture)
        opened = open_image(frame)
        value_range = opened.value_range if value_range is None else value_range
        checked = check_range(value_range, opened.source.dtype)
        value_range = None if value_range is None else checked
        shape = tuple(opened.source.shape)
        channels = colour_channels(shape[1])
        if shape[0] != 1 or 0 in shape or channels not in (1, 3):
            raise ValueError(f"frame must be one gray or RGB image, got a tensor of {shape}")
        run = self._run_for(channels)
        if run.delay:  # the frame is needed later, when its memory may hold another one
            opened = open_image(_copied(frame))
        return run, ImageFrame(opened, value_range)

    def _run_for(self, channels: int) -> FrameRun:
        with self._opening:
            if channels not in self._runs:
                self._runs[channels] = self._made_run(channels)
            return self._runs[channels]

    def _made_run(self, channels: int) -> FrameRun:
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
        session = Session(network, options.precision, options.backend == "native")
        return FrameRun(session, options, channels, self._lead_in)


def _copied(frame: Any) -> Any:
    return frame.detach().clone() if isinstance(frame, Tensor) else copy.deepcopy(frame)


def _shown(shape: tuple[tuple[int, ...], ...]) -> str:
    """The size of a frame, for messages."""
    if len(shape) == 1:
        return f"(channels, rows, columns) {shape[0]}"
    return f"(rows, columns) {', '.join(map(str, shape))}"


def _measured(scene: Scene, run: FrameRun, opened: OpenFrame, image: Frame) -> Scene:
    """The scene with a noise level, where that is due at its next frame.

    The first frame shows its highest frequencies alone. The second one's level replaces it.
    """
    levels = scene.levels
    if levels is None:
        levels = opened.estimates(image)
    elif scene.noisy:
        between = run.levels_between(image, scene.noisy, levels)
        weight = 1.0 if scene.frames == 1 else _ESTIMATE_WEIGHT
        # A frame that is repeated differs in nothing from the one before.
        found = zip(levels, opened.estimates(image), between, strict=True)
        levels = tuple(x + weight * (max(single, pair) - x) for x, single, pair in found)
    due = scene.frames % _ESTIMATE_EVERY == 0
    kept = tuple(part.clone() for part in image) if due else ()  # callers reuse memory
    return replace(scene, levels=levels, noisy=kept)


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
