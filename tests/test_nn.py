"""Layers: drop-in for torch.nn, in both directions."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional as F

from denoise_ext import nn as dnn
from denoise_ext import reference

CONV_ARGUMENTS = {
    "plain": {"kernel_size": 3},
    "padding": {"kernel_size": 3, "padding": 1},
    "pair": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "dilation": (2, 1)},
    "no_bias": {"kernel_size": 3, "bias": False},
    "same": {"kernel_size": 5, "padding": "same"},
    "same_uneven": {"kernel_size": (4, 2), "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4},
    **{
        f"{mode}": {"kernel_size": 5, "padding": (2, 1), "padding_mode": mode}
        for mode in ("reflect", "replicate", "circular")
    },
    "same_reflect": {"kernel_size": 5, "padding": "same", "padding_mode": "reflect"},
    "same_uneven_circular": {"kernel_size": 4, "padding": "same", "padding_mode": "circular"},
}
TRANSPOSE_ARGUMENTS = {
    "plain": {"kernel_size": 3},
    "upscale": {"kernel_size": 4, "stride": 2, "padding": 1},
    "pair": {"kernel_size": (2, 3), "stride": (2, 3), "output_padding": (1, 2)},
    "groups": {"kernel_size": 3, "stride": 2, "groups": 2, "dilation": 2, "bias": False},
}
ACTIVATIONS = {
    "none": lambda x, layer: x,
    "relu": lambda x, layer: F.relu(x),
    "leaky_relu": lambda x, layer: F.leaky_relu(x, 0.2),
    "prelu": lambda x, layer: F.prelu(x, layer.prelu_weight),
    "sigmoid": lambda x, layer: torch.sigmoid(x),
    "tanh": lambda x, layer: torch.tanh(x),
}


def close(ours: Tensor, theirs: Tensor) -> None:
    """float64 everywhere, sums of at most 4 * 5 * 5 terms of size 1."""
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def image(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


# --- convolutions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", CONV_ARGUMENTS.values(), ids=CONV_ARGUMENTS)
def test_conv2d_takes_torchs_state_dict(arguments):
    theirs = nn.Conv2d(4, 8, **arguments, dtype=torch.float64)
    ours = dnn.Conv2d(4, 8, **arguments, dtype=torch.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for x in (image(2, 4, 9, 8), image(4, 9, 8), image(0, 4, 9, 8)):
        close(ours(x), theirs(x))
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("arguments", TRANSPOSE_ARGUMENTS.values(), ids=TRANSPOSE_ARGUMENTS)
def test_conv_transpose2d_takes_torchs_state_dict(arguments):
    theirs = nn.ConvTranspose2d(4, 8, **arguments, dtype=torch.float64)
    ours = dnn.ConvTranspose2d(4, 8, **arguments, dtype=torch.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for x in (image(2, 4, 5, 6), image(4, 5, 6)):
        close(ours(x), theirs(x))


def test_positional_arguments_are_torchs():
    conv = (4, 6, 3, 2, 1, 2, 2, False, "reflect", "cpu", torch.float64)
    assert repr(dnn.Conv2d(*conv)) == repr(nn.Conv2d(*conv))
    transpose = (4, 6, 3, 2, 1, 1, 2, False, 2, "zeros", "cpu", torch.float64)
    assert repr(dnn.ConvTranspose2d(*transpose)) == repr(nn.ConvTranspose2d(*transpose))


def test_same_initial_weights_from_the_same_seed():
    torch.manual_seed(3)
    theirs = nn.Conv2d(4, 6, 3)
    torch.manual_seed(3)
    ours = dnn.Conv2d(4, 6, 3, activation="relu")
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("cls", [dnn.Conv2d, dnn.ConvTranspose2d])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(cls, activation):
    plain = cls(4, 6, 3, dtype=torch.float64)
    layer = cls(4, 6, 3, dtype=torch.float64, activation=activation, negative_slope=0.2)
    layer.load_state_dict(plain.state_dict(), strict=False)
    x = image(2, 4, 7, 6) - 0.5
    close(layer(x), ACTIVATIONS[activation](plain(x), layer))
    has_slopes = activation == "prelu"
    assert ("prelu_weight" in layer.state_dict()) == has_slopes
    if activation != "none":
        assert f"activation={activation}" in repr(layer)


@pytest.mark.parametrize("parameters", [1, 6])
def test_prelu_slopes_are_trained(parameters):
    layer = dnn.Conv2d(4, 6, 3, activation="prelu", prelu_parameters=parameters)
    assert layer.prelu_weight.shape == (parameters,)
    assert (layer.prelu_weight == nn.PReLU().weight).all()
    layer(torch.randn(2, 4, 7, 6)).sum().backward()
    assert layer.prelu_weight.grad.abs().sum() > 0


def test_residual():
    layer = dnn.ConvReLU2d(4, 4, 3, padding=1, dtype=torch.float64)
    x = image(2, 4, 7, 6) - 0.5
    close(layer(x, x), F.relu(F.conv2d(x, layer.weight, layer.bias, padding=1) + x))


def test_relu_classes():
    x = image(1, 4, 5, 6) - 0.5
    for cls, plain in (
        (dnn.ConvReLU2d, nn.Conv2d), (dnn.ConvTransposeReLU2d, nn.ConvTranspose2d)
    ):  # fmt: skip
        theirs = plain(4, 6, 3, dtype=torch.float64)
        ours = cls(4, 6, 3, dtype=torch.float64)
        ours.load_state_dict(theirs.state_dict())
        close(ours(x), F.relu(theirs(x)))
        assert cls(4, 6, 3, activation="tanh").activation == "tanh"


@pytest.mark.parametrize("size", [None, (10, 12), (11, 13), (2, 8, 11, 12)])
def test_output_size(size):
    theirs = nn.ConvTranspose2d(4, 8, 4, 2, 1, dtype=torch.float64)
    ours = dnn.ConvTranspose2d(4, 8, 4, 2, 1, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = image(2, 4, 5, 6)
    close(ours(x, output_size=size), theirs(x, output_size=size))


def test_impossible_output_size_is_torchs_error():
    with pytest.raises(ValueError, match="output size"):
        dnn.ConvTranspose2d(4, 8, 4, 2, 1)(torch.zeros(1, 4, 5, 6), output_size=(20, 20))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"activation": "gelu"}, "activation"),
        ({"activation": "leaky_relu", "negative_slope": -1.0}, "negative_slope"),
        ({"activation": "prelu", "prelu_parameters": 3}, "prelu_parameters"),
    ],
)
@pytest.mark.parametrize("cls", [dnn.Conv2d, dnn.ConvTranspose2d])
def test_invalid_activation(cls, arguments, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        cls(4, 6, 3, **arguments)


def test_transposed_padding_mode_is_torchs_error():
    with pytest.raises(ValueError, match="padding"):
        dnn.ConvTranspose2d(4, 4, 3, padding_mode="reflect")


def test_depthwise_separable():
    layer = dnn.DepthwiseSeparableConv2d(
        4, 6, (3, 5), 2, (1, 2), 1, padding_mode="reflect", dtype=torch.float64,
        activation="tanh", depthwise_activation="leaky_relu", negative_slope=0.1,
    )  # fmt: skip
    x = image(2, 4, 9, 8) - 0.5
    padded = F.pad(x, (2, 2, 1, 1), mode="reflect")
    depthwise, pointwise = layer.depthwise, layer.pointwise
    y = F.conv2d(padded, depthwise.weight, depthwise.bias, 2, groups=4)
    y = F.conv2d(F.leaky_relu(y, 0.1), pointwise.weight, pointwise.bias)
    close(layer(x), torch.tanh(y))
    names = {"depthwise.weight", "depthwise.bias", "pointwise.weight", "pointwise.bias"}
    assert set(layer.state_dict()) == names
    assert set(dnn.DepthwiseSeparableConv2d(4, 6, 3, bias=False).state_dict()) == {
        "depthwise.weight", "pointwise.weight"
    }  # fmt: skip


# --- filters --------------------------------------------------------------------------------------


def filter_layers(trainable: bool) -> dict[str, nn.Module]:
    bilateral = {"border_type": "replicate", "color_distance_type": "l2", "window": "circle"}
    return {
        "gaussian": dnn.GaussianBlur2d((3, 5), (0.8, 1.5), "circular", trainable=trainable),
        "bilateral": dnn.BilateralBlur(5, 0.2, 1.5, **bilateral, trainable=trainable),
        "joint": dnn.JointBilateralBlur(5, 0.2, (1.0, 1.5), trainable=trainable),
    }


def run_filter(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, dnn.JointBilateralBlur):
        return layer(x, x[..., :1, :, :].sqrt())
    return layer(x)


@pytest.mark.parametrize("trainable", [False, True])
def test_filters(trainable):
    layers = filter_layers(trainable)
    x = image(2, 3, 9, 8).float()
    expected = {
        "gaussian": reference.gaussian_blur2d(x, (3, 5), (0.8, 1.5), "circular"),
        "bilateral": reference.bilateral_blur(x, 5, 0.2, 1.5, "replicate", "l2", "circle"),
        "joint": reference.joint_bilateral_blur(x, x[:, :1].sqrt(), 5, 0.2, (1.0, 1.5)),
    }
    for name, layer in layers.items():
        torch.testing.assert_close(run_filter(layer, x), expected[name])
        torch.testing.assert_close(run_filter(layer, x[0]), expected[name][0])
        assert bool(layer.state_dict()) == trainable


@pytest.mark.parametrize("name", ["gaussian", "bilateral", "joint"])
def test_trained_sigmas_stay_positive(name):
    layer = filter_layers(True)[name]
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e4)  # steps far beyond any sigma
    x = image(1, 3, 9, 8).float()
    for _ in range(3):
        optimizer.zero_grad()
        run_filter(layer, x).square().sum().neg().backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1e-4)
        optimizer.step()
        for parameter in layer.parameters():
            assert parameter.grad is not None
    sigmas = [layer.sigma] if name == "gaussian" else [layer.sigma_color, layer.sigma_space]
    for sigma in sigmas:
        assert (sigma > 0).all()


def test_a_trained_sigma_is_found():
    """Gradient descent recovers the sigma that made the picture."""
    x = image(1, 1, 24, 24).float()
    target = reference.gaussian_blur2d(x, 9, 1.7)
    layer = dnn.GaussianBlur2d(9, 0.8, trainable=True)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(120):
        optimizer.zero_grad()
        F.mse_loss(layer(x), target).backward()
        optimizer.step()
    torch.testing.assert_close(layer.sigma, torch.full((1, 2), 1.7), rtol=0, atol=0.05)


def test_sigma_tensors():
    sigma = torch.tensor([[0.5, 1.0], [2.0, 3.0]])
    layer = dnn.GaussianBlur2d(5, sigma)
    x = image(2, 3, 9, 8).float()
    torch.testing.assert_close(layer(x), reference.gaussian_blur2d(x, 5, sigma))
    assert not layer.state_dict()
    assert dnn.GaussianBlur2d(5, sigma, trainable=True).log_sigma.shape == (2, 2)
    color = dnn.BilateralBlur(3, torch.tensor([0.1, 0.2]), 1.0, trainable=True)
    torch.testing.assert_close(color.sigma_color, torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: dnn.GaussianBlur2d(4, 1.0), "kernel_size"),
        (lambda: dnn.GaussianBlur2d(3, -1.0), "sigma"),
        (lambda: dnn.GaussianBlur2d(3, float("nan")), "sigma"),
        (lambda: dnn.GaussianBlur2d(3, torch.tensor([1.0, -1.0])), "sigma"),
        (lambda: dnn.GaussianBlur2d(3, 1.0, "wrap"), "border_type"),
        (lambda: dnn.BilateralBlur(3, 0.0, 1.0), "sigma_color"),
        (lambda: dnn.BilateralBlur(3, 0.1, (1.0, 0.0)), "sigma_space"),
        (lambda: dnn.BilateralBlur(3, 0.1, 1.0, color_distance_type="l0"), "color_distance_type"),
        (lambda: dnn.BilateralBlur((3, 5), 0.1, 1.0, window="circle"), "kernel_size"),
        (lambda: dnn.JointBilateralBlur(3, 0.1, 1.0, window="disk"), "window"),
    ],
)
def test_invalid_filter(make, message):
    with pytest.raises(ValueError, match=rf"^{message}\b"):
        make()


# --- as modules of PyTorch ------------------------------------------------------------------------


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
    return image(2, 3, 7, 6).float()


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
    other = image(5, 3, 7, 6).float()
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
