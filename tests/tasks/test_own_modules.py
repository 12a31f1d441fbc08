"""Plain modules in `denoise` and `Denoiser`: every option, every wrong module."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import denoise_ext
from denoise_ext import models
from denoise_ext._loader import native_error
from denoise_ext.analysis.geometry import describe
from denoise_ext.runtime.from_module import from_module
from denoise_ext.tasks import Denoiser

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")

RNG = np.random.default_rng(5)
RGBA = RNG.integers(0, 256, (53, 70, 4), dtype=np.uint8)
RGB, GRAY = np.ascontiguousarray(RGBA[..., :3]), np.ascontiguousarray(RGBA[..., 0])
# Two float32 programs that add in other orders: 3 layers of at most 72 terms, results near 1.
CLOSE = 3 * 72 * 2**-24


class Plain(nn.Module):
    """Three convolutions; with sigma as one more channel where it takes it."""

    def __init__(self, channels: int = 1, sigma: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.takes_sigma = sigma
        self.first = nn.Conv2d(channels + sigma, 8, 3, padding=1)
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x, *sigma):
        inside = x
        if self.takes_sigma:
            n, _, h, w = x.shape
            inside = torch.cat([x, sigma[0].expand(n, 1, h, w) / 255], 1)
        return x - 0.1 * self.last(self.body(self.first(inside)))


class UNet(nn.Module):
    """Two levels and a skip connection: H and W must be multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        a = self.a(x)
        b = F.interpolate(self.b(F.max_pool2d(F.relu(a), 4)), scale_factor=4)
        return x + 0.1 * (a + b).mean(1, keepdim=True)


class Global(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x - self.scale * 0.1 * x.mean((2, 3), keepdim=True)


class Unknown(nn.Module):
    """An operator whose geometry is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * torch.erf(F.avg_pool2d(x, 3, 1, 1))


class SizeDependent(Plain):
    def forward(self, x):
        return super().forward(super().forward(x) if x.shape[-1] > 500 else x)


class Returns(nn.Module):
    def __init__(self, what) -> None:
        super().__init__()
        self.what, self.weight = what, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.what(x * self.weight)


def unit(image: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(image).float() / 255
    return x[None, None] if image.ndim == 2 else x.permute(2, 0, 1)[None]


# --- the result ---


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [None, 20.0])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_it_computes_what_the_module_computes(channels, sigma, backend):
    model = Plain(channels, sigma is not None).eval()
    x = unit(GRAY if channels == 1 else RGB)
    result = denoise_ext.denoise(
        x, model, sigma, channels=channels, needs_sigma=sigma is not None, backend=backend
    )
    with torch.no_grad():
        expected = model(x, torch.tensor(20.0)) if sigma else model(x)
    torch.testing.assert_close(result, expected, rtol=0, atol=CLOSE)


def test_sigma_arrives_as_it_was_given():
    seen = []

    class Looks(Plain):
        def forward(self, x, sigma):
            seen.append(sigma)
            return x

    denoiser = Denoiser(Looks().eval(), channels=1, needs_sigma=True, backend="torch", tile=None)
    batch = unit(GRAY).expand(2, -1, -1, -1)
    level_map = np.full(GRAY.shape, 12.0)
    for sigma in (25.0, np.array([25.0, 3.0]), level_map):
        seen.clear()
        denoiser(batch, sigma)
        [got] = seen
        assert got.dtype == torch.float32 and got.dim() == 4 and got.shape[:2] == (2, 1)
        each = np.reshape(sigma, (2, 1, 1, 1)) if np.shape(sigma) == (2,) else sigma
        assert got.shape[2:] == (GRAY.shape if np.ndim(sigma) == 2 else (1, 1))
        expected = np.broadcast_to(each, got.shape)
        np.testing.assert_array_equal(got.numpy(), expected)
    result = denoiser.run(GRAY)
    assert result.sigma_estimated and result.sigma > 0


def test_batches_depths_alpha_and_channels():
    gray = Denoiser(Plain().eval(), channels=1)
    colour = Denoiser(Plain(3).eval(), channels=3, alpha="keep")
    assert gray(GRAY.astype(np.uint16) * 257).dtype == np.uint16
    batch = torch.stack([unit(GRAY)[0], unit(GRAY)[0].flip(1)])
    both = gray(batch)
    torch.testing.assert_close(both[1:], gray(batch[1:]), rtol=0, atol=CLOSE)
    np.testing.assert_array_equal(colour(RGBA)[..., 3], RGBA[..., 3])
    np.testing.assert_array_equal(gray(RGB)[..., 1], gray(np.ascontiguousarray(RGB[..., 1])))
    with pytest.raises(ValueError, match="blind"):
        colour(GRAY)
    told = Denoiser(Plain(3, sigma=True).eval(), channels=3, needs_sigma=True, sigma=9)
    assert told(GRAY).shape == GRAY.shape


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_half_precision(precision, backend):
    model = Plain(1, True).eval()
    options = {"channels": 1, "needs_sigma": True, "sigma": 20, "backend": backend}
    half = Denoiser(model, precision=precision, **options)(unit(GRAY))
    full = Denoiser(model, **options)(unit(GRAY))
    assert not torch.equal(half, full)
    # Four roundings of values of at most 1: the input, two layers' results (times 0.1), the sum.
    eps = {"bfloat16": 2**-8, "float16": 2**-11}[precision]
    assert float((half - full).abs().max()) < 4 * eps
    assert next(model.parameters()).dtype == torch.float32


def test_the_callers_image_is_left_alone():
    image = torch.rand(1, 1, 20, 20)
    before = image.clone()
    clean = Denoiser(Returns(lambda x: x.sub_(0.5)).eval(), channels=1)
    in_place = Returns(lambda x: x).eval()
    in_place.forward = lambda x: x.sub_(0.5)
    for denoiser in (clean, Denoiser(in_place, channels=1, strength=0.5)):
        denoiser(image)
        assert torch.equal(image, before)
    torch.testing.assert_close(denoiser(image), before - 0.25)


def test_an_accelerated_module_keeps_its_precision():
    fast = denoise_ext.accelerate(Plain().eval(), precision="strict")
    result = Denoiser(fast, channels=1)(unit(GRAY))
    torch.testing.assert_close(result, Plain().eval()(unit(GRAY)).detach(), rtol=0, atol=CLOSE)
    with pytest.raises(ValueError, match="precision"):
        Denoiser(fast, channels=1, precision="fast")(GRAY)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["TorchScript", "no parameters"])
def test_modules_of_other_kinds(kind):
    image = unit(GRAY[:52, :68])
    script = torch.jit.trace(UNet().eval(), image)
    model = script if kind == "TorchScript" else nn.Identity().eval()
    result = Denoiser(model, channels=1)(image)
    with torch.no_grad():
        torch.testing.assert_close(result, model(image), rtol=0, atol=CLOSE)


# --- geometry ---


def test_tiles_have_no_seams():
    denoiser = Denoiser(Plain().eval(), channels=1, backend="torch", tile=24)
    whole = Denoiser(Plain().eval(), channels=1, backend="torch", tile=None)
    result = denoiser.run(unit(GRAY))
    assert result.tiles > 1
    torch.testing.assert_close(result.image, whole(unit(GRAY)), rtol=0, atol=CLOSE)


def test_a_u_net_is_padded_to_its_own_stride():
    model = UNet().eval()
    with pytest.raises(RuntimeError), torch.no_grad():
        model(unit(GRAY))
    network = from_module(model, 1)
    assert network.stride == 4 and describe(network).stride == 4
    x = unit(GRAY)
    padded = F.pad(x, (0, -70 % 4, 0, -53 % 4), mode="reflect")
    with torch.no_grad():
        expected = model(padded)[..., :53, :70]
    for tile in (None, 48):
        result = Denoiser(model, channels=1, tile=tile)(x)
        torch.testing.assert_close(result, expected, rtol=0, atol=CLOSE)


def test_a_module_that_takes_any_size_is_not_padded():
    class Any(UNet):
        def forward(self, x):
            a = self.a(x)
            b = F.interpolate(self.b(F.max_pool2d(a, 4)), size=x.shape[-2:])
            return x + 0.1 * (a + b).mean(1, keepdim=True)

    model = Any().eval()
    with torch.no_grad():
        expected = model(unit(GRAY))
    result = Denoiser(model, channels=1)(unit(GRAY))
    torch.testing.assert_close(result, expected, rtol=0, atol=CLOSE)


def test_what_needs_the_whole_image_has_no_tiles():
    for model in (Global(), Unknown(), SizeDependent()):
        model = model.eval()
        with torch.no_grad():
            expected = model(unit(GRAY))
        result = Denoiser(model, channels=1)(unit(GRAY))
        torch.testing.assert_close(result, expected, rtol=0, atol=CLOSE)
        with pytest.raises(ValueError, match="tile"):
            Denoiser(model, channels=1, tile=32)(GRAY)
    with pytest.raises(ValueError, match="radius"):
        Denoiser(Unknown().eval(), channels=1, tile=32)(GRAY)


def test_a_stated_radius_makes_tiles():
    network = from_module(Unknown().eval(), 1, radius=1)
    denoiser = Denoiser(network, tile=32)
    result = denoiser.run(unit(GRAY))
    assert result.tiles > 1
    expected = Unknown()(unit(GRAY)).detach()
    torch.testing.assert_close(result.image, expected, rtol=0, atol=CLOSE)


def test_tiles_are_padded_as_the_whole_is():
    network = from_module(UNet().eval(), 1, stride=8)
    assert describe(network).stride == 8
    options = {"backend": "torch", "precision": "strict"}
    whole, tiles = (Denoiser(network, tile=t, **options)(unit(GRAY)) for t in (None, 44))
    torch.testing.assert_close(tiles, whole, rtol=0, atol=CLOSE)


def test_what_is_stated_must_agree_with_what_is_found():
    with pytest.raises(ValueError, match=r"radius must be >= 3.*got 2"):
        from_module(Plain().eval(), 1, radius=2)
    with pytest.raises(ValueError, match="radius is 9"):
        from_module(Global().eval(), 1, radius=9)
    with pytest.raises(ValueError, match=r"stride must be a multiple of 4.*: 2"):
        from_module(UNet().eval(), 1, stride=2)
    assert from_module(UNet().eval(), 1, stride=8).stride == 8


# --- wrong modules ---


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x: (x, x), "one tensor.*a tuple of 2"),
        (lambda x: {"image": x}, "one tensor.*a dict"),
        (lambda x: x[..., 1:-1, 1:-1], r"shape \(1, 1, \d+, \d+\).*\(1, 1, \d+, \d+\)"),
        (lambda x: x.repeat(1, 3, 1, 1), r"\(1, 3, \d+, \d+\)"),
        (lambda x: x > 0, "floating point.*bool"),
        (lambda x: 1 / 0, r"model\(x\) of Returns.*ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"backend": "torch"}, {"tile": None}])
def test_wrong_results(what, message, options):
    denoiser = Denoiser(Returns(what).eval(), channels=1, **options)
    with pytest.raises(ValueError, match=message):
        denoiser(GRAY)


def test_wrong_calls():
    with pytest.raises(ValueError, match=r"model\(x\) of Looks.*needs_sigma=False.*TypeError"):

        class Looks(Plain):
            def forward(self, x, sigma):
                return x

        Denoiser(Looks().eval(), channels=1, tile=None)(GRAY)
    with pytest.raises(ValueError, match=r"\(1, 3, 53, 70\).*channels=3.*RuntimeError"):
        Denoiser(Plain(1).eval(), channels=3, tile=None)(RGB)


def test_wrong_arguments():
    plain = Plain().eval()
    with pytest.raises(ValueError, match=r"channels.*required"):
        Denoiser(plain)
    with pytest.raises(ValueError, match="training mode"):
        Denoiser(Plain(), channels=1)
    plain.body[0].train()
    with pytest.raises(ValueError, match=r"'body\.0' is in training mode"):
        Denoiser(plain, channels=1)
    for channels, error in ((0, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="channels"):
            Denoiser(Plain().eval(), channels=channels)
    with pytest.raises(TypeError, match="needs_sigma"):
        Denoiser(Plain().eval(), channels=1, needs_sigma="yes")
    for given in ({"channels": 1}, {"needs_sigma": False}):
        for model in (None, "dxnet_s", models.create_model("dncnn_gray", depth=2, width=4).eval()):
            with pytest.raises(ValueError, match=next(iter(given))):
                Denoiser(model, **given)
    with pytest.raises(TypeError, match="module must be"):
        from_module(models.create_model("dncnn_gray", depth=2, width=4).eval(), 1)


def test_weights_that_are_not_finite_are_an_error():
    model = Plain().eval()
    nn.init.constant_(model.last.bias, math.nan)
    with pytest.raises(RuntimeError, match="not finite"):
        Denoiser(model, channels=1)(GRAY)


# --- copies ---


@pytest.mark.parametrize("again", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_keep_every_option(again):
    denoiser = Denoiser(
        Plain(1, True).eval(), channels=1, needs_sigma=True, sigma=11, strength=0.5,
        precision="strict", tile=32, alpha="denoise",
    )  # fmt: skip
    expected = denoiser(RGBA)  # it has a plan now
    other = again(denoiser)
    assert other._sessions._made == {} and other._model is not denoiser._model
    same = ("_sigma", "_strength", "_options", "_alpha")
    assert all(getattr(other, name) == getattr(denoiser, name) for name in same)
    np.testing.assert_allclose(other(RGBA).astype(int), expected.astype(int), atol=1)
