"""The choice of a convolution's kernel by measurement: with a clock that the tests set.

What PyTorch's own convolution would compute in the operator's place is compared on the CPU.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import cuda_emulator
import pytest
import torch
from cases import CASES, make_tensors
from engine_tools import plan_of

from denoise_ext import ops
from denoise_ext._loader import native
from denoise_ext.engine.accelerate import plan as engine_plan
from denoise_ext.engine.fuse import conv
from denoise_ext.ops import _autotune
from denoise_ext.ops._autotune import ESTIMATED, PYTORCH, Choice, Tuner
from denoise_ext.ops.tuned import Tuned

conv2d_module = sys.modules["denoise_ext.ops.conv2d"]  # the package's name is the function's
WITH_CUDA = native().build_info()["cuda"]


class Machine:
    """A GPU with one stream: times of kernels are given, and everything called is noted."""

    def __init__(self, seconds: dict[str, float], failing: tuple[str, ...] = ()) -> None:
        self.seconds, self.failing = seconds, failing
        self.preferred, self.turns, self.running = "", [], ""

    def prefer(self, names: str) -> str:
        before, self.preferred = self.preferred, names
        return before

    def ours(self) -> str:
        self.running = self.preferred or ESTIMATED
        if self.running in self.failing:
            raise RuntimeError(f"{self.running} is broken\nand says so at length")
        return self.running

    def theirs(self) -> str:
        self.running = PYTORCH
        return PYTORCH

    def clock(self, call: Callable[[], object]) -> float:
        call()
        self.turns.append(self.running)
        return self.seconds[self.running]

    def tuner(self, **options: int) -> Tuner:
        return Tuner(self.clock, self.prefer, **options)


def choose(machine: Machine, *steps: list[str], pytorch: bool = True) -> Choice:
    theirs = machine.theirs if pytorch else None
    return machine.tuner().measure("key", steps, machine.ours, theirs)


def test_the_fastest_serves():
    machine = Machine({ESTIMATED: 3.0, "a": 2.0, "b": 5.0, PYTORCH: 2.5})
    tuner = machine.tuner()
    choice = tuner.measure("key", [["a", "b"]], machine.ours, machine.theirs)
    assert (choice.kernels, choice.pytorch) == ("a", False)
    assert choice.seconds == machine.seconds
    assert tuner.known("key") is choice and tuner.known("another") is None
    assert tuner.follow(choice, machine.ours, machine.theirs) == "a"
    assert machine.preferred == "", "other calls of the thread take what they took"


def test_contenders_take_turns_in_an_order_that_rotates():
    machine = Machine({ESTIMATED: 3.0, "a": 2.0, PYTORCH: 2.5})
    choose(machine, ["a"])
    names = [ESTIMATED, "a", PYTORCH]
    first, *measured = [machine.turns[i : i + 3] for i in range(0, len(machine.turns), 3)]
    assert first == names
    assert measured == [names[i % 3 :] + names[: i % 3] for i in range(_autotune.ROUNDS)]


@pytest.mark.parametrize("faster", ("a", PYTORCH))
def test_ties_are_the_estimated_choices(faster):
    almost = {ESTIMATED: 1.0, "a": 1.0, PYTORCH: 1.0} | {faster: 1 - 0.9 * _autotune.TIE}
    assert choose(Machine(almost), ["a"]) == Choice(seconds=almost)
    clearly = almost | {faster: 1 - 1.1 * _autotune.TIE}
    choice = choose(Machine(clearly), ["a"])
    assert (choice.kernels or PYTORCH) == faster


def test_steps_are_chosen_one_by_one_and_pytorch_against_all_of_them():
    seconds = {ESTIMATED: 10.0, "in": 8.0, "in_2": 9.0, "w": 7.0, PYTORCH: 5.5}
    assert choose(Machine(seconds), ["in", "in_2"], ["w"]).kernels == "in w"
    assert choose(Machine(seconds | {PYTORCH: 4.0}), ["in", "in_2"], ["w"]).pytorch
    assert choose(Machine(seconds | {"w": 12.0}), ["in", "in_2"], ["w"], pytorch=False) == Choice(
        "in", False, {name: t for name, t in (seconds | {"w": 12.0}).items() if name != PYTORCH}
    )


def test_a_hopeless_contender_gets_one_turn():
    machine = Machine({ESTIMATED: 1.0, "slow": 50.0, PYTORCH: 2.0})
    choice = choose(machine, ["slow"])
    assert machine.turns.count("slow") == 1 and machine.turns.count(PYTORCH) > 1
    assert choice.kernels == "" and not choice.pytorch and choice.seconds["slow"] == 50.0


def test_what_fails_is_left_out_and_reported():
    machine = Machine({ESTIMATED: 3.0, "a": 2.0, "broken": 0.1, PYTORCH: 9.0}, ("broken",))
    choice = choose(machine, ["broken", "a"])
    assert choice.kernels == "a" and choice.failed == {"broken": "broken is broken"}
    assert "broken failed: broken is broken" in str(choice) and "a 2000000.0 us" in str(choice)
    # The operator's own failure is its call's to raise.
    machine = Machine({ESTIMATED: 3.0, "a": 2.0, PYTORCH: 0.1}, (ESTIMATED,))
    choice = choose(machine, ["a"])
    assert choice.kernels == "" and not choice.pytorch
    with pytest.raises(RuntimeError, match="broken"):
        machine.tuner().follow(choice, machine.ours, machine.theirs)


def test_a_failure_in_the_middle_leaves_the_estimated_choice():
    machine = Machine({ESTIMATED: 3.0, "a": 2.0, PYTORCH: 9.0})
    turns = itertools.count()

    def clock(call):
        if next(turns) > 5:
            raise RuntimeError("out of memory")
        return machine.clock(call)

    choice = Tuner(clock, machine.prefer).measure("key", [["a"]], machine.ours, machine.theirs)
    assert choice.kernels == "" and not choice.pytorch
    assert choice.failed == {"the measurement": "out of memory"} and machine.preferred == ""


def test_the_choice_used_longest_ago_makes_room():
    machine = Machine({ESTIMATED: 1.0, PYTORCH: 2.0})
    tuner = machine.tuner(capacity=3)
    for key in "abc":
        tuner.measure(key, [], machine.ours, machine.theirs)
    assert tuner.known("a") is not None
    tuner.measure("d", [], machine.ours, machine.theirs)
    assert len(tuner) == 3
    assert [tuner.known(key) is not None for key in "abcd"] == [True, False, True, True]


def test_one_thread_measures_and_others_do_not_wait():
    machine = Machine({ESTIMATED: 2.0, "a": 1.0, PYTORCH: 9.0})
    at_clock, go_on = threading.Event(), threading.Event()

    def clock(call):
        at_clock.set()
        assert go_on.wait(60)
        return machine.clock(call)

    tuner, results = Tuner(clock, machine.prefer), []
    worker = threading.Thread(
        target=lambda: results.append(tuner.measure("key", [["a"]], machine.ours, machine.theirs))
    )
    worker.start()
    assert at_clock.wait(60)
    assert tuner.measure("key", [["a"]], machine.ours, machine.theirs) == Choice()
    assert tuner.known("key") is None
    go_on.set()
    worker.join(60)
    assert results[0].kernels == "a" and tuner.known("key") is results[0]


# --- where calls pass through it -------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """The operators' own tuner, on an emulated GPU on which the last kernel named is fastest."""
    if cuda_emulator.missing() or not WITH_CUDA:
        pytest.skip("needs the emulator and a build with CUDA kernels")
    preferred, used = [""], []

    def prefer(names: str) -> str:
        before, preferred[0] = preferred[0], names
        used.append(names)
        cuda_emulator.emulator().configure(variant=names)
        return before

    def clock(call):
        used.clear()
        call()
        return 1.0 if fastest[0] in used else 2.0

    fastest = [""]
    monkeypatch.setattr(_autotune, "TUNER", Tuner(clock, prefer))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    capturing = [False]
    with cuda_emulator.emulated_cuda():
        yield capturing, fastest


def _arguments() -> tuple:
    x, w = torch.randn(1, 16, 9, 20), torch.randn(24, 16, 3, 3)
    x = x.to(torch.float16).contiguous(memory_format=torch.channels_last)
    w = w.to(torch.float16).contiguous(memory_format=torch.channels_last)
    return (x, w, None, (1, 1), (1, 1), (1, 1), 1, "none", 0.0, None, None, "before", "default")


def _run(arguments: tuple) -> torch.Tensor:
    return _autotune.run(conv2d_module._op, conv2d_module._ByPyTorch.apply, arguments)


def test_a_call_is_measured_once_and_explained(machine):
    arguments = _arguments()
    other = _autotune.other_kernels(conv2d_module._op, arguments, 90)[0][-1]
    machine[1][0] = other
    y = _run(arguments)
    assert len(_autotune.TUNER) == 1
    choice = _autotune.TUNER.known(_autotune.key_of(conv2d_module._op, arguments, None))
    assert choice.kernels == other
    assert torch.equal(_run(arguments), y) and len(_autotune.TUNER) == 1
    line = _autotune.report(conv2d_module._op, arguments[:-1], None)
    assert line.startswith(f"measured: {other} ({other} 1000000.0 us, estimated 2000000.0 us")


def test_every_kernel_of_a_backward_call_is_a_contender(machine):
    x, w, *_ = _arguments()
    grad = torch.ones(1, 24, 9, 20, dtype=torch.float16).contiguous(
        memory_format=torch.channels_last
    )
    op = conv2d_module._backward_op
    arguments = (grad, x, w, None, None, (1, 1), (1, 1), (1, 1), 1, "none", 0.0,
                 [True, True, False, False, False], "default")  # fmt: skip
    steps = _autotune.other_kernels(op, arguments, 90)
    assert len(steps) == 2 and all(n.startswith("conv_") for s in steps for n in s)
    assert {"conv_weight_grad_gemm", "conv_weight_grad_taps"} <= set(steps[1])
    machine[1][0] = steps[1][0]
    grads = _autotune.run(op, conv2d_module._backward_by_pytorch, arguments)
    key = _autotune.key_of(op, arguments, None)
    assert _autotune.TUNER.known(key).kernels == steps[1][0]
    assert grads[0].shape == x.shape and grads[1].shape == w.shape


def test_nothing_is_measured_while_a_graph_is_recorded(machine):
    capturing, _ = machine
    capturing[0] = True
    _run(_arguments())
    assert len(_autotune.TUNER) == 0
    capturing[0] = False
    _run(_arguments())
    assert len(_autotune.TUNER) == 1


# --- plans, whose operators write into given memory ------------------------------------------


def _out_arguments(out: torch.Tensor, residual: torch.Tensor | None = None) -> tuple:
    x, w, bias, *pairs = _arguments()[:7]
    return (x, w, None, bias, *pairs, "constant", "none", 0.0, None, residual, "after", "auto", out,
            "default")  # fmt: skip


def _image(*shape: int) -> torch.Tensor:
    return torch.randn(shape).half().contiguous(memory_format=torch.channels_last)


def test_an_operator_that_writes_is_measured_once(machine):
    op = torch.ops.denoise_ext.conv2d_out.default
    outs = [_image(1, 24, 9, 20) for _ in range(2)]
    arguments = _out_arguments(outs[0])
    others = _autotune.other_kernels(op, arguments, 90)[0]
    assert "conv_tiled" in others
    machine[1][0] = "conv_tiled"
    Tuned(op)(*arguments)
    choice = _autotune.TUNER.known(_autotune.key_of(op, arguments, None))
    assert choice.kernels == "conv_tiled" and PYTORCH not in choice.seconds
    machine[0][0] = True  # a recorded graph takes what was measured before
    Tuned(op)(*(outs[1] if x is outs[0] else x for x in arguments))
    assert len(_autotune.TUNER) == 1 and torch.equal(*outs)


def test_a_result_in_its_own_residual_is_timed_in_other_memory():
    """Each of many turns would add to it."""
    op = torch.ops.denoise_ext.conv2d_out.default
    apart, residual = _image(1, 24, 9, 20), _image(1, 24, 9, 20)
    arguments = _out_arguments(apart, residual)
    assert all(a is b for a, b in zip(_autotune.repeatable(op, arguments), arguments, strict=True))
    channels = residual[:, 8:16]
    arguments = _out_arguments(channels, residual)
    for got, given in zip(_autotune.repeatable(op, arguments), arguments, strict=True):
        assert (got is given) == (given is not channels)
        if given is channels:
            assert (got.shape, got.stride()) == (given.shape, given.stride())


@torch.no_grad()
@pytest.mark.parametrize("recorded", (False, True))
def test_a_plan_takes_the_measured_kernels(recorded, machine, monkeypatch):
    """In its first run; where that is recorded already, the estimated choice."""
    capturing, fastest = machine
    capturing[0], fastest[0] = recorded, "conv_tiled"
    monkeypatch.setattr(conv, "_writer", lambda op, device: Tuned(op))
    monkeypatch.setattr(conv.ConvSite, "_packed", lambda *_: None)  # the CPU's alone
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(16, 24, 5, padding=2), torch.nn.ReLU(),
                              torch.nn.ConvTranspose2d(24, 8, 2, 2)).eval()  # fmt: skip
    x = torch.randn(1, 16, 6, 9).contiguous(memory_format=torch.channels_last)
    expected = net.double()(x.double())
    plan, used = plan_of(net.float(), x, poison=False), []
    monkeypatch.setattr(_autotune.TUNER, "_with", _noting(_autotune.TUNER, used))
    for _ in range(2):
        del used[:]
        result = plan.run([x])
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    choices = [choice.kernels for choice in _autotune.TUNER._choices.values()]
    assert choices == ([] if recorded else ["conv_tiled"] * 2)
    assert used == choices
    # The plan's report has each geometry's times, as ops.explain has.
    measured = plan.measured()
    assert list(measured) == ([] if recorded else [
        "conv2d 1x16x6x9, weight 24x16x5x5", "conv_transpose2d 1x24x6x9, weight 24x8x2x2"
    ])  # fmt: skip
    for text in measured.values():
        assert text.startswith("measured: conv_tiled (conv_tiled 1000000.0 us, ")
        assert "estimated 2000000.0 us" in text


@torch.no_grad()
def test_the_report_of_a_network_has_the_measured_kernels(machine, monkeypatch):
    machine[1][0] = "conv_tiled"
    monkeypatch.setattr(conv, "_writer", lambda op, device: Tuned(op))
    monkeypatch.setattr(conv.ConvSite, "_packed", lambda *_: None)  # the CPU's alone
    net = engine_plan(torch.nn.Sequential(torch.nn.Conv2d(16, 24, 5), torch.nn.ReLU()).eval())
    x = torch.randn(1, 16, 9, 9).contiguous(memory_format=torch.channels_last)
    net(x)
    rows = [row for row in net.report().rows if row.variant == "kernel"]
    assert [row.site for row in rows] == ["conv2d 1x16x9x9, weight 24x16x5x5"]
    assert "measured: conv_tiled (" in rows[0].reason and rows[0].reason in str(net.report())


def _noting(tuner: Tuner, used: list[str]) -> Callable:
    follow = tuner._with

    def noted(kernels: str, call: Callable[[], object]) -> object:
        used.append(kernels)
        return follow(kernels, call)

    return noted


@pytest.mark.parametrize("way", ("deterministic", "environment", "fake tensors", "compile"))
def test_where_no_choice_is_followed(way, machine, monkeypatch):
    arguments = _arguments()
    if way == "environment":
        monkeypatch.setattr(_autotune, "ENABLED", False)
    if way == "compile":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    if way == "deterministic":
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    if way == "fake tensors":
        mode = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)
        with mode:
            assert not _autotune.may_follow()
        return
    assert not _autotune.may_follow()
    _run(arguments)
    assert len(_autotune.TUNER) == 0


@pytest.mark.parametrize("value, enabled", [("0", False), ("1", True), ("", True)])
def test_the_variable_switches_it_off(value, enabled):
    script = "from denoise_ext.ops import _autotune; print(_autotune.ENABLED)"
    environment = {**os.environ, "DENOISE_EXT_AUTOTUNE": value}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(enabled)]


def test_the_cpu_never_asks(monkeypatch):
    monkeypatch.setattr(_autotune, "run", None)
    x, w = torch.randn(1, 3, 5, 5, requires_grad=True), torch.randn(3, 3, 3, 3)
    ops.conv2d(x, w).sum().backward()
    ops.conv_transpose2d(x, w).sum().backward()


def test_geometries():
    op, (x, w, *rest) = conv2d_module._op, _arguments()

    def key(x=x, w=w, rest=rest, device=0):
        return _autotune.key_of(op, (x, w, *rest), device)

    def image(*shape, **options):
        return torch.empty(shape, dtype=torch.float16).contiguous(
            memory_format=torch.channels_last, **options
        )

    assert key() == key(x.clone())
    assert key(image(1, 16, 600, 700)) == key(image(1, 16, 1000, 513))
    others = [
        key(image(1, 16, 9, 21)), key(image(1, 16, 12, 40)), key(image(2, 16, 9, 20)),
        key(x.contiguous()), key(x.bfloat16(), w.bfloat16()), key(device=1),
        key(rest=[(2, 2), *rest[1:]]), key(rest=[*rest[:-1], "strict"]),
        key(w=w[:, :, :2]), key(image(1, 24, 9, 20)[:, :16]), key(image(1, 24, 9, 20)[:, 1:17]),
    ]  # fmt: skip
    assert key(image(1, 16, 9, 21)) == key(), "columns from 16 to 31 are one class"
    assert len({*others[1:], key()}) == len(others)


def test_strict_float32_is_not_pytorchs_to_round():
    x = torch.empty(1, 3, 4, 4)
    for allowed, precision, dtype in itertools.product(
        (False, True), ("strict", "default", "fast"), (torch.float32, torch.float16)
    ):
        torch.backends.cudnn.allow_tf32 = allowed
        may = _autotune.pytorch_may_serve((x.to(dtype), precision))
        assert may == (not (allowed and precision == "strict" and dtype == torch.float32))
    torch.backends.cudnn.allow_tf32 = False


# --- PyTorch in the operator's place ---------------------------------------------------------


@pytest.mark.parametrize("name", ("conv2d", "conv_transpose2d"))
def test_pytorch_computes_the_same(name, monkeypatch):
    """Forward and all gradients of every call of the tables, in float64."""
    case = CASES[name]
    module = sys.modules[f"denoise_ext.ops.{name}"]
    for call_name, call in case.calls.items():
        tensors = make_tensors(call, torch.float64)
        if tensors["input"].numel() == 0:
            continue
        results = []
        for by_pytorch in (False, True):
            with monkeypatch.context() as patch:
                if by_pytorch:
                    native_backward = module._backward_op
                    patch.setattr(module, "_op", lambda *a: module._ByPyTorch.apply(*a))
                    patch.setattr(
                        module, "_backward_op", lambda *a: module._backward_by_pytorch(*a)
                    )
                    assert native_backward is not module._backward_op
                leaves = {n: x.clone().requires_grad_() for n, x in tensors.items()}
                y = case.op(**leaves, **call.options)
                weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
                results.append([y, *torch.autograd.grad(y, list(leaves.values()), weights)])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, msg=lambda m, c=call_name: f"{c}: {m}")
            assert ours.stride() == theirs.stride() or ours.numel() < 2, call_name
