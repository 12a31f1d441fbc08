"""Networks where deepinv wants a denoiser, deepinv's physics where `restore` wants an operator."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from denoise_ext import Denoiser
from denoise_ext._loader import native_error
from denoise_ext.integrations.deepinv import DeepinvDenoiser, PhysicsOperator
from denoise_ext.models import create_model
from denoise_ext.restore import Restorer

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")


class Means:
    """A physics as deepinv has it, without deepinv: means of 2 x 2 pixels."""

    def A(self, x):
        return torch.nn.functional.avg_pool2d(x, 2)

    def A_adjoint(self, y):
        return y.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4


class MeansWithProx(Means):
    """A A^T is a quarter of the identity, so the proximal step has a closed form."""

    def prox_l2(self, z, y, gamma):
        return z + gamma / (1 + gamma / 4) * self.A_adjoint(y - self.A(z))


def image(channels: int, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(40) / 40, torch.arange(48) / 40, indexing="ij")
    clean = 0.5 + 0.3 * torch.sin(6 * rows) * torch.cos(5 * columns)
    noise = 0.1 * torch.randn(count, channels, 40, 48, generator=generator)
    return clean + noise


@pytest.mark.parametrize("channels", [1, 3])
def test_a_denoiser_takes_deepinvs_levels(channels):
    x = image(channels, 2)
    denoiser = DeepinvDenoiser(precision="strict")
    assert isinstance(denoiser, torch.nn.Module) and not list(denoiser.parameters())
    expected = Denoiser("dxnet_s", sigma=25.5, precision="strict")(x)
    for sigma in (0.1, torch.tensor(0.1), torch.tensor([0.1, 0.1])):
        assert float((denoiser(x, sigma) - expected).abs().max()) < 2e-6
    other = denoiser(x, torch.tensor([0.1, 0.2]), physics=None)
    assert float((other[0] - expected[0]).abs().max()) < 2e-6
    assert float((other[1] - expected[1]).abs().max()) > 1e-3
    assert denoiser(x.double(), 0.1).dtype == torch.float64


@pytest.mark.parametrize("physics", [Means(), MeansWithProx()])
def test_a_physics_is_an_operator(physics):
    operator = PhysicsOperator(physics)
    x, v = image(3), torch.rand(1, 3, 40, 48, dtype=torch.float64)
    y = operator.forward(x.double())
    rho = 0.07
    found = operator.prox(v, y, rho)
    slope = operator.adjoint(operator.forward(found) - y) + rho * (found - v)
    assert float(slope.norm() / v.norm()) < 1e-5
    restored = Restorer(operator, sigma=10.0, steps=2).restore(y.float(), 10.0)
    assert restored.shape == x.shape and bool(torch.isfinite(restored).all())


@pytest.mark.parametrize(
    ("x", "sigma", "words"),
    [
        (torch.rand(3, 8, 8), 0.1, ["x", "(3, 8, 8)"]),
        (torch.rand(1, 2, 8, 8), 0.1, ["x", "(1, 2, 8, 8)"]),
        (torch.rand(3, 1, 8, 8), torch.tensor([0.1, 0.2]), ["sigma", "3", "2"]),
        (torch.rand(1, 1, 8, 8), -0.1, ["sigma", "-0.1"]),
        (torch.rand(1, 1, 8, 8), float("nan"), ["sigma", "nan"]),
    ],
)
def test_bad_calls(x, sigma, words):
    with pytest.raises(ValueError) as raised:
        DeepinvDenoiser()(x, sigma)
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_physics_must_be_linear():
    with pytest.raises(TypeError, match="A_adjoint"):
        PhysicsOperator(type("Nonlinear", (), {"A": lambda self, x: x})())


def test_with_deepinv_itself():
    dinv = pytest.importorskip("deepinv", reason="needs deepinv")
    kernel = torch.ones(1, 1, 3, 3) / 9
    physics = dinv.physics.BlurFFT(img_size=(3, 40, 48), filter=kernel)
    x = image(3)
    y = physics.A(x)
    operator = PhysicsOperator(physics)
    assert float((operator.forward(x) - y).abs().max()) == 0
    v, rho = torch.rand(1, 3, 40, 48), 0.05
    found = operator.prox(v, y, rho)
    slope = operator.adjoint(operator.forward(found) - y) + rho * (found - v)
    assert float(slope.norm() / v.norm()) < 1e-4
    prior = dinv.optim.PnP(denoiser=DeepinvDenoiser("dxnet_s"))
    assert prior.prox(x, 0.1).shape == x.shape
    restored = Restorer(operator, sigma=5.0, steps=3).restore(y, 5.0)
    assert np.isfinite(float(restored.mean()))


def test_a_copy_of_a_module_makes_its_own_plans():
    x, denoiser = image(1), DeepinvDenoiser()
    expected = denoiser(x, 0.1)
    assert torch.allclose(copy.deepcopy(denoiser)(x, 0.1), expected, atol=1e-5)


def test_networks_with_a_guide_are_refused():
    network = create_model("dxnet_s_guided", widths=[8], blocks=[1]).eval()
    with pytest.raises(ValueError, match=r"image denoiser.*guide"):
        DeepinvDenoiser(network)(image(1), 0.1)
