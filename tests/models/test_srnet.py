"""SRNet: sizes, homogeneity, the skip, tiles, plans, the contract of upscalers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster

from denoise_ext.analysis.geometry import describe
from denoise_ext.export import export_onnx
from denoise_ext.models import ImageUpscaler, build_model, create_model
from denoise_ext.models.srnet import SRNet, bicubic_weights
from denoise_ext.nn import to_torch
from denoise_ext.resampling import imresize


def small(scale: int = 2, channels: int = 3) -> SRNet:
    network = SRNet(channels, scale, width=8, blocks=2)
    network.initialise(torch.Generator().manual_seed(3))
    return network.eval()


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_named_networks(scale):
    with torch.device("meta"):
        network = create_model(f"srnet_s_x{scale}")
    assert isinstance(network, ImageUpscaler) and network.scale == scale
    assert sum(p.numel() for p in network.parameters()) < 0.4e6
    assert all(name.endswith("weight") for name, _ in network.named_parameters())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_training_starts_with_bicubic_interpolation(scale):
    network, x = to_torch(small(scale)).double(), image(1, 3, 12, 9).double()
    with torch.no_grad():
        network.tail.weight.zero_()
        made = network(x, 0.0)
    edge = 2 * scale  # the network sees black beyond the edge, imresize a mirror
    inner = (..., slice(edge, -edge), slice(edge, -edge))
    # the weights are float32: 25 products of at most 2^-24
    torch.testing.assert_close(made[inner], imresize(x, scale)[inner], rtol=0, atol=25 * 2.0**-24)
    assert bicubic_weights(scale).sum().item() == pytest.approx(scale**2)


def test_homogeneous_and_conditioned_on_the_level():
    network, x = to_torch(small()).double(), image(2, 3, 10, 7).double()
    with torch.inference_mode():
        made = network(x, torch.tensor([5.0, 20.0]))
        torch.testing.assert_close(network(3 * x, torch.tensor([15.0, 60.0])), 3 * made)
        assert not torch.allclose(network(x, 0.0), made)
    assert made.shape == (2, 3, 20, 14)
    assert network(x[:0], 5.0).shape == (0, 3, 20, 14)


def test_geometry_and_onnx(tmp_path):
    network = small()
    # head, two blocks of two convolutions, tail: 6 of radius 1; the skip's 2 are less
    assert describe(network).radius == 6 and describe(network).stride == 1
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    difference = export_onnx(network, tmp_path / "net.onnx")
    assert difference is not None and difference < 1e-4
    import onnx

    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [item.name for item in graph.output] == ["enlarged"]


def test_wrong_options():
    for options, named in (
        ({"scale": 1}, "scale.*1"), ({"scale": 9}, "scale.*9"), ({"scale": 2.0}, "scale.*2.0"),
        ({"width": 0}, "width.*0"), ({"blocks": 0}, "blocks.*0"), ({"channels": 0}, "channels.*0"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=named):
            SRNet(**options)
    with pytest.raises(ValueError, match="sigma is required"):
        small()(image(1, 3, 8, 8))
    assert np.isclose(small().config["scale"], 2) and build_model(small().config).scale == 2
