"""Layers as modules of PyTorch: copies, conversion, compile, export, autocast, training."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

from denoise_ext import nn as dnn


def image(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator)


class Net(nn.Module):
    """A bit of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.head = dnn.ConvReLU2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.body = nn.Sequential(
            dnn.DepthwiseSeparableConv2d(8, 8, 3, padding="same", activation="leaky_relu"),
            dnn.Conv2d(8, 8, 3, padding="same", activation="prelu", prelu_parameters=8),
        )
        self.up = dnn.ConvTransposeReLU2d(8, 3, 4, 2, 1)
        self.blur = dnn.GaussianBlur2d(3, 0.8, trainable=True)
        self.smooth = dnn.BilateralBlur(3, 0.3, 1.0, trainable=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        return self.smooth(self.blur(self.up(self.body(y))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x() -> Tensor:
    return image(2, 3, 7, 6)


def test_deepcopy_and_pickle(net, x):
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for copied in (copy.deepcopy(net), torch.load(buffer, weights_only=False)):
        assert repr(copied) == repr(net)
        assert torch.equal(copied(x), net(x))
        copied.head.weight.data.zero_()
    assert net.head.weight.abs().sum() > 0


def test_to_torch_and_back(net, x):
    plain = dnn.to_torch(net)
    assert list(plain.state_dict()) == list(net.state_dict())
    own = (dnn.Conv2d, dnn.ConvTranspose2d)
    assert not any(isinstance(module, own) for module in plain.modules())
    torch.testing.assert_close(plain(x), net(x), rtol=1e-5, atol=1e-5)
    again = dnn.from_torch(plain)
    assert torch.equal(again(x), dnn.from_torch(dnn.to_torch(again))(x))
    torch.testing.assert_close(again(x), net(x))
    assert isinstance(net.head, dnn.Conv2d), "the original is left alone"
    assert plain.head.weight.data_ptr() != net.head.weight.data_ptr()


def test_to_torch_layer_without_activation_is_plain():
    layer = dnn.to_torch(dnn.Conv2d(3, 4, 3))
    assert type(layer) is nn.Conv2d
    assert repr(layer) == repr(nn.Conv2d(3, 4, 3))
    assert type(dnn.to_torch(dnn.ConvTranspose2d(3, 4, 3))) is nn.ConvTranspose2d
    copy.deepcopy(layer)


def test_converted_models_can_be_pickled(net, x):
    buffer = io.BytesIO()
    plain = dnn.to_torch(net)
    torch.save(plain, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), plain(x))


def test_from_torch(x):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 2, 2),
    ).eval()  # fmt: skip
    ours = dnn.from_torch(model)
    assert type(ours[0]) is dnn.Conv2d
    assert type(ours[3]) is dnn.ConvTranspose2d
    assert list(ours.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(ours(x), model(x), rtol=1e-5, atol=1e-5)
    assert type(model[0]) is nn.Conv2d
    assert not ours.training


def test_from_torch_keeps_tied_layers_and_leaves_subclasses():
    class Special(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    layer = nn.Conv2d(3, 3, 3)
    ours = dnn.from_torch(nn.ModuleList([layer, layer, Special(3, 3, 3)]))
    assert ours[0] is ours[1]
    assert type(ours[2]) is Special


def test_conversion_keeps_hooks():
    seen = []
    layer = nn.Conv2d(3, 4, 3)
    layer.register_forward_hook(lambda module, args, output: seen.append(type(module)))
    dnn.from_torch(layer)(torch.zeros(1, 3, 5, 5))
    assert seen == [dnn.Conv2d]


def test_to_torch_refuses_what_it_does_not_know():
    class Special(dnn.Conv2d):
        pass

    with pytest.raises(TypeError, match=r"layer '0' is a Special"):
        dnn.to_torch(nn.Sequential(Special(3, 3, 3)))
    parametrized = nn.utils.parametrizations.weight_norm(dnn.Conv2d(3, 3, 3))
    with pytest.raises(TypeError, match="parametrisations"):
        dnn.to_torch(parametrized)
    with pytest.raises(TypeError, match=r"^model must be"):
        dnn.to_torch(3)


def test_weight_norm_works():
    layer = nn.utils.parametrizations.weight_norm(dnn.Conv2d(3, 4, 3))
    layer(torch.zeros(1, 3, 5, 5)).sum().backward()
    assert layer.parametrizations.weight.original0.grad is not None


def test_compile_fullgraph(net, x):
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))
    net.zero_grad()
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_export(net, x):
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(net.eval(), (x,), dynamic_shapes=({0: batch},))
    other = image(5, 3, 7, 6)
    torch.testing.assert_close(program.module()(other), net(other))


def test_training_step_equals_torchs(net, x):
    """The same gradients for every parameter as the plain network."""
    plain = dnn.to_torch(net)
    net(x).square().sum().backward()
    plain(x).square().sum().backward()
    for (name, ours), theirs in zip(net.named_parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_autocast(x):
    for layer, plain in (
        (dnn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)),
        (dnn.ConvTranspose2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3)),
    ):
        plain.load_state_dict(layer.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = layer(x), plain(x)
        assert ours.dtype == theirs.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)


def test_half_and_channels_last(x):
    layer = dnn.Conv2d(3, 4, 3, activation="relu").to(torch.bfloat16)
    layer = layer.to(memory_format=torch.channels_last)
    result = layer(x.to(torch.bfloat16))
    assert result.dtype == torch.bfloat16
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_layers_on_the_meta_device():
    with torch.device("meta"):
        layer = dnn.Conv2d(3, 4, 3, activation="prelu")
    assert layer.prelu_weight.is_meta
    assert layer(torch.zeros(1, 3, 8, 8, device="meta")).shape == (1, 4, 6, 6)
