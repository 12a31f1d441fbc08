"""The noise of `video.py`: white, and that of cameras, as it is and compressed as H.264."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from denoise_ext.data.noise import add_clip_noise_chain
from denoise_ext.data.noise.pipeline import STEP_KINDS, NoiseStep

SEED = 17


@dataclass(frozen=True)
class Noise:
    """A kind of noise."""

    name: str
    add: Callable[[Tensor, int], Tensor]
    """Clean frames (T, C, H, W) in [0, 1] and the number of their clip -> noisy frames."""
    sigma: float | None
    """The level that methods are given, on the 0-255 scale; None: they are given none."""
    rival: str
    """The network on single frames that is made for it."""


def noisy(clip: Tensor, sigma: float, place: int) -> Tensor:
    """White Gaussian noise, the same for every method."""
    generator = torch.Generator().manual_seed(SEED * 1000 + place)
    return clip + sigma / 255.0 * torch.randn(clip.shape, generator=generator)


def white(sigma: float, rival: str) -> Noise:
    """White Gaussian noise, not clipped, of a level that is given."""
    name = f"white noise, sigma {sigma:g}"
    return Noise(name, lambda clip, place: noisy(clip, sigma, place), sigma, rival)


def camera(name: str, steps: Sequence[NoiseStep], rival: str) -> Noise:
    """A camera for each clip, the noise of its frames independent; the level is not given."""
    return Noise(name, lambda clip, place: add_clip_noise_chain(clip, steps, SEED, 0, place)[0],
                 None, rival)  # fmt: skip


# The ranges are those of recipes/rdxnet_s_color.toml; every clip has the noise of a camera.
_CAMERA = STEP_KINDS["photo"](
    kind="photo", shot_min=1e-4, shot_max=0.02, smoothed=0.4, luma_min=2.0, white=0.0, clean=0.0
)
_H264 = STEP_KINDS["h264"](kind="h264", crf_min=14, crf_max=28)


def cameras(rival: str) -> list[Noise]:
    """Noise of cameras, and the same in films that they compress."""
    return [
        camera("noise of cameras", [_CAMERA], rival),
        camera("noise of cameras, then H.264", [_CAMERA, _H264], rival),
    ]
