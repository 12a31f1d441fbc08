"""FastDVDnet: its published layout is read, and computes what five frames at a time give."""

from __future__ import annotations

import pytest
import torch
from published_fastdvdnet import fastdvdnet, fastdvdnet_state

from denoise_ext.analysis import gflop_per_megapixel
from denoise_ext.analysis.geometry import describe
from denoise_ext.models import CheckpointError, create_model, load_checkpoint, save_model
from denoise_ext.models.frames import compute_frames, mirrored
from denoise_ext.models.network import Network
from denoise_ext.nn import to_torch

SMALL = ((6, 8, 10), 5)
# float32 both, sums in another order: two times a dozen layers of terms near 1
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def clip_of(frames: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(frames, channels, height, width, generator=generator)


def run(network: Network, clip: torch.Tensor, sigma: float) -> torch.Tensor:
    level = torch.full((1, 1, 1, 1), sigma / 255)
    with torch.inference_mode():
        return compute_frames(network, {"image": clip[None], "noise_map": level})[0]["image"][0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frames", [3, 6])
def test_published_files_compute_what_was_published(tmp_path, channels, bias, frames):
    state = fastdvdnet_state(channels, *SMALL, bias)
    # as its author saves it: from a DataParallel
    torch.save({f"module.{key}": x for key, x in state.items()}, tmp_path / "model.pth")
    model = load_checkpoint(tmp_path / "model.pth")
    assert model.config == {
        "family": "fastdvdnet", "channels": channels, "widths": [6, 8, 10], "frame_width": 5,
    }  # fmt: skip
    assert not model.training
    clip = clip_of(frames, channels, 16, 24)
    expected = fastdvdnet(state, clip, 30.0)
    for network in (model, to_torch(model)):
        torch.testing.assert_close(run(network, clip, 30.0), expected, **CLOSE)
    save_model(model, tmp_path / "own.safetensors", torch.float32)
    again = load_checkpoint(tmp_path / "own.safetensors")
    assert torch.equal(run(again, clip, 30.0), run(model, clip, 30.0))


def test_the_published_size():
    with torch.device("meta"):
        network = create_model("fastdvdnet_color")
        published = fastdvdnet_state(3, (32, 64, 128), 30, bias=False)
    wanted = {key: x.shape for key, x in published.items() if x.dim() == 4}
    own = {key: x.shape for key, x in network.state_dict().items() if x.dim() == 4}
    assert own == wanted
    assert 2.47e6 < sum(x.numel() for x in network.parameters()) < 2.49e6
    # 159048 multiply-adds per pixel and stage
    assert gflop_per_megapixel(network) == pytest.approx(2 * 2 * 0.159048 * 1000, rel=1e-3)
    assert network.delay == 2 and describe(network).radius is not None


def test_frames_are_mirrored_at_the_ends():
    assert mirrored(5, 2) == [2, 1, 0, 1, 2, 3, 4, 3, 2]
    assert mirrored(2, 2) == [0, 1, 0, 1, 0, 1]
    assert mirrored(1, 2) == [0] * 5
    assert mirrored(3, 0) == [0, 1, 2]
    network = create_model("fastdvdnet_gray", widths=(4, 4, 4), frame_width=2).eval()
    clip = clip_of(2, 1, 8, 8)
    assert run(network, clip, 10.0).shape == clip.shape
    level = torch.zeros(1, 1, 1, 1)
    frame = {"image": clip[:1], "noise_map": level}
    with pytest.raises(ValueError, match="state"):
        compute_frames(network, {**frame, "image": clip[None]}, network.initial_state(frame))


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda state: state.pop("temp1.outc.convblock.3.weight"), "temp1.outc.convblock.3"),
        (lambda state: state.pop("temp1.inc.convblock.1.running_var"), "temp1.inc.convblock.1"),
        (lambda state: state.pop("temp1.downc0.convblock.0.weight"), "temp1.downc0.convblock"),
        (lambda state: state.update(extra=torch.ones(3)), "extra"),
        (
            lambda state: state.update({"temp1.inc.convblock.0.weight": torch.ones(15, 4)}),
            "temp1.inc.convblock",
        ),
        (
            lambda state: state.update({"temp1.inc.convblock.1.running_mean": torch.ones(3)}),
            "temp1.inc.convblock.1",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, change, named):
    state = fastdvdnet_state(3, *SMALL, bias=True)
    change(state)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=named) as error:
        load_checkpoint(tmp_path / "model.pth")
    assert "model.pth" in str(error.value)


def test_options_are_checked():
    for options, name in (
        ({"channels": 2}, "channels"), ({"widths": (4, 4)}, "widths"),
        ({"widths": (4, 4, 0)}, "widths"), ({"frame_width": 0}, "frame_width"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            create_model("fastdvdnet_color", **options)
