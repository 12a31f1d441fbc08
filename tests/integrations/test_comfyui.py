"""The node, called as ComfyUI calls nodes."""

from __future__ import annotations

import inspect

import pytest
import torch

from denoise_ext import Denoiser
from denoise_ext._loader import native_error
from denoise_ext.integrations import comfyui

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")


def execute(name: str, image: torch.Tensor, **chosen: object) -> torch.Tensor:
    """What ComfyUI does with a node: defaults and limits from INPUT_TYPES, then FUNCTION."""
    node_class = comfyui.NODE_CLASS_MAPPINGS[name]
    values: dict[str, object] = {"image": image}
    for key, (kind, *more) in node_class.INPUT_TYPES()["required"].items():
        if isinstance(kind, list):
            values[key] = chosen.get(key, kind[0])
            assert values[key] in kind
        elif kind == "FLOAT":
            values[key] = chosen.get(key, more[0]["default"])
            assert more[0]["min"] <= values[key] <= more[0]["max"]
    result = getattr(node_class(), node_class.FUNCTION)(**values)
    assert type(result) is tuple and len(result) == len(node_class.RETURN_TYPES)
    return result[0]


def batch(channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = 0.08 * torch.randn(2, 48, 64, channels, generator=generator)
    return (0.5 + noise).clamp(0, 1)


def test_both_tables_name_the_same_nodes():
    assert comfyui.NODE_CLASS_MAPPINGS.keys() == comfyui.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in comfyui.NODE_CLASS_MAPPINGS.values():
        inputs = list(inspect.signature(getattr(node, node.FUNCTION)).parameters)[1:]
        assert inputs == list(node.INPUT_TYPES()["required"])
        assert node.CATEGORY and set(node.RETURN_TYPES) == {"IMAGE"}


def test_defaults_find_the_noise():
    x = batch()
    y = execute("DenoiseExtDenoise", x)
    assert (y.shape, y.dtype, y.is_contiguous()) == (x.shape, torch.float32, True)
    assert float(y.std()) < 0.3 * float(x.std())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_and_a_level(channels):
    x = batch(channels)
    name = {1: "dxnet_s_gray", 3: "dxnet_s_color"}[channels]
    y = execute("DenoiseExtDenoise", x, model=name, sigma=20.0, strength=0.5)
    expected = Denoiser(name, strength=0.5)(x.movedim(-1, 1), 20.0).movedim(1, -1).clamp(0, 1)
    assert torch.allclose(y, expected, atol=1e-6)
    assert torch.equal(execute("DenoiseExtDenoise", x, sigma=20.0, strength=0.0), x)


def test_bad_images_are_refused():
    with pytest.raises(ValueError, match="image") as raised:
        execute("DenoiseExtDenoise", torch.rand(48, 64, 3))
    assert "(48, 64, 3)" in str(raised.value)
