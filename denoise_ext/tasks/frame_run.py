"""One frame's way through a recurrent network: state, frames ahead, tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from denoise_ext.models.frames import mirrored
from denoise_ext.models.network import Tensors
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.runtime.tile_planner import cut
from denoise_ext.runtime.tiling import Grid, Places
from denoise_ext.tasks.frame_noise import sigma_of_frames
from denoise_ext.tasks.scene_cuts import changed_share, reduced


@dataclass(frozen=True)
class Scene:
    """What is kept of the frames since a cut."""

    level: float | None
    """Standard deviation of the noise, 0-255 scale; None: not known yet."""
    frames: int = 0
    state: Tensors | None = None
    recent: tuple[Tensor, ...] = ()
    """The last ones that may be taken again, (1, C, H, W) in [0, 1]."""
    last: Tensor | None = None
    """`scene_cuts.reduced`, to compare the next frame with."""
    last_is_noisy: bool = False
    """Whether that is of a frame without a result."""
    noisy: Tensor | None = None
    """The last frame (1, C, H, W), where the next one's noise is measured beside it."""

    def tensors(self) -> list[Tensor]:
        """All that are kept."""
        kept = [*(self.state or {}).values(), *self.recent, self.last, self.noisy]
        return [tensor for tensor in kept if tensor is not None]


class FrameRun:
    """A recurrent network on the frames of scenes, whole or in tiles.

    A network that looks ahead takes frames in the order of `models.frames.mirrored`: it begins
    where its first output has all frames ahead.

    Others have the lead-in: a scene waits for so many more frames than its first. The network takes
    these backwards in time, with a state of their own. Its last outputs, for the first half of the
    frames, are their results. All other results are those without a lead-in, but for the level: the
    last frame's serves all that waited.

    A gray network takes RGB frames as a batch of three planes: brightness and two differences of
    colours. White noise of RGB is independent in them, of a known level each.
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
        self._grids: dict[tuple[int, int], Grid] = {}

    def advance(self, scene: Scene, image: Tensor, compare: bool) -> tuple[list[Tensor], Scene]:
        """The outputs that one more frame (1, C, H, W) makes possible, and the scene with it.

        ``compare``: keep what `changed` needs.
        """
        self._grid(image)  # frames that cannot be tiled are refused before they wait
        frames, recent = scene.frames + 1, (*scene.recent, image)
        scene = replace(scene, frames=frames, recent=recent)
        made: list[Tensor] = []
        if frames == self.delay + 1:
            made, scene = self._begin(scene, range(-self._ahead, frames))
        elif frames > self.delay:
            output, scene = self._step(scene, image)
            made = [output]
        last_is_noisy = not made or self._ahead > 0
        shown = image if last_is_noisy else made[-1]
        last = reduced(shown) if compare else None
        taken_again = self._ahead > 0 or not made
        recent = recent[-1 - self.delay :] if taken_again else ()
        return made, replace(scene, recent=recent, last=last, last_is_noisy=last_is_noisy)

    def end(self, scene: Scene | None) -> list[Tensor]:
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

    def _begin(self, scene: Scene, order: Sequence[int]) -> tuple[list[Tensor], Scene]:
        """The first outputs of a scene whose frames all wait, taken in this order."""
        early: list[Tensor] = []
        reverse = scene
        for image in reversed(scene.recent[: self._lead_in + 1] if self._lead_in else ()):
            output, reverse = self._step(reverse, image)
            early.insert(0, output)
        early = early[: len(early) // 2]
        made = []
        for place in order:
            output, scene = self._step(scene, scene.recent[abs(place)])
            made.append(output)
        return [*early, *made[2 * self._ahead :][len(early) :]], scene

    def changed(self, scene: Scene, image: Tensor, share: float) -> bool:
        """Whether so large a share of the blocks of a frame is nowhere in the one before."""
        if scene.last is None:
            return False
        assert scene.level is not None
        level = scene.level * (math.sqrt(2.0) if scene.last_is_noisy else 1.0)
        return changed_share(reduced(image), scene.last, level, self._native(image)) >= share

    def sigma_of(self, image: Tensor, before: Tensor, level: float) -> float | None:
        """The noise level of two frames in a row; see `frame_noise.sigma_of_frames`."""
        return sigma_of_frames(image, before, level, self._native(image))

    def _native(self, image: Tensor) -> bool:
        return self._options.backend == "native" and image.device.type == "cpu"

    def _step(self, scene: Scene, image: Tensor) -> tuple[Tensor, Scene]:
        """One call of the network."""
        assert scene.level is not None
        level = image.new_full((1, 1, 1, 1), scene.level / 255.0)
        if self._by_planes:
            level = level * _OPPONENT.norm(dim=1).to(image).reshape(3, 1, 1, 1)
            made, scene = self._computed(scene, _as_planes(image), level)
            return _as_rgb(made), scene
        return self._computed(scene, image, level)

    def _computed(self, scene: Scene, image: Tensor, level: Tensor) -> tuple[Tensor, Scene]:
        """One call of the network on a batch (N, C, H, W), level (N, 1, 1, 1) in units of white."""
        conditions = {"noise_map": level} if self._takes_level else {}
        grid = self._grid(image)
        if len(grid) == 1:
            outputs, state, _ = self.session.run({"image": image, **conditions}, scene.state)
            return outputs["image"], replace(scene, state=state)
        output = torch.empty_like(image)

        def read(places: Places) -> Tensors:
            return {"image": image[(..., *places["image"])], **conditions}

        def write(places: Places, outputs: Tensors) -> None:
            output[(..., *places["image"])] = outputs["image"]

        state, _ = self.session.run_tiles(grid, read, write, scene.state)
        return output, replace(scene, state=state)

    def _grid(self, image: Tensor) -> Grid:
        """The tiles of frames of this size, chosen once."""
        height, width = image.shape[-2:]
        if (height, width) not in self._grids:
            batch = 3 if self._by_planes else 1
            grid, _ = cut(self.session, (batch, height, width), self._options)
            self._grids = {(height, width): grid}
        return self._grids[height, width]


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
