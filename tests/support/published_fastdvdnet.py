"""FastDVDnet as published, as functions of a dictionary of tensors with the published keys.

Written after the layout of m-tassano/fastdvdnet, models.py: every frame is computed from its window
of five, the first stage three times.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

# convolution -> (outputs, inputs) in units of: c image channels + 1, f frame width, widths a, b, d
_LAYERS = (
    ("inc.convblock.0", "3f", "c"), ("inc.convblock.3", "a", "3f"),
    ("downc0.convblock.0", "b", "a"), ("downc0.convblock.3.convblock.0", "b", "b"),
    ("downc0.convblock.3.convblock.3", "b", "b"), ("downc1.convblock.0", "d", "b"),
    ("downc1.convblock.3.convblock.0", "d", "d"), ("downc1.convblock.3.convblock.3", "d", "d"),
    ("upc2.convblock.0.convblock.0", "d", "d"), ("upc2.convblock.0.convblock.3", "d", "d"),
    ("upc2.convblock.1", "4b", "d"), ("upc1.convblock.0.convblock.0", "b", "b"),
    ("upc1.convblock.0.convblock.3", "b", "b"), ("upc1.convblock.1", "4a", "b"),
    ("outc.convblock.0", "a", "a"), ("outc.convblock.3", "i", "a"),
)  # fmt: skip
_PLAIN = {"upc2.convblock.1", "upc1.convblock.1", "outc.convblock.3"}  # without normalisation


def fastdvdnet_state(
    channels: int, widths: tuple[int, int, int], frame_width: int, bias: bool
) -> State:
    """Random weights and statistics, under the names that a published file has."""
    generator = torch.Generator().manual_seed(4)
    a, b, d = widths
    sizes = {"3f": 3 * frame_width, "c": channels + 1, "a": a, "b": b, "d": d, "4a": 4 * a,
             "4b": 4 * b, "i": channels}  # fmt: skip
    state: State = {}
    for stage in ("temp1", "temp2"):
        for name, outputs, inputs in _LAYERS:
            key, (out, into) = f"{stage}.{name}", (sizes[outputs], sizes[inputs])
            weight = torch.randn(out, into, 3, 3, generator=generator)
            state[f"{key}.weight"] = weight / (9 * into) ** 0.5
            if bias or name in _PLAIN:
                state[f"{key}.bias"] = 0.1 * torch.randn(out, generator=generator)
            if name not in _PLAIN:
                folder, _, number = key.rpartition(".")
                norm = f"{folder}.{int(number) + 1}"
                state[f"{norm}.weight"] = 0.5 + torch.rand(out, generator=generator)
                state[f"{norm}.bias"] = 0.1 * torch.randn(out, generator=generator)
                state[f"{norm}.running_mean"] = 0.1 * torch.randn(out, generator=generator)
                state[f"{norm}.running_var"] = 0.5 + torch.rand(out, generator=generator)
                state[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    return state


def fastdvdnet(state: State, clip: Tensor, sigma: float) -> Tensor:
    """(T, C, H, W), H and W multiples of 4: each frame from its window, mirrored at the ends."""
    last, results = len(clip) - 1, []
    for t in range(len(clip)):
        places = [abs(t + i) for i in range(-2, 3)]
        frames = [clip[min(i, 2 * last - i)][None] for i in places]
        noise = torch.full_like(frames[0][:, :1], sigma / 255)
        first = [_stage(state, "temp1", frames[i : i + 3], noise) for i in range(3)]
        results.append(_stage(state, "temp2", first, noise)[0])
    return torch.stack(results)


def _stage(state: State, stage: str, frames: list[Tensor], noise: Tensor) -> Tensor:
    def conv(name: str, x: Tensor, **options: int) -> Tensor:
        key = f"{stage}.{name}"
        return F.conv2d(x, state[f"{key}.weight"], state.get(f"{key}.bias"), padding=1, **options)

    def normed(name: str, x: Tensor, **options: int) -> Tensor:
        folder, _, number = f"{stage}.{name}".rpartition(".")
        parts = ("running_mean", "running_var", "weight", "bias")
        norm = [state[f"{folder}.{int(number) + 1}.{part}"] for part in parts]
        return F.relu(F.batch_norm(conv(name, x, **options), *norm))

    def twice(name: str, x: Tensor) -> Tensor:
        return normed(f"{name}.convblock.3", normed(f"{name}.convblock.0", x))

    x = torch.cat([part for frame in frames for part in (frame, noise)], 1)
    x0 = normed("inc.convblock.3", normed("inc.convblock.0", x, groups=3))
    x1 = twice("downc0.convblock.3", normed("downc0.convblock.0", x0, stride=2))
    x2 = twice("downc1.convblock.3", normed("downc1.convblock.0", x1, stride=2))
    x2 = F.pixel_shuffle(conv("upc2.convblock.1", twice("upc2.convblock.0", x2)), 2)
    x1 = twice("upc1.convblock.0", x1 + x2)
    x1 = F.pixel_shuffle(conv("upc1.convblock.1", x1), 2)
    return frames[1] - conv("outc.convblock.3", normed("outc.convblock.0", x0 + x1))
