"""Compare one call of an operator, or its gradients, with the float64 reference."""

from __future__ import annotations

import bounds
import torch
from cases import Call, OpCase, to_float64
from torch import Tensor


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def expected_result(case: OpCase, call: Call, tensors: dict[str, Tensor]) -> Tensor:
    """The reference in float64: on uint8 values it does not round."""
    return case.reference(**to_float64(tensors), **call.options)


def check_forward(case: OpCase, call: Call, tensors: dict[str, Tensor], note: str = "") -> Tensor:
    dtype = tensors["input"].dtype
    with torch.inference_mode():
        result = case.op(**tensors, **call.options)
    expected = expected_result(case, call, tensors)
    assert result.shape == expected.shape, note
    assert result.dtype == (case.output_dtype or dtype), note
    if case.output_dtype is not None or (dtype == torch.uint8 and case.exact_uint8):
        plain = {name: x.cpu() for name, x in tensors.items()}
        assert torch.equal(result.cpu(), case.reference(**plain, **call.options)), f"{call} {note}"
        return result
    allowed = case.bound(call, to_float64(tensors), dtype)
    allowed = allowed + bounds.output_rounding(expected, dtype)
    error = (result.cpu().double() - expected).abs()
    worst = (error / allowed).max() if error.numel() else 0.0
    assert (error <= allowed).all(), f"{worst:.3g} times the bound, for {call} {note}"
    return result


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values; those that may have a gradient require one."""
    return {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in tensors.items()}


def with_gradient(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that require a gradient."""
    return {name: x for name, x in tensors.items() if x.requires_grad}


def output_gradient(case: OpCase, call: Call, tensors: dict[str, Tensor], output: Tensor) -> Tensor:
    """A random gradient, 0 where the activation's kink is too near for its side to be sure."""
    generator = torch.Generator().manual_seed(1)
    grad = torch.rand(output.shape, generator=generator, dtype=torch.float64) * 2 - 1
    if case.smooth is not None:
        grad = grad * case.smooth(call, to_float64(tensors), output.dtype)
    return grad.to(output.dtype)


def check_gradients(case: OpCase, call: Call, tensors: dict[str, Tensor], note: str = "") -> None:
    tensors = leaves(tensors)
    dtype = tensors["input"].dtype
    output = case.op(**tensors, **call.options)
    grad = output_gradient(case, call, tensors, output)
    wanted = with_gradient(tensors)
    got = torch.autograd.grad(output, list(wanted.values()), grad.to(output.device))

    exact = leaves(to_float64(tensors))
    expected = torch.autograd.grad(
        case.reference(**exact, **call.options), list(with_gradient(exact).values()), grad.double()
    )
    allowed = case.gradient_bound(call, to_float64(tensors), grad.double(), dtype)
    for name, ours, theirs in zip(wanted, got, expected, strict=True):
        assert ours.shape == theirs.shape, name
        assert ours.dtype == tensors[name].dtype, name
        limit = allowed[name] + bounds.output_rounding(theirs, tensors[name].dtype)
        error = (ours.cpu().double() - theirs).abs()
        worst = float((error / limit).max()) if error.numel() else 0.0
        assert (error <= limit).all(), f"{name}: {worst:.3g} times the bound, {call} {note}"
