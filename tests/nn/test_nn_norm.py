"""The normalisation layers: those of torch.nn, and a layer norm over channels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from denoise_ext import nn as dnn
from denoise_ext import ops

PAIRS = {
    "group": (dnn.GroupNorm(3, 6), nn.GroupNorm(3, 6)),
    "group plain": (dnn.GroupNorm(2, 6, 1e-3, False), nn.GroupNorm(2, 6, 1e-3, False)),
    "instance": (dnn.InstanceNorm2d(6), nn.InstanceNorm2d(6)),
    "instance affine": (
        dnn.InstanceNorm2d(6, affine=True),
        nn.InstanceNorm2d(6, affine=True),
    ),
    "instance tracked": (
        dnn.InstanceNorm2d(6, track_running_stats=True),
        nn.InstanceNorm2d(6, track_running_stats=True),
    ),
}


def image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_torchs(name, training):
    ours, theirs = (copy.deepcopy(layer).double().train(training) for layer in PAIRS[name])
    for parameter in theirs.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    # Of three dimensions PyTorch takes the first for the batch, or there is none.
    single = image(5, 6, 7) if name.startswith("group") else image(6, 7, 5)
    for x in (image(2, 6, 7, 5), single):
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_layer_norm_over_channels():
    layer, x = dnn.LayerNorm2d(6, activation="gelu").double(), image(2, 6, 7, 5)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    pixels = F.layer_norm(x.permute(0, 2, 3, 1), (6,), layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), F.gelu(pixels.permute(0, 3, 1, 2)))
    assert dnn.LayerNorm2d(6, affine=False).state_dict() == {}
    assert "activation=gelu" in repr(layer)


@pytest.mark.parametrize("make", [
    lambda: dnn.LayerNorm2d(6, activation="silu"),
    lambda: dnn.GroupNorm(3, 6, activation="leaky_relu", negative_slope=0.2),
    lambda: dnn.InstanceNorm2d(6, activation="relu"),
])  # fmt: skip
def test_conversion(make):
    layer, x = make().double(), image(2, 6, 7, 5)
    plain = dnn.to_torch(layer)
    torch.testing.assert_close(plain(x), layer(x))
    back = dnn.from_torch(plain)
    assert type(back) is type(layer) and repr(back) == repr(layer)


@pytest.mark.parametrize("cls", [dnn.LayerNorm2d, dnn.InstanceNorm2d])
@pytest.mark.parametrize("activation", ["prelu", "mish"])
def test_invalid_activation(cls, activation):
    with pytest.raises(ValueError, match=r"^activation"):
        cls(6, activation=activation)


@pytest.mark.parametrize(("named", "call"), [
    ("num_groups", lambda x: ops.group_norm(x, 4)),
    ("weight", lambda x: ops.layer_norm2d(x, torch.ones(5))),
    ("eps", lambda x: ops.layer_norm2d(x, eps=float("nan"))),
    ("input", lambda x: ops.layer_norm2d(x[:, :0])),
    ("negative_slope", lambda x: ops.group_norm(x, 3, activation="leaky_relu", negative_slope=-1)),
])  # fmt: skip
def test_invalid_arguments(named, call):
    with pytest.raises(ValueError, match=f"^{named}"):
        call(image(1, 6, 7, 5).float())


def test_kornias_fourth_argument_trains_nothing():
    layer = dnn.GaussianBlur2d(3, 1.0, "reflect", True)
    assert not list(layer.parameters())
    with pytest.raises(TypeError, match=r"^separable"):
        dnn.GaussianBlur2d(3, 1.0, "reflect", 1)


def test_instance_norm_of_any_number_of_channels():
    """Without weights PyTorch's layer takes it, with a warning: 6 channels are no 3 groups."""
    layer, x = dnn.InstanceNorm2d(3).double(), image(2, 6, 7, 5)
    torch.testing.assert_close(layer(x), F.instance_norm(x))
    with pytest.raises(ValueError, match=r"^weight.*\(6,\).*\(3,\)"):
        dnn.InstanceNorm2d(3, affine=True).double()(x)


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_of_another_number_of_channels(affine):
    layer = dnn.LayerNorm2d(6, affine=affine).double()
    for module in (layer, dnn.to_torch(layer)):
        for x in (image(1, 4, 5, 5), image(4, 5, 5)):
            with pytest.raises(ValueError, match=r"^input.*6 channels.*\(.*4, 5, 5\)"):
                module(x)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_instance_norm_is_traced():
    layer, x = dnn.InstanceNorm2d(4), torch.rand(2, 4, 5, 6)
    traced = torch.jit.trace(layer, (x,))
    torch.testing.assert_close(traced(x[..., 1:]), layer(x[..., 1:]), rtol=0, atol=0)
