"""Recurrent networks with random weights, and scenes for them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from denoise_ext.models import Network, load_checkpoint
from denoise_ext.models.frames import compute_frames
from denoise_ext.models.rdxnet import RDXNet
from denoise_ext.tasks import VideoDenoiser

SIGMA = 20.0


def network(channels: int = 1) -> RDXNet:
    """A narrow network with random weights."""
    model = RDXNet(channels, widths=(4, 6), blocks=(1, 1))
    model.initialise(torch.Generator().manual_seed(channels))
    return model.eval()


def scene(
    frames: int, seed: int = 0, size: tuple[int, int] = (64, 80), sigma: float = SIGMA
) -> Tensor:
    """(T, 1, H, W): a texture that moves by (1, 2) pixels a frame, with noise."""
    generator = torch.Generator().manual_seed(seed)
    large = torch.zeros(1, 1, size[0] + 2 * frames, size[1] + 2 * frames)
    for scale in (4, 8, 16):
        small = [-(-side // scale) + 2 for side in large.shape[2:]]
        noise = torch.rand(1, 1, *small, generator=generator)
        whole = torch.nn.functional.interpolate(noise, scale_factor=scale, mode="bicubic")
        large += whole[..., : large.shape[2], : large.shape[3]] / 3
    cut = [large[0, :, t : t + size[0], 2 * t : 2 * t + size[1]] for t in range(frames)]
    clean = torch.stack(cut).clamp(0, 1)
    return clean + sigma / 255 * torch.randn(clean.shape, generator=generator)


def clip(channels: int, frames: int, *size: int, seed: int = 0) -> Tensor:
    """(2, T, C, H, W): waves that move, with noise."""
    generator = torch.Generator().manual_seed(seed)
    t, y, x = (torch.arange(n) for n in (frames, *size))
    wave = torch.sin(0.3 * x - 0.6 * t[:, None, None]) * torch.cos(0.2 * y)[:, None]
    clean = (0.5 + 0.3 * wave)[None, :, None].expand(2, -1, channels, -1, -1)
    return clean + 0.1 * torch.randn(clean.shape, generator=generator)


def expected(model: Network, frames: Tensor, sigma: float = SIGMA) -> Tensor:
    """The network on the whole clip."""
    level = torch.full((1, 1, 1, 1), sigma / 255)
    with torch.inference_mode():
        outputs, _ = compute_frames(model, {"image": frames[None], "noise_map": level})
    return outputs["image"][0]


def pushed(denoiser: VideoDenoiser, frames: Tensor) -> Tensor:
    return torch.stack([denoiser.push(frame) for frame in frames])


def start_of(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """What `recipes/video_start` makes for a name."""
    script = Path(__file__).resolve().parents[2] / "recipes/video_start"
    made = folder / "start.safetensors"
    monkeypatch.setattr(sys, "argv", [str(script), name, str(made)])
    runpy.run_path(str(script), run_name="__main__")
    return load_checkpoint(made)


def around_a_bad_frame(denoiser: VideoDenoiser, frames: Tensor, place: int) -> Tensor:
    """The results of a video one of whose frames came with an infinite pixel first."""
    bad = frames[place].clone()
    bad[0, 0, 0] = torch.inf
    made = [denoiser.push(frame) for frame in frames[:place]]
    with pytest.raises(ValueError, match=f"frame {place}"):
        denoiser.push(bad)
    made += [denoiser.push(frame) for frame in frames[place:]] + denoiser.flush()
    return torch.stack([result for result in made if result is not None])


def all_of(denoiser: VideoDenoiser, frames: Tensor) -> list[Tensor]:
    """The results of a whole video, in order."""
    made = [denoiser.push(frame) for frame in frames]
    assert all((result is None) == (i < denoiser.delay) for i, result in enumerate(made))
    return [*(result for result in made if result is not None), *denoiser.flush()]
