"""Published upscalers are read: SRVGGNetCompact, RRDBNet in its three layouts, SPAN."""

from __future__ import annotations

import pytest
import torch
from published_upscalers import (
    rrdb,
    rrdb_names,
    rrdb_state,
    span,
    span_state,
    srvgg,
    srvgg_state,
)

from denoise_ext.models import CheckpointError, load_checkpoint
from denoise_ext.nn import to_torch

# float32 both, sums in another order: dozens of layers of some 100 terms of values near 1
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def image(channels: int, height: int = 12, width: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, channels, height, width, generator=generator)


@pytest.mark.parametrize(
    ("channels", "scale", "width", "depth"), [(3, 4, 8, 3), (1, 2, 6, 1), (3, 3, 4, 2)]
)
@pytest.mark.parametrize("wrapper", ["params", "params_ema", ""])
def test_srvgg(tmp_path, channels, scale, width, depth, wrapper):
    state = srvgg_state(channels, scale, width, depth)
    torch.save({wrapper: state} if wrapper else state, tmp_path / "net.pth")
    model = load_checkpoint(tmp_path / "net.pth")
    assert model.config == {
        "family": "srvgg", "channels": channels, "scale": scale, "width": width, "depth": depth,
    }  # fmt: skip
    assert not model.training
    x = image(channels)
    expected = srvgg(state, x, scale, depth)
    with torch.inference_mode():
        for network in (model, to_torch(model)):
            torch.testing.assert_close(network(x), expected, **CLOSE)


def test_means_of_the_weights_go_before_the_weights(tmp_path):
    mean, last = srvgg_state(3, 2, 4, 1), srvgg_state(3, 2, 4, 1)
    last["body.0.bias"] = last["body.0.bias"] + 1
    torch.save({"params": last, "params_ema": mean}, tmp_path / "net.pth")
    loaded = load_checkpoint(tmp_path / "net.pth")
    assert torch.equal(loaded.state_dict()["body.0.bias"], mean["body.0.bias"])


@pytest.mark.parametrize(
    ("layout", "doublings", "unshuffle"),
    [
        ("old", 2, 1), ("old", 1, 1), ("old", 3, 1), ("trunk", 2, 1), ("trunk", 1, 1),
        ("new", 2, 1), ("new", 2, 2),
    ],
)  # fmt: skip
def test_rrdb(tmp_path, layout, doublings, unshuffle):
    state = rrdb_state(layout, 3, doublings, unshuffle, 6, 4, 2)
    torch.save({"params_ema": state} if layout == "new" else state, tmp_path / "net.pth")
    model = load_checkpoint(tmp_path / "net.pth")
    assert model.config == {
        "family": "rrdb", "channels": 3, "doublings": doublings, "unshuffle": unshuffle,
        "width": 6, "growth": 4, "blocks": 2,
    }  # fmt: skip
    x = image(3)
    expected = rrdb(state, x, layout, doublings, unshuffle, 2)
    assert expected.shape[-1] == model.scale * x.shape[-1]
    with torch.inference_mode():
        for network in (model, to_torch(model)):
            torch.testing.assert_close(network(x), expected, **CLOSE)


@pytest.mark.parametrize(
    ("channels", "scale", "normalise"), [(3, 4, True), (3, 2, False), (1, 2, False)]
)
def test_span(tmp_path, channels, scale, normalise):
    state = span_state(channels, scale, 6, normalise)
    torch.save({"params": state}, tmp_path / "net.pth")
    model = load_checkpoint(tmp_path / "net.pth")
    assert model.config == {
        "family": "span", "channels": channels, "scale": scale, "width": 6, "normalise": normalise,
    }  # fmt: skip
    x = image(channels)
    expected = span(state, x, scale, normalise)
    # In float64 little differs: a folded weight at the middle of two float32 may be either.
    with torch.inference_mode():
        made = to_torch(model).double()(x.double())
        size = expected.abs().max()
        assert (made - expected).abs().max() < 1e-6 * size
        assert (model(x) - expected).abs().max() < 1e-4 * size


def test_a_span_of_a_wide_product_is_refused(tmp_path):
    """Two thin matrices whose product is large: refused before it is made."""
    state = span_state(3, 2, 6)
    state["conv_1.conv.2.weight"] = torch.zeros(10**5, 1, 1, 1)
    state["conv_1.sk.weight"] = torch.zeros(10**5, 1, 1, 1)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="conv_1: convolutions of shapes"):
        load_checkpoint(tmp_path / "net.pth")
    state = span_state(3, 2, 6)
    state["block_7.c1_r.sk.weight"] = state["block_1.c1_r.sk.weight"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"block_7\.c1_r\.sk\.weight is not expected"):
        load_checkpoint(tmp_path / "net.pth")
    state = span_state(3, 2, 6)
    del state["block_3.c2_r.conv.1.bias"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"block_3\.c2_r\.conv\.1\.bias is missing"):
        load_checkpoint(tmp_path / "net.pth")


def broken(name: str) -> dict[str, torch.Tensor]:
    state = srvgg_state(3, 4, 8, 3)
    old = rrdb_state("old", 3, 2, 1, 6, 4, 2)
    if name == "no slopes":
        del state["body.3.weight"]
    elif name == "even last":
        state["body.7.weight"] = torch.zeros(8)
    elif name == "far last":
        state[f"body.{10**9}.weight"] = state.pop("body.6.weight")
    elif name == "no square":
        state["body.6.weight"] = torch.zeros(9, 8, 3, 3)
    elif name == "too large":
        state["body.6.weight"] = torch.zeros(3 * 9**2, 8, 3, 3)
        state["body.6.bias"] = torch.zeros(3 * 9**2)
    elif name == "not finite":
        state["body.2.weight"][0] = torch.nan
    elif name == "expanded":
        state["body.2.weight"] = torch.zeros(1).expand(10**5, 10**5, 3, 3)
    elif name == "one scale":  # what restores without enlarging
        return rrdb_state("new", 3, 2, 4, 6, 4, 1)
    elif name == "no last":
        del old["model.10.weight"]
        return old
    elif name == "no block":
        return {k: x for k, x in old.items() if "sub.0.RDB2" not in k}
    elif name == "conv1x1":
        old["model.1.sub.0.RDB1.conv1x1.weight"] = torch.zeros(4, 6, 1, 1)
        return old
    elif name == "two layouts":
        return {**old, "conv_first.weight": old["model.0.weight"]}
    return state


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no slopes", "body.1.prelu_weight: missing"),
        ("even last", "body.7 is not expected"),
        ("far last", "body.1000000000 is not expected"),
        ("no square", "9 values for 3 channels"),
        ("too large", "scale must be <= 8, got 9"),
        ("not finite", "'body.1.weight' is not finite"),
        ("expanded", "'body.2.weight' is not stored number by number"),
        ("one scale", "scale must be >= 2, got 1"),
        ("no last", "conv_last.weight is missing"),
        ("no block", "body.0.rdb2.conv1.bias: missing"),
        ("conv1x1", "conv1x1"),
        ("two layouts", "two layouts"),
    ],
)
def test_broken_upscalers(tmp_path, name, message):
    torch.save(broken(name), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=rf"(?s)net\.pth: .*{message}"):
        load_checkpoint(tmp_path / "net.pth")


def test_old_names_cover_every_number():
    """The helper writes ESRGAN's own numbers: 0, 1.sub, 3, 6, 8, 10 for four times the size."""
    names = rrdb_names("old", 2)
    assert (names["hr"], names["last"]) == ("model.8", "model.10")
