"""The public operators: any geometry, layout, dtype; a right result or a clean Python exception."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from calls import Call
from cases import CASES, FLOATS, OpCase
from op_checks import check_gradients
from torch import Tensor

from denoise_ext._loader import native
from fuzz import expected
from fuzz.target import REFUSED, RESULT, Target, tell
from fuzz.tensors import EXTREMES, disturb, draw_tensors

ERRORS = (TypeError, ValueError, RuntimeError, NotImplementedError)
# Of torch and of C++: nobody should have to read these.
_UNCLEAN = ("INTERNAL ASSERT", "bad_alloc", "std::", "vector::", "basic_string")
# A valid output of this size is made, and compared; one above the other is refused by the
# allocator. What lies between would only take long.
_MOST_ELEMENTS = 300_000
_TOO_MANY_BYTES = 1 << 35
_EXTREME_SIGMAS = (1e-300, 1e-39, 1e-3, 0.0, -1.0, 20.0, 1e9, 1e38, math.nan, math.inf)
MOTION = ("block_match", "block_warp", "recurrent_fuse")
_MOST_TAPS = 100_000  # rows times columns of a filter, by pixels: what takes a second


@contextmanager
def environment(isa: str, threads: int) -> Iterator[None]:
    """One instruction set and number of threads."""
    before = native().isa_in_use(), torch.get_num_threads()
    native().force_isa(isa)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        native().force_isa(before[0])
        torch.set_num_threads(before[1])


def _extreme_numbers(rng: random.Random, case: OpCase, call: Call) -> Call:
    """The call with one or two of its numbers replaced."""
    if case.name in MOTION:
        if "sigma" in call.options:
            return call.with_options(sigma=rng.choice(_EXTREME_SIGMAS))
        if "level" in call.options:  # numbers that every dtype has
            return call.with_options(level=rng.choice([0.0, 64.0, -1.0, math.nan, math.inf]))
        return call
    conv = case.name.startswith("conv")
    names = ["stride", "padding", "dilation", "groups"] if conv else ["kernel_size"]
    if case.name == "conv_transpose2d":
        names.append("output_padding")
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(names)
        value = rng.choice(EXTREMES)
        if name != "groups":
            old = call.options.get(name, 1)
            old = (value, value) if isinstance(old, str) else expected.pair(old)
            value = rng.choice([(value, old[1]), (old[0], value), (value, value)])
        call = call.with_options(**{name: value})
    sigmas = [name for name in call.options if name.startswith("sigma")]
    if sigmas and rng.random() < 0.5:
        call = call.with_options(**{rng.choice(sigmas): rng.choice(_EXTREME_SIGMAS)})
    return call


def _just_fitting(rng: random.Random, case: OpCase, call: Call) -> Call:
    """A convolution of huge numbers with a small output: padding balances dilation or stride."""
    image, kernel = call.shapes["input"][-2:], call.shapes["weight"][2:]
    values: dict[str, list[int]] = {"stride": [], "padding": [], "dilation": []}
    for i in (0, 1):
        wanted = rng.randint(-1, 6)  # rows of the output
        stride = rng.choice([1, 2, 3, 1000, 2**31 - 1, 2**40])
        dilation = rng.choice([1, 2, image[i], 100, 2**20, 2**30 - 71, 2**32 - 8, 2**61])
        reach = dilation * (kernel[i] - 1)
        if case.name == "conv_transpose2d":
            padding = ((image[i] - 1) * stride + reach + 1 - wanted) // 2
        else:
            padding = -(-(stride * (wanted - 1) + reach + 1 - image[i]) // 2)
        values["stride"].append(stride)
        values["padding"].append(max(0, padding))
        values["dilation"].append(dilation)
    pairs = {name: tuple(pair) for name, pair in values.items()}
    if case.name == "conv_transpose2d":
        pairs["output_padding"] = (0, 0)
    shapes = {name: shape for name, shape in call.shapes.items() if name != "residual"}
    options = {k: v for k, v in call.options.items() if k != "residual_position"}
    return Call(shapes, {**options, **pairs})


def draw(rng: random.Random, case: OpCase) -> tuple[Call, bool]:
    """A call, and whether it is an ordinary one, which must not be refused."""
    call = case.fuzz(rng) if rng.random() < 0.8 else rng.choice(list(case.calls.values()))
    if case.name.startswith("conv") and rng.random() < 0.3:
        call = call.with_options(precision=rng.choice(["strict", "default", "fast"]))
    kind = rng.random()
    if kind < 0.35:
        return call, True
    if kind < 0.55 and case.name.startswith("conv"):
        return _just_fitting(rng, case, call), False
    return _extreme_numbers(rng, case, call), False


def is_affordable(case: OpCase, call: Call, tensors: dict[str, Tensor]) -> bool:
    """Whether the result is small, or so large that no memory is given for it."""
    x = tensors["input"]
    size = math.prod(x.shape)
    if case.name.startswith("conv"):
        weight = tensors["weight"]
        if x.dim() < 3 or weight.dim() != 4:
            return True
        transposed = case.name == "conv_transpose2d"
        filters = weight.shape[1] if transposed else weight.shape[0]
        rows, columns = expected.conv_size(call, x.shape[-2:], weight.shape[2:], transposed)
        size = math.prod(x.shape[:-3]) * filters * max(0, rows) * max(0, columns)
        work = expected.conv_work(call, tuple(x.shape), tuple(weight.shape), transposed)
        if size <= _MOST_ELEMENTS and work > 50 * expected.MOST_WORK:
            return False
    elif "kernel_size" in call.options and size > 0 and size <= _MOST_ELEMENTS:
        taps = math.prod(max(1, n) for n in expected.pair(call.options["kernel_size"]))
        if case.name == "gaussian_blur2d":  # the cost is that of the sum
            taps = sum(max(1, n) for n in expected.pair(call.options["kernel_size"]))
        return taps * size < 1e9 or taps > 1e9
    return size <= _MOST_ELEMENTS or size * x.element_size() > _TOO_MANY_BYTES


def are_moderate(tensors: dict[str, Tensor]) -> bool:
    """Whether all numbers are finite and such that no sum can overflow."""
    full = [x for x in tensors.values() if x.numel()]
    return not any(x.is_meta for x in full) and all(
        bool((x.to(torch.complex128).abs() < 1e4).all()) for x in full
    )


def compare(case: OpCase, call: Call, tensors: dict[str, Tensor], result: Tensor) -> None:
    """Raise AssertionError unless the result is right."""
    x = tensors["input"]
    assert result.dtype == (case.output_dtype or x.dtype), f"dtype {result.dtype} for {call}"
    if any(t.is_meta for t in tensors.values()):
        return  # shapes alone
    if "conv" in case.name and x.numel() == 0:  # its patches would not be small
        kernel, transposed = tensors["weight"].shape[2:], case.name == "conv_transpose2d"
        wanted_size = expected.conv_size(call, x.shape[-2:], kernel, transposed)
        assert tuple(result.shape[-2:]) == wanted_size, f"{result.shape} for {call}"
        return
    outcome = expected.expected_and_bound(case, call, tensors)
    if outcome is None:
        return
    wanted, allowed = outcome
    assert result.shape == wanted.shape, f"{result.shape}, not {wanted.shape}, for {call}"
    if not are_moderate(tensors):
        return  # sums may overflow, so values are not compared
    error = (result.double() - wanted).abs()
    worst = float((error / allowed).nan_to_num().max()) if error.numel() else 0.0
    assert bool((error <= allowed).all()), f"{worst:.3g} times the bound"


def describe(call: Call, tensors: dict[str, Tensor]) -> str:
    """A call in one line."""

    def tensor(x: Tensor) -> str:
        layout = x.stride() if x.layout == torch.strided else x.layout
        return f"{str(x.dtype).removeprefix('torch.')}{tuple(x.shape)}/{layout}"

    parts = [f"{name}={tensor(x)}" for name, x in tensors.items()]
    return ", ".join([*parts, *(f"{name}={value!r}" for name, value in call.options.items())])


@contextmanager
def noted(text: Callable[[], str]) -> Iterator[None]:
    """Say of every exception what was called."""
    tell(text)
    try:
        yield
    except Exception as error:
        error.add_note(text())
        raise


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What must not change."""
    return {k: x.clone() for k, x in tensors.items() if x.numel() < 1_000_000 and not x.is_meta}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree, NaN included."""
    if one.layout != torch.strided:
        one, other = one.to_dense(), other.to_dense()
    one, other = (torch.view_as_real(x) if x.is_complex() else x for x in (one, other))
    # new tensors: one element may have any stride, which `view` takes for a gap
    one, other = (torch.empty(x.shape, dtype=x.dtype).copy_(x).view(-1) for x in (one, other))
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def check_refusal(error: Exception, ordinary: bool, text: str) -> str:
    """REFUSED, if it is a clean error and not an ordinary call."""
    if ordinary or any(part in str(error) for part in _UNCLEAN) or not str(error):
        raise AssertionError(f"{type(error).__name__} for {text}: {error}") from error
    return REFUSED


def public_case(rng: random.Random) -> str:
    """One call of a public operator."""
    case = rng.choice(list(CASES.values()))
    while True:
        call, ordinary = draw(rng, case)
        dtype = rng.choice(case.dtypes)
        tensors = draw_tensors(rng, call, dtype)
        if rng.random() < 0.2:
            disturb(rng, tensors)
            ordinary = False
        if is_affordable(case, call, tensors):
            break
    with noted(lambda: f"{case.name}: {describe(call, tensors)}"):
        if ordinary and case.backward and rng.random() < 0.25 and dtype in FLOATS:
            check_gradients(case, call, tensors)
            return RESULT
        before = copies(tensors)
        try:
            result = case.op(**tensors, **call.options)
        except ERRORS as error:
            return check_refusal(error, ordinary, describe(call, tensors))
        compare(case, call, tensors, result)
        for name, x in before.items():
            assert same_bits(tensors[name], x), f"{name} has changed"
        return RESULT


def with_isa(isa: str, run: Callable[[random.Random], str]) -> Callable[[random.Random], str]:
    """The case on one instruction set and one to three threads."""

    def run_there(rng: random.Random) -> str:
        torch.manual_seed(rng.randrange(2**32))
        with environment(isa, rng.choice([1, 1, 1, 2, 3])):
            return run(rng)

    return run_there


def targets() -> list[Target]:
    """One target for every instruction set."""
    return [
        Target(f"operators/{isa}", with_isa(isa, public_case)) for isa in native().isa_available()
    ]
