"""The choice of a convolution's kernel by measurement: with a clock that the tests set.

What PyTorch's own convolution would compute in the operator's place is compared on the CPU.
"""

from __future__ import annotations

import itertools
import runpy
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from cases import CASES, make_tensors

from denoise_ext import ops
from denoise_ext.ops import _autotune
from denoise_ext.ops._autotune import ESTIMATED, PYTORCH, Choice, Tuner


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


@pytest.mark.parametrize("value, enabled", [("0", False), ("1", True), ("", True)])
def test_the_variable_switches_it_off(value, enabled, monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_AUTOTUNE", value)
    assert runpy.run_path(_autotune.__file__)["ENABLED"] is enabled


def test_the_cpu_never_asks(monkeypatch):
    monkeypatch.setattr(_autotune, "run", None)
    x, w = torch.randn(1, 3, 5, 5, requires_grad=True), torch.randn(3, 3, 3, 3)
    ops.conv2d(x, w).sum().backward()
    ops.conv_transpose2d(x, w).sum().backward()


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
