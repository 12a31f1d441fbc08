"""The operators as citizens of PyTorch: opcheck, compile, export, autocast, inference mode."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
from cases import CASES, Call, OpCase, make_tensors
from op_checks import leaves, with_gradient
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from denoise_ext import ops

ALL_CASES = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class Recorder(TorchDispatchMode):
    """Keeps the native operator calls that are made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, tuple]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "denoise_ext":
            assert not kwargs
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


def native_calls(
    case: OpCase, call: Call, tensors: dict[str, Tensor]
) -> list[tuple[object, tuple]]:
    """The native calls of one forward and backward, every float argument wanting a gradient."""
    tensors = leaves(tensors)
    with Recorder() as recorder:
        output = case.op(**tensors, **call.options)
        if case.differentiable:
            output.backward(torch.ones_like(output))
    assert len(recorder.calls) >= 1 + len(case.backward)
    return recorder.calls


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize(
    "case, name",
    [
        pytest.param(case, name, id=f"{case.name}-{name}")
        for case in CASES.values()
        for name in case.small_calls
    ],
)
def test_schema_and_fake_kernel(case, name, layout):
    """Forward and backward operators: no undeclared mutation or alias, shapes and strides."""
    call = case.small_calls[name]
    tensors = make_tensors(call, torch.float32, layout=layout)
    for function, args in native_calls(case, call, tensors):
        args = tree_map_only(Tensor, lambda x: x.detach(), args)
        torch.library.opcheck(function, args, test_utils=("test_schema", "test_faketensor"))


@ALL_CASES
def test_fake_kernel_with_mixed_layouts(case):
    """Each argument alone in channels_last: the fake knows which of them decide the layout."""
    call = next(iter(case.small_calls.values()))
    plain = make_tensors(call, torch.float32)
    last = make_tensors(call, torch.float32, layout="channels_last")
    for name in plain:
        for function, args in native_calls(case, call, {**plain, name: last[name]}):
            args = tree_map_only(Tensor, lambda x: x.detach(), args)
            torch.library.opcheck(function, args, test_utils=("test_faketensor",))


@pytest.mark.rotates()
@ALL_CASES
def test_opcheck(case):
    """Everything opcheck knows, autograd and compiled dynamic shapes included."""
    call = next(iter(case.small_calls.values()))
    tensors = make_tensors(call, torch.float32, layout="channels_last")
    for function, args in native_calls(case, call, tensors):
        differentiable = function._opname == case.name and case.differentiable

        def prepare(x: Tensor, differentiable: bool = differentiable) -> Tensor:
            return x.detach().requires_grad_(differentiable and x.is_floating_point())

        torch.library.opcheck(function, tree_map_only(Tensor, prepare, args))


@ALL_CASES
def test_meta_tensors(case):
    for call in case.calls.values():
        tensors = make_tensors(call, torch.float32)
        result = case.op(**{n: x.to("meta") for n, x in tensors.items()}, **call.options)
        assert result.is_meta
        assert result.shape == case.op(**tensors, **call.options).shape


def gradients(function, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
    own = leaves({name: x.clone() for name, x in tensors.items()})
    output = function(**own)
    if not output.requires_grad:
        return (output,)
    wanted = list(with_gradient(own).values())
    return output.detach(), *torch.autograd.grad(output.square().sum(), wanted)


@pytest.mark.rotates()
@ALL_CASES
def test_compile_fullgraph(case):
    """One graph, no break, with the gradients of eager mode."""
    torch._dynamo.reset()
    for name in list(case.small_calls)[:2]:
        call = case.small_calls[name]

        def function(call: Call = call, **tensors: Tensor) -> Tensor:
            return case.op(**tensors, **call.options)

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        for seed in (0, 1):
            tensors = make_tensors(call, torch.float32, seed=seed)
            for ours, eager in zip(gradients(compiled, tensors), gradients(function, tensors)):
                torch.testing.assert_close(ours, eager)


@pytest.mark.rotates()
@ALL_CASES
def test_compile_dynamic_sizes(case):
    """One compilation serves every size."""
    torch._dynamo.reset()
    call = next(iter(case.calls.values()))
    call = Call({k: v for k, v in call.shapes.items() if k != "residual"}, call.options)

    def function(**tensors: Tensor) -> Tensor:
        return case.op(**tensors, **call.options)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for height, width in ((20, 30), (21, 17), (40, 50)):
        tensors = make_tensors(case.resized(call, height, width), torch.float32)
        with torch._dynamo.config.patch(error_on_recompile=True):
            torch.testing.assert_close(compiled(**tensors), function(**tensors))


@pytest.mark.rotates(turn=1)  # compiles C++
def test_compile_with_inductor():
    """The default backend, once: its code calls the operators between its own kernels."""
    torch._dynamo.reset()
    x, weight = torch.randn(1, 3, 16, 16), torch.randn(4, 3, 3, 3)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        y = ops.conv2d(x * 2, weight, padding=1, activation="relu") + 1
        return ops.gaussian_blur2d(y, 3, 1.0).square()

    compiled = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(compiled(x, weight), function(x, weight))


def test_compile_with_a_sigma_that_changes():
    """A Python float argument: new values must give new results (torch compiles once for each)."""
    torch._dynamo.reset()

    def function(x: Tensor, sigma: float) -> Tensor:
        return ops.bilateral_blur(ops.gaussian_blur2d(x, 5, sigma), 3, sigma, sigma)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x = torch.rand(1, 3, 9, 10)
    for sigma in (0.5, 1.0, 2.5):
        torch.testing.assert_close(compiled(x, sigma), function(x, sigma))


class Operator(torch.nn.Module):
    def __init__(self, case: OpCase, call: Call, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.case, self.options = case, call.options
        for name, x in tensors.items():
            if name != "input":
                self.register_buffer(name, x)

    def forward(self, input: Tensor) -> Tensor:
        return self.case.op(input, **dict(self.named_buffers()), **self.options)


@ALL_CASES
@pytest.mark.parametrize("strict", [False, True])
def test_export(case, strict):
    call = next(iter(case.calls.values()))
    tensors = make_tensors(call, torch.float32)
    module = Operator(case, call, tensors)
    program = torch.export.export(module, (tensors["input"],), strict=strict)
    names = [str(node.target) for node in program.graph.nodes]
    assert any(name.startswith(f"denoise_ext.{case.name}") for name in names), names
    torch.testing.assert_close(program.module()(tensors["input"]), module(tensors["input"]))


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "gaussian_blur2d"])
def test_export_dynamic_sizes(name):
    case = CASES[name]
    call = next(iter(case.calls.values()))
    tensors = make_tensors(call, torch.float32)
    module = Operator(case, call, tensors)
    dim = torch.export.Dim
    sizes = {2: dim("height", min=3, max=4096), 3: dim("width", min=3, max=4096)}
    program = torch.export.export(module, (tensors["input"],), dynamic_shapes=(sizes,))
    other = torch.rand(*call.shapes["input"][:2], 23, 31)
    torch.testing.assert_close(program.module()(other), module(other))


def test_export_with_arguments_computed_from_sizes():
    """They become constants of the exported program, as in torch's own convolution."""

    class Model(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            pad = weight.shape[2] // 2
            y = ops.conv2d(x, weight, padding=pad, stride=[x.shape[3] // 8, 1])
            return ops.gaussian_blur2d(y, 2 * pad + 1, x.shape[2] / 8)

    arguments = torch.rand(1, 3, 9, 8), torch.rand(4, 3, 3, 3)
    program = torch.export.export(Model(), arguments)
    torch.testing.assert_close(program.module()(*arguments), Model()(*arguments))


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_torch(name, dtype, device):
    case = CASES[name]
    theirs = getattr(torch.nn.functional, name)
    x, weight = torch.randn(1, 4, 6, 5, device=device), torch.randn(4, 4, 3, 3, device=device)
    bias = torch.randn(4, device=device)
    with torch.autocast(device, dtype):
        assert case.op(x, weight, bias).dtype == theirs(x, weight, bias).dtype == dtype
        # Mixed arguments, as from a layer that already ran in the low precision.
        mixed = case.op(x.to(dtype), weight, bias)
        assert mixed.dtype == theirs(x.to(dtype), weight, bias).dtype == dtype
        torch.testing.assert_close(mixed, case.op(x, weight, bias))
        if name == "conv2d":
            residual = torch.randn(1, 4, 4, 3, device=device)
            assert case.op(x, weight, bias, residual=residual).dtype == dtype
        slope = torch.full((4,), 0.2, device=device)
        assert case.op(x, weight, activation="prelu", prelu_weight=slope).dtype == dtype
        # float64 is left as it is by autocast.
        assert case.op(x.double(), weight.double()).dtype == torch.float64
    assert case.op(x, weight, bias).dtype == torch.float32


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_autocast_gradients_have_the_parameters_dtype(name, device):
    case = CASES[name]
    x = torch.randn(1, 4, 6, 5, device=device, requires_grad=True)
    weight = torch.randn(4, 4, 3, 3, device=device, requires_grad=True)
    with torch.autocast(device, torch.bfloat16):
        output = case.op(x, weight, activation="relu")
    output.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


def test_autocast_leaves_the_filters_alone():
    """As the elementwise arithmetic that Kornia's filters are made of."""
    x = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.gaussian_blur2d(x, 3, 1.0).dtype == torch.float32
        assert ops.bilateral_blur(x, 3, 0.1, 1.0).dtype == torch.float32


def test_autocast_under_compile():
    torch._dynamo.reset()
    x, weight = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)

    def function(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ops.conv2d(x, weight, padding=1)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert compiled(x).dtype == torch.bfloat16
    torch.testing.assert_close(compiled(x), function(x))


@ALL_CASES
def test_inference_mode_and_no_grad(case, device):
    call = next(iter(case.calls.values()))
    tensors = make_tensors(call, torch.float32, device)
    tensors = leaves(tensors)
    with torch.inference_mode():
        inferred = case.op(**tensors, **call.options)
    assert inferred.is_inference()
    with torch.no_grad():
        plain = case.op(**tensors, **call.options)
    assert not plain.requires_grad
    assert torch.equal(inferred, plain)
    assert torch.equal(plain, case.op(**tensors, **call.options))


def test_frozen_weights_keep_the_graph(device):
    """An image that needs no gradient beside weights that do, and the other way round."""
    x, weight = torch.randn(1, 3, 8, 8, device=device), torch.randn(4, 3, 3, 3, device=device)
    assert ops.conv2d(x, weight.requires_grad_()).requires_grad
    assert ops.conv2d(x.requires_grad_(), weight.detach()).requires_grad


def test_a_backward_asked_for_slopes_that_there_are_none_of():
    """The fake kernel gives what the kernel gives: a gradient without elements."""
    shapes = {}
    for device in ("cpu", "meta"):
        x = torch.zeros(1, 2, 5, 5, device=device)
        results = torch.ops.denoise_ext.conv2d_backward(
            x, x, torch.zeros(2, 2, 3, 3, device=device), None, None, [1, 1], [1, 1], [1, 1], 1,
            "none", 0.01, [True] * 5,
        )  # fmt: skip
        shapes[device] = [result.shape for result in results[:4]]
    assert shapes["meta"] == shapes["cpu"]
