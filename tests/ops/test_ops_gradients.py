"""Gradients: against the reference's autograd, and against finite differences."""

from __future__ import annotations

import os
import random

import pytest
import torch
from cases import CASES, DIFFERENTIABLE, FLOATS, LAYOUTS, Call, make_tensors, to_float64
from op_checks import check_gradients, leaves, with_gradient
from torch import Tensor

from denoise_ext import reference
from denoise_ext.ops._by_pytorch import BY_INPUT

FUZZ_SEED = int(os.environ.get("DENOISE_EXT_FUZZ_SEED", "20240607"))
FUZZ_CALLS = 25

OWN_GRADIENTS = [case for case in DIFFERENTIABLE.values() if case.backward]
SMALL_CALLS = [
    pytest.param(case, name, id=f"{case.name}-{name}")
    for case in DIFFERENTIABLE.values()
    for name in case.small_calls
]
CALLS = [
    pytest.param(case, name, id=f"{case.name}-{name}")
    for case in DIFFERENTIABLE.values()
    for name in case.calls
]


@pytest.mark.rotates(each=["case", "dtype", "device"], turns=8)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case, name", CALLS)
def test_matches_reference(case, name, dtype, device):
    call = case.calls[name]
    check_gradients(case, call, make_tensors(call, dtype, device))


@pytest.mark.rotates(each=["case", "device", "isa"])
@pytest.mark.parametrize("case, name", SMALL_CALLS)
def test_instruction_sets(case, name, device, isa):
    call = case.small_calls[name]
    check_gradients(case, call, make_tensors(call, torch.float32, device), isa)


@pytest.mark.rotates(each=["case", "device", "isa"], turns=8)
@pytest.mark.parametrize("case", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
@pytest.mark.parametrize("index", range(FUZZ_CALLS))
def test_fuzz(case, index, device, isa):
    seed = FUZZ_SEED + index
    rng = random.Random(f"gradient {case.name} {seed}")
    call, dtype, layout = case.fuzz(rng), rng.choice(FLOATS), rng.choice(LAYOUTS)
    note = f"{dtype} {layout} {isa} DENOISE_EXT_FUZZ_SEED={FUZZ_SEED} index={index}"
    check_gradients(case, call, make_tensors(call, dtype, device, layout, seed), note)


@pytest.mark.rotates(each=["case", "device"])
@pytest.mark.parametrize("case, name", SMALL_CALLS)
def test_gradcheck(case, name, device):
    call = case.small_calls[name]
    tensors = leaves(make_tensors(call, torch.float64, device))
    wanted = with_gradient(tensors)

    def function(*values: Tensor) -> Tensor:
        return case.op(**{**tensors, **dict(zip(wanted, values))}, **call.options)

    assert torch.autograd.gradcheck(function, tuple(wanted.values()), fast_mode=True)


@pytest.mark.parametrize("case", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_only_the_wanted_gradients(case, device):
    """Each argument alone: the others' gradients are neither computed nor returned."""
    for call in case.small_calls.values():
        plain = make_tensors(call, torch.float64, device)
        everything = leaves(plain)
        output = case.op(**everything, **call.options)
        grad = torch.ones_like(output)
        wanted = with_gradient(everything)
        expected = torch.autograd.grad(output, list(wanted.values()), grad)
        for name, theirs in zip(wanted, expected):
            alone = {**plain, name: plain[name].detach().requires_grad_()}
            (ours,) = torch.autograd.grad(case.op(**alone, **call.options), alone[name], grad)
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_expanded_gradient(case, device):
    """``output.sum().backward()`` hands down a gradient of stride 0."""
    for call in case.small_calls.values():
        tensors = leaves(make_tensors(call, torch.float64, device))
        case.op(**tensors, **call.options).sum().backward()
        exact = leaves(to_float64(tensors))
        case.reference(**exact, **call.options).sum().backward()
        for name, x in with_gradient(tensors).items():
            torch.testing.assert_close(x.grad.cpu(), exact[name].grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", OWN_GRADIENTS, ids=lambda case: case.name)
def test_threads_do_not_change_the_gradients(case):
    """Bit for bit: a training run gives the same weights on any number of cores."""
    call = case.calls["several_tiles"]
    if "blur" in case.name:  # sigmas as tensors, so that they have gradients
        sigmas = {n: (2,) for n in call.options if n.startswith("sigma")}
        options = {n: v for n, v in call.options.items() if n not in sigmas}
        shapes = {n: (2, *s[1:]) for n, s in call.shapes.items()}
        call = Call({**shapes, **sigmas}, options)
    tensors = leaves(make_tensors(call, torch.float32))
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            output = case.op(**tensors, **call.options).square().sum()
            results.append(torch.autograd.grad(output, list(with_gradient(tensors).values())))
    finally:
        torch.set_num_threads(threads)
    for name, one, two, five in zip(with_gradient(tensors), *results):
        assert torch.equal(one, two), name
        assert torch.equal(one, five), name


@pytest.mark.parametrize("case", OWN_GRADIENTS, ids=lambda case: case.name)
def test_second_derivative_is_refused(case, device):
    call = next(iter(case.small_calls.values()))
    tensors = leaves(make_tensors(call, torch.float64, device))
    output = case.op(**tensors, **call.options)
    (grad,) = torch.autograd.grad(output.square().sum(), tensors["input"], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"denoise_ext\.reference"):
        grad.sum().backward()


@pytest.mark.parametrize("name", [n for n in DIFFERENTIABLE if "blur" in n])
def test_uint8_has_no_gradient(name, device):
    """Whole numbers have no derivative, also where a sigma asks for one."""
    case = CASES[name]
    call = next(call for call in case.calls.values() if any("sigma" in n for n in call.shapes))
    tensors = make_tensors(call, torch.uint8, device)
    tensors = {n: x.requires_grad_() if "sigma" in n else x for n, x in tensors.items()}
    assert not case.op(**tensors, **call.options).requires_grad


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("activation", sorted(BY_INPUT))
def test_raw_operators_compute_the_convolution_again(activation, position):
    """What the public functions leave to PyTorch, as ``torch.export`` may call it."""
    x, weight = torch.randn(2, 3, 6, 5).double(), torch.randn(4, 3, 3, 3).double()
    bias, residual = torch.randn(4).double(), torch.randn(2, 4, 6, 5).double()
    tensors = [t.requires_grad_() for t in (x, weight, bias, residual)]
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    got = torch.ops.denoise_ext.conv2d(
        x, weight, bias, *geometry, activation, 0.0, None, residual, position
    )
    expected = reference.conv2d(
        x, weight, bias, padding=1, activation=activation, residual=residual,
        residual_position=position,
    )  # fmt: skip
    grad = torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad(got, tensors, grad), torch.autograd.grad(expected, tensors, grad)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    got = torch.ops.denoise_ext.conv_transpose2d(
        residual, weight, None, [1, 1], [1, 1], [0, 0], 1, [1, 1], activation, 0.0, None
    )
    expected = reference.conv_transpose2d(residual, weight, padding=1, activation=activation)
    for ours, theirs in zip(
        torch.autograd.grad(got.sum(), [residual, weight]),
        torch.autograd.grad(expected.sum(), [residual, weight]),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_gradient_by_the_output_alone_is_refused():
    x, weight = torch.randn(1, 3, 6, 5), torch.randn(4, 3, 1, 1)
    grad = torch.randn(1, 4, 6, 5)
    with pytest.raises(RuntimeError, match=r"activation.*gelu"):
        torch.ops.denoise_ext.conv2d_backward(
            grad, x, weight, grad, None, [1, 1], [0, 0], [1, 1], 1, "gelu", 0.0, [True] * 5
        )
