"""Muon, and training that starts from given weights."""

from __future__ import annotations

import copy

import pytest
import torch
from training_tools import read_log

from denoise_ext.cli.train import main
from denoise_ext.models import load_checkpoint, read_metadata
from denoise_ext.training import load_config, train
from denoise_ext.training.muon import Muon, orthogonalise


def polynomial(s: torch.Tensor) -> torch.Tensor:
    """Five steps of s -> a s + b s^3 + c s^5, the coefficients as published."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4), (1, 9)])
def test_orthogonalise_changes_the_singular_values_alone(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    expected = u @ torch.diag(polynomial(s / s.square().sum().sqrt())) @ v
    torch.testing.assert_close(orthogonalise(matrix), expected)


def test_singular_values_end_near_one():
    s = torch.logspace(-2, 0, 1000, dtype=torch.float64)
    assert polynomial(s).min() > 0.65
    assert polynomial(s).max() < 1.25


def test_zero_stays_zero():
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_what_is_nothing_beside_the_rest_is_zero():
    """Subnormal numbers would make products of matrices many times slower."""
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    matrix[1], matrix[3] = matrix[1] * 1e-39, 0.0
    result = orthogonalise(matrix)
    assert torch.equal(result[[1, 3]], torch.zeros(2, 6))
    torch.testing.assert_close(result[[0, 2]], orthogonalise(matrix[[0, 2]]))


def test_momentum_without_a_gradient_ends_at_zero():
    weight = torch.nn.Parameter(torch.ones(4, 6))
    optimiser = Muon([weight], lr=0.01, betas=(0.5, 0.95))
    weight.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    weight.grad = torch.zeros(4, 6)
    for _ in range(130):  # 2**-130 is subnormal
        optimiser.step()
    assert torch.equal(optimiser.state[weight]["momentum"], torch.zeros(4, 6))


def layer() -> torch.nn.Conv2d:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 4, 3)
    return convolution.to(memory_format=torch.channels_last)


def loss_of(convolution: torch.nn.Conv2d, step: int) -> torch.Tensor:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
    return convolution(x).square().mean()


def do_steps(convolution: torch.nn.Conv2d, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimiser.zero_grad()
        loss_of(convolution, step).backward()
        optimiser.step()


def test_first_step_is_the_orthogonal_gradient():
    convolution = layer()
    before = convolution.weight.detach().clone()
    loss_of(convolution, 0).backward()
    # the first step's momentum and its look-ahead are multiples of the gradient
    expected = before - 0.01 * orthogonalise(convolution.weight.grad.reshape(4, 27)).reshape(
        before.shape
    )
    Muon(convolution.parameters(), lr=0.01).step()
    torch.testing.assert_close(convolution.weight.detach(), expected)


def test_biases_move_by_adam_at_a_tenth_of_the_rate():
    ours, theirs = layer(), layer()
    # equal weights throughout: only the biases are given to the optimisers
    do_steps(ours, Muon([ours.bias], lr=0.1, betas=(0.9, 0.95)), range(5))
    do_steps(theirs, torch.optim.Adam([theirs.bias], lr=0.01, betas=(0.9, 0.95)), range(5))
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_weight_decay_is_part_of_the_gradient():
    decayed, plain = layer(), layer()
    for convolution, decay in ((decayed, 0.3), (plain, 0.0)):
        loss_of(convolution, 0).backward()
        if not decay:
            convolution.weight.grad.add_(convolution.weight.detach(), alpha=0.3)
        Muon([convolution.weight], lr=0.01, weight_decay=decay).step()
    torch.testing.assert_close(decayed.weight, plain.weight)


def test_its_state_can_be_saved():
    straight, resumed = layer(), layer()
    do_steps(straight, Muon(straight.parameters()), range(6))
    first = Muon(resumed.parameters())
    do_steps(resumed, first, range(3))
    second = Muon(resumed.parameters())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    do_steps(resumed, second, range(3, 6))
    assert torch.equal(straight.weight, resumed.weight)
    assert torch.equal(straight.bias, resumed.bias)


MUON = ["optimiser.name=muon", "optimiser.beta1=0.95", "optimiser.clip_norm=0.0"]


def test_muon_trains(workplace):
    train(load_config("config.toml", [*MUON, "schedule.peak=0.02", "run.steps=100"]))
    assert float(read_log("run")[-1]["loss"]) < 0.4 * (25 / 255) ** 2  # the loss of doing nothing


def test_training_starts_from_given_weights(workplace):
    first = train(load_config("config.toml", ["run.out=first"]))
    second = [
        *MUON,
        "model.start=first/model.safetensors",
        "schedule.peak=1e-9",
        "schedule.final=0.0",
        "run.steps=10",
    ]
    result = train(load_config("config.toml", second))
    # ten steps of no length: the weights, rounded to float16 once, are still the same
    before, after = load_checkpoint(first.model_path), load_checkpoint(result.model_path)
    for key, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[key], value, rtol=1e-3, atol=1e-6)
    facts = read_metadata(result.model_path)["training"]
    assert facts["start"] == read_metadata(first.model_path)["training"]


def test_weights_to_start_from_that_do_not_fit(workplace, capsys):
    train(load_config("config.toml", ["run.out=first", "run.steps=10"]))
    start = ["--set", "model.start=first/model.safetensors"]
    assert main(["config.toml", *start, "--set", "model.options.width=8"]) == 2
    assert "width is 24, wanted 8" in capsys.readouterr().err
    assert main(["config.toml", "--set", "model.start=absent.pth"]) == 2
    assert "'absent.pth' is neither a model with trained weights nor" in capsys.readouterr().err
