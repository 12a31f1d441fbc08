"""One frame's way through a recurrent network: state, frames ahead, tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from denoise_ext.io.video.frames import VideoFrame
from denoise_ext.models.frames import mirrored
from denoise_ext.models.network import Tensors
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.runtime.tile_planner import cut
from denoise_ext.runtime.tiling import Grid, Places
from denoise_ext.tasks.frame_noise import sigma_of_frames
from denoise_ext.tasks.scene_cuts import changed_share, reduced

_LEAST_SIDE = 8  # of planes, in pixels: `noise_level` measures no smaller ones


Frame = tuple[Tensor, ...]
"""What is denoised of a frame: an image (1, C, H, W), nominally in [0, 1]; or brightness
(1, 1, H, W) and two planes of chroma (2, 1, h, w) of a size of their own."""


@dataclass(frozen=True)
class Scene:
    """What is kept of the frames since a cut."""

    levels: tuple[float, ...] | None
    """Standard deviation of the noise, 0-255 scale: of an image, or of each plane of its own; None:
    not known yet."""
    frames: int = 0
    states: tuple[Tensors, ...] | None = None
    """One for each tensor of a frame."""
    recent: tuple[Frame, ...] = ()
    """The last ones that may be taken again."""
    last: Tensor | None = None
    """`scene_cuts.reduced`, to compare the next frame with."""
    last_is_noisy: bool = False
    """Whether that is of a frame without a result."""
    noisy: Frame = ()
    """The last frame, where the next one's noise is measured beside it."""

    def tensors(self) -> list[Tensor]:
        """All that are kept."""
        kept = [x for state in self.states or () for x in state.values()]
        kept += [x for frame in (*self.recent, self.noisy) for x in frame]
        return kept if self.last is None else [*kept, self.last]


class FrameRun:
    """A recurrent network on the frames of scenes, whole or in tiles.

    A network that looks ahead takes frames in the order of `models.frames.mirrored`: it begins
    where its first output has all frames ahead.

    Others have the lead-in: a scene waits for so many more frames than its first. The network takes
    these backwards in time, with a state of their own. Its last outputs, for the first half of the
    frames, are their results. All other results are those without a lead-in, but for the level: the
    last frame's serves all that waited.

    A gray network takes RGB frames as a batch of three planes: brightness and two differences of
    colours. White noise of RGB is independent in them, of a known level each. Films with subsampled
    chroma are taken as their own planes, each of its own size and level.
    """

    session: Session

    def __init__(
        self, session: Session, options: RunOptions, channels: int, lead_in: int = 0
    ) -> None:
        self.session, self._options = session, options
        self._by_planes = channels == 3 and session.original.signature.inputs["image"].channels == 1
        self._ahead: int = session.original.delay
        self._lead_in = 0 if self._ahead else lead_in
        self.delay: int = self._ahead or self._lead_in
        self._takes_level = "noise_map" in session.original.signature.inputs
        self._grids: dict[tuple[int, int, int], Grid] = {}

    def takes_planes(self, frame: VideoFrame) -> bool:
        """Whether the planes of such a frame are denoised, not its picture.

        Planes of less than a block have no noise that can be measured.
        """
        return self._by_planes and frame.subsampled and min(frame.planes[1].shape) >= _LEAST_SIDE

    def advance(self, scene: Scene, frame: Frame, compare: bool) -> tuple[list[Frame], Scene]:
        """The outputs that one more frame makes possible, and the scene with it.

        ``compare``: keep what `changed` needs.
        """
        for image in frame:
            self._grid(image)  # frames that cannot be tiled are refused before they wait
        frames, recent = scene.frames + 1, (*scene.recent, frame)
        scene = replace(scene, frames=frames, recent=recent)
        made: list[Frame] = []
        if frames == self.delay + 1:
            made, scene = self._begin(scene, range(-self._ahead, frames))
        elif frames > self.delay:
            output, scene = self._step(scene, frame)
            made = [output]
        last_is_noisy = not made or self._ahead > 0
        shown = frame if last_is_noisy else made[-1]
        last = reduced(shown[0]) if compare else None
        taken_again = self._ahead > 0 or not made
        recent = recent[-1 - self.delay :] if taken_again else ()
        return made, replace(scene, recent=recent, last=last, last_is_noisy=last_is_noisy)

    def end(self, scene: Scene | None) -> list[Frame]:
        """The outputs that the last frames of a scene still lack."""
        if scene is None or not self.delay:
            return []
        if scene.frames <= self.delay:
            return self._begin(scene, mirrored(scene.frames, self._ahead))[0]
        made = []
        for place in range(self._ahead - 1, -1, -1):
            output, scene = self._step(scene, scene.recent[place])
            made.append(output)
        return made

    def _begin(self, scene: Scene, order: Sequence[int]) -> tuple[list[Frame], Scene]:
        """The first outputs of a scene whose frames all wait, taken in this order."""
        early: list[Frame] = []
        reverse = scene
        for frame in reversed(scene.recent[: self._lead_in + 1] if self._lead_in else ()):
            output, reverse = self._step(reverse, frame)
            early.insert(0, output)
        early = early[: len(early) // 2]
        made = []
        for place in order:
            output, scene = self._step(scene, scene.recent[abs(place)])
            made.append(output)
        return [*early, *made[2 * self._ahead :][len(early) :]], scene

    def changed(self, scene: Scene, frame: Frame, share: float) -> bool:
        """Whether so large a share of the blocks of a frame is nowhere in the one before."""
        if scene.last is None:
            return False
        assert scene.levels is not None
        image, level = frame[0], scene.levels[0] * (math.sqrt(2.0) if scene.last_is_noisy else 1.0)
        return changed_share(reduced(image), scene.last, level, self._native(image)) >= share

    def levels_between(
        self, frame: Frame, before: Frame, levels: Sequence[float]
    ) -> tuple[float, ...]:
        """The levels of the noise of two frames in a row, by `frame_noise.sigma_of_frames`.

        0 where a part of the frame is too small.
        """
        parts = [(x[i : i + 1], y[i : i + 1]) for x, y in zip(frame, before) for i in range(len(x))]
        found = (
            sigma_of_frames(x, y, level, self._native(x))
            for (x, y), level in zip(parts, levels, strict=True)
        )
        return tuple(level or 0.0 for level in found)

    def _native(self, image: Tensor) -> bool:
        return self._options.backend == "native" and image.device.type == "cpu"

    def _step(self, scene: Scene, frame: Frame) -> tuple[Frame, Scene]:
        """One call of the network for each tensor of a frame."""
        assert scene.levels is not None
        levels = frame[0].new_tensor([level / 255.0 for level in scene.levels])
        levels = levels.reshape(-1, 1, 1, 1)
        as_planes = self._by_planes and len(frame) == 1
        if as_planes:
            levels = levels * _OPPONENT.norm(dim=1).to(frame[0]).reshape(3, 1, 1, 1)
            frame = (_as_planes(frame[0]),)
        given = zip(frame, levels.split([len(x) for x in frame]), scene.states or (None, None))
        made, states = zip(*(self._computed(x, level, state) for x, level, state in given))
        outputs = (_as_rgb(made[0]),) if as_planes else made
        return outputs, replace(scene, states=states)

    def _computed(
        self, image: Tensor, level: Tensor, state: Tensors | None
    ) -> tuple[Tensor, Tensors]:
        """One call of the network on a batch (N, C, H, W), level (N, 1, 1, 1) in units of white."""
        conditions = {"noise_map": level} if self._takes_level else {}
        grid = self._grid(image)
        if len(grid) == 1:
            outputs, state, _ = self.session.run({"image": image, **conditions}, state)
            return outputs["image"], state
        output = torch.empty_like(image)

        def read(places: Places) -> Tensors:
            return {"image": image[(..., *places["image"])], **conditions}

        def write(places: Places, outputs: Tensors) -> None:
            output[(..., *places["image"])] = outputs["image"]

        state, _ = self.session.run_tiles(grid, read, write, state)
        return output, state

    def _grid(self, image: Tensor) -> Grid:
        """The tiles of images of this size, chosen once."""
        count, channels, height, width = image.shape
        size = (3 if self._by_planes and channels == 3 else count, height, width)
        if size not in self._grids:
            grid, _ = cut(self.session, size, self._options)
            self._grids = {**dict(list(self._grids.items())[-1:]), size: grid}  # brightness, chroma
        return self._grids[size]


def _as_planes(image: Tensor) -> Tensor:
    """RGB (1, 3, H, W) in [0, 1] -> (3, 1, H, W) in [0, 1]."""
    planes = torch.einsum("pc,nchw->pnhw", _OPPONENT.to(image), image)
    return planes + _MIDDLE.to(image)


def _as_rgb(planes: Tensor) -> Tensor:
    """What `_as_planes` was made of."""
    centred = planes - _MIDDLE.to(planes)
    return torch.einsum("cp,pnhw->nchw", _OPPONENT_INVERSE.to(planes), centred)


# Rows are at right angles: their noise is independent where that of RGB is white.
_OPPONENT = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.0, -0.5], [0.25, -0.5, 0.25]])
_OPPONENT_INVERSE = _OPPONENT.T / _OPPONENT.square().sum(1)
_MIDDLE = torch.tensor([0.0, 0.5, 0.5]).reshape(3, 1, 1, 1)
