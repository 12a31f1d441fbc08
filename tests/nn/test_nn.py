"""Layers: drop-in for torch.nn, in both directions."""

from __future__ import annotations

import pytest
import torch
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
    "gelu": lambda x, layer: F.gelu(x),
    "gelu_tanh": lambda x, layer: F.gelu(x, approximate="tanh"),
    "silu": lambda x, layer: F.silu(x),
    "hardswish": lambda x, layer: F.hardswish(x),
    "hardsigmoid": lambda x, layer: F.hardsigmoid(x),
    "relu6": lambda x, layer: F.relu6(x),
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
        ({"activation": "mish"}, "activation"),
        ({"activation": "leaky_relu", "negative_slope": -1.0}, "negative_slope"),
        ({"activation": "prelu", "prelu_parameters": 3}, "prelu_parameters"),
        ({"precision": "exact"}, "precision"),
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
