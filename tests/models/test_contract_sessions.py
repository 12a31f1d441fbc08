"""Networks of other kinds than image denoisers in a `Session`: tiles, precisions, overflows."""

from __future__ import annotations

import pytest
import torch
from contract_networks import BOUND, KINDS, build, in_float32, in_tiles, random_inputs

from denoise_ext._loader import native_error
from denoise_ext.engine.fuse import verify
from denoise_ext.models import Network
from denoise_ext.nn import Conv2d, to_torch
from denoise_ext.runtime import Session, from_module
from denoise_ext.runtime.tiling import grid

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")


def in_double(tensors):
    return {name: x.double() for name, x in tensors.items()}


def overflowing(name: str) -> Network:
    """What the first layer makes of two bright rows is more than float16 holds; results are not."""
    network = build(name)
    with torch.no_grad():
        for module in network.children():
            module.weight.mul_(1e-5)
            module.bias.zero_()
        network.head.weight.copy_((network.head.weight.abs() * 1e10).clamp(4e4, 6e4))
    return network


@pytest.mark.parametrize("precision", ["strict", "default"])
@pytest.mark.parametrize("name", KINDS)
def test_sessions_run_tiles_and_wholes(name, precision, monkeypatch):
    """As a plan; with "strict" tiles are the whole image bit for bit."""
    # However long it takes: PyTorch's own sigmoid and tanh round by where a number lies in memory.
    monkeypatch.setattr(verify, "WORTH_IT", 0.0)
    network = build(name)
    session = Session(network, precision, run_planned=True)
    tiles = session.tile_rule
    side = tiles.smallest + tiles.alignment
    size = (2 * side + 3, side + 5)
    assert not session.untileable and session.bytes_per_pixel > 0
    inputs = [in_float32(random_inputs(network, *size, seed=i)) for i in range(3)]
    parts = grid(*size, (side, side), tiles)
    assert len(parts) > 3
    whole_state = tile_state = None
    exact = to_torch(network).double()
    exact_state = exact.initial_state(in_double(inputs[0]))
    with torch.inference_mode():
        for given in inputs:
            whole, whole_state, again = session.run(given, whole_state)
            assert again is False
            made, (tile_state, count) = in_tiles(
                network, session.run_tiles, parts, given, tile_state, size=size
            )
            assert count == 0
            right, exact_state = exact.compute_any_size(in_double(given), exact_state)
            for port in network.signature.outputs:
                if precision == "strict":
                    assert torch.equal(made[port], whole[port])
                for result in (made, whole):
                    torch.testing.assert_close(result[port].double(), right[port], **BOUND)
    for port in network.signature.state:
        if precision == "strict":
            assert torch.equal(tile_state[port], whole_state[port])
        torch.testing.assert_close(tile_state[port].double(), exact_state[port], **BOUND)


def test_layers_have_the_precision_of_a_session_where_no_plan_is_faster(monkeypatch):
    monkeypatch.setattr(verify, "WORTH_IT", 100.0)
    channels = (1, 32, 32, 1)
    layers = torch.nn.Sequential(
        *(Conv2d(channels[i], channels[i + 1], 3, padding=1) for i in range(3))
    ).eval()
    x = torch.rand(1, 1, 48, 64, generator=torch.Generator().manual_seed(7))
    session = Session(from_module(layers, channels=1), "strict", run_planned=True)
    with torch.inference_mode():
        (made,) = session.run({"image": x})[0].values()
        default = layers(x)
        for layer in layers:
            layer.precision = "strict"
        assert torch.equal(made, layers(x)) and not torch.equal(made, default)


@pytest.mark.parametrize("run_planned", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_sessions_compute_again_what_float16_cannot_hold(name, run_planned):
    """A bright tile overflows within the network: it alone is computed again, in float32."""
    network = overflowing(name)
    session = Session(network, "float16", run_planned)
    tiles = session.tile_rule
    side = tiles.smallest + tiles.alignment
    size = (2 * side + 3, side)
    inputs = {key: x.float() * 0 for key, x in random_inputs(network, *size).items()}
    inputs["image"][:, :, :2] = 1
    parts = grid(*size, (side, side), tiles)
    exact = to_torch(network).double()
    with torch.inference_mode():
        right, right_state = exact(in_double(inputs))
        whole, state, again = session.run(inputs)
        assert again is True
        made, (tile_state, count) = in_tiles(
            network, session.run_tiles, parts, inputs, None, size=size
        )
    assert 1 <= count < len(parts)
    for port in network.signature.outputs:
        for result in (whole, made):
            assert torch.isfinite(result[port]).all()
            # float32 where it is bright, zeros elsewhere
            error = (result[port].double() - right[port]).abs().max()
            assert error <= 1e-5 * right[port].abs().max()
    for port in network.signature.state:
        torch.testing.assert_close(state[port].double(), right_state[port], **BOUND)
        torch.testing.assert_close(tile_state[port].double(), right_state[port], **BOUND)
