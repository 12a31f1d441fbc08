"""Networks between two networks."""

from __future__ import annotations

import pytest
import torch

from denoise_ext.models import create_model, interpolate


def network(seed: int, **options: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_model("dxnet_s_gray", **{"widths": [4, 6], "blocks": [1, 1], **options}).eval()


def test_weights_lie_between_and_the_ends_are_the_networks():
    first, second = network(0), network(1)
    kept = {name: value.clone() for name, value in first.state_dict().items()}
    quarter = interpolate(first, second, 0.25)
    for name, value in quarter.state_dict().items():
        expected = 0.75 * kept[name] + 0.25 * second.state_dict()[name]
        assert torch.allclose(value, expected, atol=1e-7)
        assert torch.equal(first.state_dict()[name], kept[name])  # a copy is changed
    x = torch.rand(1, 1, 12, 12)
    for share, end in ((0, first), (1.0, second)):
        assert torch.equal(interpolate(first, second, share)(x, 25.0), end(x, 25.0))


@pytest.mark.parametrize("share", [-0.1, 2.1, float("nan"), "1", True])
def test_a_share_outside_is_an_error(share):
    with pytest.raises(ValueError, match="share"):
        interpolate(network(0), network(1), share)


def test_other_networks_are_an_error():
    with pytest.raises(ValueError, match=r"\[4, 6\].*\[4, 8\]"):
        interpolate(network(0), network(1, widths=[4, 8]), 0.5)
