"""Published U-Nets are read: DRUNet in KAIR's layout, NAFNet in its authors'."""

from __future__ import annotations

import pytest
import torch
from published_u_nets import drunet, drunet_state, nafnet, nafnet_state

from denoise_ext.models import CheckpointError, load_checkpoint
from denoise_ext.nn import to_torch

# float32 both, sums in another order: dozens of layers of at most 100 terms of values near 1
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def image(channels: int) -> torch.Tensor:
    return torch.rand(2, channels, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("channels", "noise_map", "widths", "blocks"),
    [(1, True, [4, 5, 6, 7], 2), (3, True, [4, 6, 8, 10], 1), (3, False, [3, 5], 1)],
)
def test_drunet(tmp_path, channels, noise_map, widths, blocks, bias):
    state = drunet_state(channels + noise_map, channels, widths, blocks, bias)
    torch.save(state, tmp_path / "drunet.pth")
    model = load_checkpoint(tmp_path / "drunet.pth")
    assert model.config == {
        "family": "drunet", "channels": channels, "widths": widths, "blocks": blocks,
        "noise_map": noise_map, "bias": bias,
    }  # fmt: skip
    assert not model.training
    x = image(channels)
    inputs = torch.cat([x, torch.full_like(x[:, :1], 15 / 255)], 1) if noise_map else x
    expected = drunet(state, inputs, len(widths) - 1, blocks)
    with torch.inference_mode():
        for network in (model, to_torch(model)):
            torch.testing.assert_close(network(x, 15.0 if noise_map else None), expected, **CLOSE)


@pytest.mark.parametrize(
    ("channels", "encoder", "middle", "decoder"),
    [(3, [1, 2], 1, [2, 1]), (1, [1, 1, 2], 2, [1, 1, 1])],
)
def test_nafnet(tmp_path, channels, encoder, middle, decoder):
    state = nafnet_state(channels, 4, encoder, middle, decoder)
    torch.save({"params": state}, tmp_path / "nafnet.pth")
    model = load_checkpoint(tmp_path / "nafnet.pth")
    assert model.config == {
        "family": "nafnet", "channels": channels, "width": 4, "encoder_blocks": encoder,
        "middle_blocks": middle, "decoder_blocks": decoder, "noise_map": False,
    }  # fmt: skip
    x = image(channels)
    expected = nafnet(state, x, encoder, middle, decoder)
    with torch.inference_mode():
        for network in (model, to_torch(model)):
            torch.testing.assert_close(network(x), expected, **CLOSE)


def broken(name: str) -> dict[str, torch.Tensor]:
    state = drunet_state(2, 1, [4, 5, 6], 1)
    if name == "no tail":
        del state["m_tail.weight"]
    elif name == "no down":
        del state["m_down2.1.weight"]
    elif name == "average pooling":
        state["m_down1.1.1.weight"] = state.pop("m_down1.1.weight")
    elif name == "one key more":
        state["x"] = torch.zeros(1)
    elif name == "wrong shape":
        state["m_body.0.res.0.weight"] = torch.zeros(6, 6, 5, 5)
    elif name == "channels":
        state["m_head.weight"] = torch.zeros(4, 5, 3, 3)
    elif name == "not finite":
        state["m_body.0.res.0.weight"][0] = torch.nan
    elif name == "scalar":
        state["m_head.weight"] = torch.tensor(1.0)
    elif name == "huge":
        # 4 bytes on the disk that claim 4 * 10**16
        state["m_down1.1.weight"] = torch.zeros(1).expand(10**8, 4, 2, 2)
        state["m_body.0.res.0.weight"] = torch.zeros(1).expand(10**8, 10**8, 3, 3)
    elif name == "expanded":
        state["m_tail.weight"] = torch.zeros(1).expand(1, 4, 3, 3)
    return state


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no tail", "m_tail.weight is missing"),
        ("no down", "m_down2.1.weight is missing"),
        ("average pooling", "m_down1.1.weight is missing"),
        ("one key more", "weights do not fit their configuration: x:"),
        ("wrong shape", r"m_body.0.res.0.weight: \(6, 6, 5, 5\), not \(6, 6, 3, 3\)"),
        ("channels", "5 input and 1 output channels"),
        ("not finite", "weight 'm_body.0.res.0.weight' is not finite"),
        ("scalar", "weight of shape"),
        ("huge", "is not stored number by number"),
        ("expanded", "m_tail.weight' is not stored number by number"),
    ],
)
def test_broken_drunet(tmp_path, name, message):
    torch.save(broken(name), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=rf"net\.pth: .*{message}"):
        load_checkpoint(tmp_path / "net.pth")
