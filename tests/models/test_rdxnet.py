"""RDXNet: a recurrent network beside the contract of all networks."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from recurrent import clip, start_of
from torch import Tensor

from denoise_ext._loader import native_error
from denoise_ext.analysis import gflop_per_megapixel
from denoise_ext.analysis.geometry import describe
from denoise_ext.engine import plan
from denoise_ext.models import (
    build_model,
    create_model,
    list_models,
    load_checkpoint,
    save_model,
)
from denoise_ext.models.frames import compute_frames
from denoise_ext.models.rdxnet import RDXNet
from denoise_ext.nn import to_torch

NAMES = list_models("rdxnet*")
TINY = {"widths": (4, 6), "blocks": (1, 1)}


def tiny(channels: int = 1, **options: object) -> RDXNet:
    """A narrow network with random weights."""
    network = RDXNet(channels, **{**TINY, **options})
    network.initialise(torch.Generator().manual_seed(1))
    return network.eval()


def level(value: float = 0.1) -> Tensor:
    return torch.full((2, 1, 1, 1), value)


def test_names_and_sizes():
    small = ["rdxnet_s_color", "rdxnet_s_gray", "rdxnet_xs_color", "rdxnet_xs_gray"]
    assert ["rdxnet_m_photo", *small] == NAMES
    with torch.device("meta"):
        cost = {name: gflop_per_megapixel(create_model(name)) for name in NAMES}
    assert cost["rdxnet_s_gray"] < 18
    assert cost["rdxnet_xs_gray"] < 12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (16, 24), (45, 38)])
def test_any_size_and_a_state_of_padded_size(channels, size):
    network = tiny(channels)
    x = clip(channels, 2, *size)
    with torch.inference_mode():
        outputs, state = compute_frames(network, {"image": x, "noise_map": level()})
    assert outputs["image"].shape == x.shape
    assert state["past"].shape == (2, 2 * channels + 1, *(network.padded(n) for n in size))
    assert outputs["image"].isfinite().all()


@pytest.mark.parametrize(("channels", "options"), [(1, {}), (3, {}), (3, {"bypass": True})])
def test_own_kernels_compute_what_torch_computes(channels, options):
    network = tiny(channels, **options)
    if network.bypass is not None:
        torch.nn.init.normal_(network.bypass.weight, std=0.3)
    inputs = {"image": clip(channels, 4, 27, 34), "noise_map": level()}
    with torch.inference_mode():
        ours, _ = compute_frames(network, inputs)
        theirs, _ = compute_frames(to_torch(network), inputs)
    torch.testing.assert_close(ours["image"], theirs["image"], rtol=1e-4, atol=1e-4)


def test_a_call_with_names_checks_and_changes_nothing():
    network = tiny()
    x = clip(1, 2, 20, 24)
    inputs = {"image": x[:, 0], "noise_map": level()}
    first, state = network(inputs)
    kept = state["past"].clone()
    again, _ = network({**inputs, "image": x[:, 1]}, state)
    assert torch.equal(state["past"], kept)
    both, _ = compute_frames(network, {"image": x, "noise_map": level()})
    assert torch.equal(both["image"], torch.stack([first["image"], again["image"]], 1))
    with pytest.raises(ValueError, match="past"):
        network(inputs, {"past": kept[..., :8]})


def test_a_map_of_one_level_is_that_level():
    network = tiny().double()
    x = clip(1, 3, 24, 32).double()
    maps = torch.full((2, 1, 24, 32), 0.1, dtype=torch.float64)
    with torch.inference_mode():
        one, _ = compute_frames(network, {"image": x, "noise_map": level().double()})
        whole, _ = compute_frames(network, {"image": x, "noise_map": maps.float().double()})
    torch.testing.assert_close(one["image"], whole["image"], rtol=1e-6, atol=1e-6)


def test_the_past_is_averaged_where_nothing_moves():
    """Before training a quarter of it: the level of the noise falls, and the noise with it."""
    network = tiny().double()
    clean = 0.5 + 0.2 * torch.sin(torch.arange(32.0))[:, None].expand(32, 32)
    noise = torch.randn(1, 6, 1, 32, 32, generator=torch.Generator().manual_seed(4))
    x = (clean + 0.1 * noise).double()
    with torch.inference_mode():
        _, state = compute_frames(network, {"image": x, "noise_map": level()[:1].double()})
    fused, fused_level = state["past"][0, 1], state["past"][0, 2]
    left = (fused - clean).square().mean().sqrt()
    assert fused_level.mean() < 0.085
    assert left < 0.09
    assert (left / fused_level.square().mean().sqrt() - 1).abs() < 0.1


def test_no_noise_takes_nothing_of_the_past():
    network = tiny()
    x = clip(1, 2, 16, 16)
    with torch.inference_mode():
        _, state = compute_frames(network, {"image": x, "noise_map": level(0.0)})
    assert torch.equal(state["past"][:, 1:2], x[:, -1])
    assert not state["past"][:, 2:].any()


@pytest.mark.parametrize(
    "options", [{}, {"unshuffle": 4}, {"widths": (4, 6, 8), "blocks": [1] * 3}]
)
def test_nothing_beyond_the_stated_radius_is_read(options):
    network = tiny(**options).double()
    geometry = describe(network)
    assert geometry.stride == network.stride
    side = 8 * -(-(2 * geometry.radius + 64) // 8)
    x = clip(1, 2, side, side).double()
    noise = level().double()
    place = side // 2
    with torch.inference_mode():
        _, state = network({"image": x[:, 0], "noise_map": noise}, None)
        before, _ = network({"image": x[:, 1], "noise_map": noise}, state)
        for changed in ("image", "past"):
            inputs = {"image": x[:, 1].clone(), "noise_map": noise}
            past = {"past": state["past"].clone()}
            tensor = inputs["image"] if changed == "image" else past["past"]
            tensor[:, :, place, place] += 0.5
            after, _ = network(inputs, past)
            moved = (after["image"] != before["image"]).any(0)[0].nonzero()
            distance = (moved - place).abs().max().item()
            assert 0 < distance <= geometry.radius


def test_gradients_reach_every_parameter():
    network = tiny(3, bypass=True).train()
    x = clip(3, 3, 16, 24)
    outputs, _ = compute_frames(network, {"image": x, "noise_map": level()})
    outputs["image"].square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("truncate", [0, 1, 2, 3])
def test_truncation_cuts_the_gradient_and_nothing_else(truncate):
    """Of three frames the first two reach the last, unless the state is cut off before it."""
    network = tiny().double()
    x = clip(1, 3, 16, 16).double().requires_grad_()
    inputs = {"image": x, "noise_map": level().double()}
    outputs, _ = compute_frames(network, inputs, truncate=truncate)
    whole, _ = compute_frames(network, inputs)
    assert torch.equal(outputs["image"], whole["image"])
    (grad,) = torch.autograd.grad(outputs["image"][:, 2].sum(), x)
    assert bool(grad[:, 2].any())
    for earlier in (0, 1):
        assert bool(grad[:, earlier].any()) == (truncate in (0, 3))


def test_random_weights_depend_on_the_seed_alone():
    first, second = tiny(), tiny()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    second.initialise(torch.Generator().manual_seed(1))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("name", NAMES)
def test_written_and_read(name, tmp_path):
    network = create_model(name, **TINY)
    assert json.loads(json.dumps(network.config)) == network.config
    save_model(network, tmp_path / "net.safetensors", torch.float32)
    again = load_checkpoint(tmp_path / "net.safetensors")
    assert again.config == network.config == build_model(network.config).config
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


@pytest.mark.parametrize(
    "options, name",
    [
        ({"channels": 2}, "channels"),
        ({"widths": [4]}, "widths"),
        ({"widths": []}, "widths"),
        ({"blocks": [0, 1]}, "blocks"),
        ({"unshuffle": 0}, "unshuffle"),
        ({"unshuffle": 17}, "unshuffle"),
        ({"unshuffle": True}, "unshuffle"),
        ({"bypass": 2}, "bypass"),
    ],
)
def test_bad_options_are_named(options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        RDXNet(**{**TINY, **options})


# ---- the next frame


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_looks_ahead_is_a_frame_late(channels):
    network = tiny(channels, look_ahead=True)
    assert network.delay == 1 and network.config["look_ahead"] is True
    x = clip(channels, 5, 27, 34)
    with torch.inference_mode():
        outputs, state = compute_frames(network, {"image": x, "noise_map": level()})
        theirs, _ = compute_frames(to_torch(network), {"image": x, "noise_map": level()})
        other = x.clone()
        other[:, 3:] += 0.2
        changed, _ = compute_frames(network, {"image": other, "noise_map": level()})
    assert outputs["image"].shape == x.shape
    torch.testing.assert_close(outputs["image"], theirs["image"], rtol=1e-4, atol=1e-4)
    same = [torch.equal(a, b) for a, b in zip(*(y["image"].unbind(1) for y in (outputs, changed)))]
    assert same == [True, True, False, False, False]  # frame 2 takes frame 3
    assert state["waiting"][:, channels:].eq(1).all()


def test_without_weights_for_the_next_frame_the_past_alone_counts():
    network, causal = tiny(look_ahead=True), tiny()
    own = causal.state_dict()
    for key, weight in network.state_dict().items():
        if weight.shape != own[key].shape:  # the first layer of the trunk
            own[key] = torch.cat([own[key], torch.zeros_like(weight[:, own[key].shape[1] :])], 1)
    network.load_state_dict(own)
    x = clip(1, 4, 32, 40)
    mirrored = torch.cat([x[:, 1:2], x], 1)
    with torch.inference_mode():
        ahead, _ = compute_frames(network, {"image": x, "noise_map": level()})
        past, _ = compute_frames(causal, {"image": mirrored, "noise_map": level()})
    torch.testing.assert_close(ahead["image"], past["image"][:, 1:], rtol=1e-5, atol=1e-5)


def test_looking_ahead_learns_and_is_stored(tmp_path):
    network = tiny(look_ahead=True).train()
    x = clip(1, 3, 16, 24).requires_grad_()
    outputs, _ = compute_frames(network, {"image": x, "noise_map": level()})
    outputs["image"][:, 0].square().sum().backward()
    assert x.grad[:, 1].abs().max() > 0
    save_model(network.eval(), tmp_path / "ahead.safetensors", torch.float32)
    again = load_checkpoint(tmp_path / "ahead.safetensors")
    assert again.config == network.config and again.delay == 1
    with pytest.raises((TypeError, ValueError), match="look_ahead"):
        RDXNet(look_ahead=2)


@pytest.mark.skipif(native_error() is not None, reason="native library missing")
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_step_is_one_plan(name):
    """Frames of two clips in turn, of two sizes; the first frame of each has no state."""
    network = create_model(name, **TINY).eval()
    network.initialise(torch.Generator().manual_seed(1))
    fast, channels = plan(network), network.in_channels
    clips = [clip(channels, 5, 45, 38), clip(channels, 5, 64, 48, seed=1)]
    states = [[None, None] for _ in clips]
    with torch.inference_mode():
        for t in range(5):
            for x, state in zip(clips, states, strict=True):
                inputs = {"image": x[:, t]}
                if "noise_map" in network.signature.inputs:
                    inputs["noise_map"] = level()
                ours, state[0] = fast(inputs, state[0])
                theirs, state[1] = network(inputs, state[1])
                torch.testing.assert_close(ours["image"], theirs["image"], rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(state[0]["past"], state[1]["past"], rtol=1e-4, atol=1e-4)
    rows = fast.report().rows
    assert {(row.module, row.variant) for row in rows} == {("", "plan")}, fast.report()


@pytest.mark.parametrize("size", ["s", "xs"])
def test_a_colour_network_to_train_on_denoises_luma_as_the_gray_one(size, tmp_path, monkeypatch):
    gray = create_model(f"rdxnet_{size}_gray", pretrained=True)
    color = start_of(f"rdxnet_{size}_color", tmp_path, monkeypatch)
    frames = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    level = torch.full((1, 1, 1, 1), 20 / 255)
    luma_level = level * sum(weight**2 for weight in (0.299, 0.587, 0.114)) ** 0.5
    state = luma_state = None
    with torch.no_grad():
        for frame in frames:
            wanted, luma_state = gray({"image": frame, "noise_map": luma_level}, luma_state)
            given = {"image": frame.expand(-1, 3, -1, -1), "noise_map": level}
            got, state = color(given, state)
            # float16 weights, whose products with those of luma are rounded once more
            torch.testing.assert_close(
                got["image"], wanted["image"].expand(-1, 3, -1, -1), rtol=0, atol=2e-3
            )


def test_the_bypass_to_train_on_keeps_brightness_and_colours_at_half_the_resolution(
    tmp_path, monkeypatch
):
    network = start_of("rdxnet_xs_color", tmp_path, monkeypatch)
    assert network.bypass is not None
    x = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        kept = F.pixel_shuffle(network.bypass(F.pixel_unshuffle(x, 4)), 4)
    luma = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    brightness = (luma * kept).sum(1, keepdim=True)
    # float16 weights: 48 products, each of a weight that is wrong by 2**-12 of itself
    wrong = {"rtol": 0, "atol": 48 * 2**-12}
    torch.testing.assert_close(brightness, (luma * x).sum(1, keepdim=True), **wrong)
    torch.testing.assert_close(F.avg_pool2d(kept, 2), F.avg_pool2d(x, 2), **wrong)
    colours = kept - brightness
    coarse = F.interpolate(F.avg_pool2d(colours, 2), scale_factor=2.0)
    torch.testing.assert_close(colours, coarse, **wrong)
