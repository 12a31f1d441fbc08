"""Calls and plans whose kernels are chosen by measurement, on the emulated GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from engine_tools import plan_of
from measured_gpu import machine as machine

from denoise_ext.engine.accelerate import plan as engine_plan
from denoise_ext.engine.fuse import conv
from denoise_ext.ops import _autotune
from denoise_ext.ops._autotune import PYTORCH, Tuner
from denoise_ext.ops.tuned import Tuned

conv2d_module = sys.modules["denoise_ext.ops.conv2d"]  # the package's name is the function's


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
    assert choice.kernels == "conv_tiled" and PYTORCH in choice.seconds
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
    monkeypatch.setattr(conv, "_writer", lambda op, device, packed: Tuned(op, packed))
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
    monkeypatch.setattr(conv, "_writer", lambda op, device, packed: Tuned(op, packed))
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
