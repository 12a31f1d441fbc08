"""RDXNetBlind: its own estimate, and the network of single frames that it starts from."""

from __future__ import annotations

import pytest
import torch
from recurrent import clip, start_of

from denoise_ext.analysis.geometry import describe
from denoise_ext.models import create_model
from denoise_ext.models.frames import compute_frames
from denoise_ext.models.rdxnet_blind import RDXNetBlind
from denoise_ext.nn import to_torch
from denoise_ext.tasks import VideoDenoiser

TINY = {"widths": (4, 6), "blocks": (1, 1), "estimator_width": 4, "estimator_depth": 4}


def tiny(channels: int = 3, **options: object) -> RDXNetBlind:
    """A narrow network with random weights."""
    network = RDXNetBlind(channels, **{**TINY, **options})
    network.initialise(torch.Generator().manual_seed(1))
    return network.eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("look_ahead", [False, True])
def test_own_kernels_compute_what_torch_computes(channels, look_ahead):
    network = tiny(channels, look_ahead=look_ahead)
    assert set(network.signature.inputs) == {"image"}
    inputs = {"image": clip(channels, 4, 27, 34)}
    with torch.inference_mode():
        ours, state = compute_frames(network, inputs)
        theirs, _ = compute_frames(to_torch(network), inputs)
    assert ours["image"].shape == inputs["image"].shape and state["past"][:, -1].all()
    torch.testing.assert_close(ours["image"], theirs["image"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"estimator_depth": 6, "widths": (4, 6, 8), "blocks": [1] * 3}]
)
def test_nothing_beyond_the_stated_radius_is_read(options):
    network = tiny(**options).double()
    geometry = describe(network)
    assert geometry.stride == network.stride == 8
    side = 8 * -(-(2 * geometry.radius + 64) // 8)
    x = clip(3, 2, side, side).double()
    place = side // 2
    with torch.inference_mode():
        _, state = network({"image": x[:, 0]})
        before, _ = network({"image": x[:, 1]}, state)
        for changed in ("image", "past", "level"):
            tensors = {"image": x[:, 1].clone(), **{k: v.clone() for k, v in state.items()}}
            at = place // 8 if changed == "level" else place
            tensors[changed][:, :, at, at] += 0.5
            after, _ = network({"image": tensors.pop("image")}, tensors)
            moved = (after["image"] != before["image"]).any(0)[0].nonzero()
            assert 0 < (moved - place).abs().max().item() <= geometry.radius


def test_frames_of_any_range():
    """f(a x) = a f(x): levels are estimated, and no layer but the gate has a bias. The motion is
    of frames in [0, 1]: it is that of zero vectors here."""
    network = tiny().double()
    x = clip(3, 3, 32, 32)[:, :1].expand(-1, 3, -1, -1, -1).double() * 0.5
    with torch.inference_mode():
        one, _ = compute_frames(network, {"image": x})
        two, _ = compute_frames(network, {"image": 2.0 * x})
    torch.testing.assert_close(two["image"], 2.0 * one["image"], rtol=1e-9, atol=1e-9)


def test_gradients_reach_every_parameter():
    network = tiny().train()
    outputs, _ = compute_frames(network, {"image": clip(3, 3, 16, 24)})
    outputs["image"].square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_before_training_a_frame_is_denoised_as_by_the_still_network(tmp_path, monkeypatch):
    network = start_of("rdxnet_m_photo", tmp_path, monkeypatch)
    still = create_model("dxnet_s_photo", pretrained=True)
    frames = clip(3, 2, 40, 48)
    with torch.inference_mode():
        first, state = network({"image": frames[:, 0]})
        second, _ = network({"image": frames[:, 1]}, state)
    # float16 weights; the head's level is a mean of four products
    torch.testing.assert_close(first["image"], still(frames[:, 0]), rtol=0, atol=1e-3)
    assert (second["image"] - still(frames[:, 1])).abs().max() > 1e-2  # the past is taken
    level = torch.nn.functional.interpolate(first["noise_level"], scale_factor=8.0)
    torch.testing.assert_close(state["past"][:, -1:], level)  # nothing to average the first with


@pytest.mark.parametrize(
    "options, name",
    [
        ({"channels": 2}, "channels"),
        ({"estimator_width": 0}, "estimator_width"),
        ({"estimator_depth": 2}, "estimator_depth"),
        ({"look_ahead": 1}, "look_ahead"),
    ],
)
def test_bad_options_are_named(options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        RDXNetBlind(**{**TINY, **options})


def test_tiles_have_the_whole_frame_s_results():
    """The state of blocks is cut like that of pixels."""
    network = tiny()
    tile = 32 * -(-(2 * describe(network).radius + 96) // 32)
    frames = clip(3, 3, tile + 56, 72)[0]
    whole, tiled = (VideoDenoiser(network, scene_cut="off", tile=t) for t in (None, tile))
    for frame in frames:
        torch.testing.assert_close(tiled.push(frame), whole.push(frame), rtol=1e-4, atol=1e-4)
    assert whole.memory() == tiled.memory() > 0
