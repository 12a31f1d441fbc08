"""DXNet with a guide, and with a head for normals: ports, guide, geometry, files."""

from __future__ import annotations

import pytest
import torch

from denoise_ext.analysis.geometry import describe
from denoise_ext.models import ImageDenoiser, create_model, load_checkpoint, save_model

SMALL = {"widths": [8, 16], "blocks": [1, 1], "guide_width": 4}


def made(name: str, **options: object):
    torch.manual_seed(0)
    network = create_model(name, **SMALL, **options)
    network.initialise(torch.Generator().manual_seed(1))
    return network.eval()


def inputs(height: int = 21, width: int = 34, channels: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(1, 1, height, width, generator=generator)
    guide = torch.rand(1, channels, height, width, generator=generator)
    return {"image": image, "guide": guide, "noise_map": torch.full((1, 1, 1, 1), 0.1)}


def test_the_guide_matters_from_the_start():
    """No layer before the head ends in a ReLU, which could be dead for every guide."""
    network = made("dxnet_s_guided")
    given = inputs()
    with torch.no_grad():
        first = network(given)[0]["image"]
        for guide in (given["guide"].flip(3), 0 * given["guide"], -given["guide"]):
            assert (network({**given, "guide": guide})[0]["image"] - first).abs().max() > 1e-4
    assert first.shape == (1, 1, 21, 34)
    first_layer = network.guide[0]
    assert first_layer.activation is None or first_layer.activation == "none"


def test_no_guide_has_no_features():
    network = made("dxnet_s_guided")
    with torch.no_grad():
        assert not network.guide(torch.zeros(1, 12, 8, 8)).any()


def test_it_is_no_plain_denoiser_and_has_a_geometry():
    network = made("dxnet_s_guided", guide_channels=1)
    assert not isinstance(network, ImageDenoiser)
    assert set(network.signature.inputs) == {"image", "noise_map", "guide"}
    found = describe(network)
    assert found.stride == 4 and 10 < found.radius < 40
    with torch.no_grad():
        assert network(inputs(channels=1))[0]["image"].shape == (1, 1, 21, 34)
    with pytest.raises(ValueError, match=r"guide.*\(N, 1, H, W\)"):
        network(inputs())
    short = inputs(channels=1)
    short["guide"] = short["guide"][..., 1:]
    with pytest.raises(ValueError, match=r"guide.*21 x 34"):
        network(short)


@pytest.mark.parametrize("image", [True, False])
def test_normals_are_an_output(image, tmp_path):
    network = made("dxnet_s_normals", image=image)
    with torch.no_grad():
        outputs, _ = network(inputs())
    assert set(outputs) == ({"image", "normals"} if image else {"normals"})
    assert outputs["normals"].shape == (1, 3, 21, 34)
    save_model(network, tmp_path / "net.safetensors", torch.float32, {})
    again = load_checkpoint(tmp_path / "net.safetensors")
    assert again.config == network.config
    with torch.no_grad():
        assert torch.equal(again(inputs())[0]["normals"], outputs["normals"])


@pytest.mark.parametrize(
    ("options", "named"),
    [({"guide_channels": 0}, "guide_channels"), ({"guide_width": 1.5}, "guide_width"),
     ({"widths": [8]}, "widths and blocks")],
)  # fmt: skip
def test_wrong_options(options, named):
    with pytest.raises((TypeError, ValueError), match=named):
        create_model("dxnet_s_guided", **options)
    with pytest.raises(TypeError, match="image"):
        create_model("dxnet_s_normals", image="no")
