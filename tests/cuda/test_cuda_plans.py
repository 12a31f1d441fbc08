"""What plans on a GPU add to the operators, emulated: packed weights, PyTorch as a contender.

Memory, streams and CUDA graphs are a real GPU's alone: test_cuda_accelerate.py.
"""

from __future__ import annotations

import copy
import logging
import sys

import pytest
import torch
from engine_tools import plan_of
from measured_gpu import machine as machine
from measured_gpu import planned_as_on_a_gpu as planned_as_on_a_gpu
from torch import Tensor, nn
from zoo import tiny

from denoise_ext._loader import native
from denoise_ext.engine import Accelerated, plan
from denoise_ext.engine.run.plan import Plan
from denoise_ext.ops import _autotune
from denoise_ext.ops._autotune import PYTORCH
from denoise_ext.ops.tuned import PACKING_KERNELS, Tuned
from denoise_ext.runtime import Session, memory, session

# The package's name is the function's.
accelerate_module = sys.modules["denoise_ext.engine.accelerate"]


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 20, 2, stride=2),
        nn.ConvTranspose2d(20, 8, 2, 2),
    ).eval()  # fmt: skip


def image(height: int, width: int) -> Tensor:
    x = torch.rand(1, 16, height, width, generator=torch.Generator().manual_seed(height))
    return x.contiguous(memory_format=torch.channels_last)


def steps_of(made: Plan) -> list[Tuned]:
    return [step.function for step in made.schedule.steps if isinstance(step.function, Tuned)]


def close(actual: Tensor, network: nn.Module, x: Tensor) -> bool:
    expected = copy.deepcopy(network).double()(x.double())
    return torch.allclose(actual.double(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("fastest", ["conv_tiled", ""])
def test_weights_are_packed_once(fastest, planned_as_on_a_gpu):
    planned_as_on_a_gpu[1][0] = fastest
    net, x = small_net(), image(6, 10)
    made = plan_of(net, x, poison=False)
    assert close(made.run([x]), net, x)
    steps = steps_of(made)
    kept = [dict(step.packed) for step in steps]
    # Two convolutions; the transposed one packs in each call.
    assert [len(packed) for packed in kept] == [1, 1, 0]
    if fastest:  # the layout is conv_tiled's
        assert all(next(iter(packed.values())).dim() == 5 for packed in kept[:2])
    assert close(made.run([x]), net, x)
    for step, before in zip(steps, kept, strict=True):
        assert all(step.packed[name] is tensor for name, tensor in before.items())
        assert len(step.packed) == len(before)


@torch.no_grad()
def test_what_is_packed_is_what_is_read(planned_as_on_a_gpu):
    net, x = small_net()[:1].eval(), image(6, 10)
    made = plan_of(net, x, poison=False)
    made.run([x])
    (packed,) = steps_of(made)[0].packed.values()
    packed.zero_()
    bias = net[0].bias.view(1, -1, 1, 1)
    assert torch.equal(made.run([x]), bias.expand(1, 24, 6, 10))


@torch.no_grad()
def test_plans_of_other_sizes_share_what_is_packed(planned_as_on_a_gpu):
    net = small_net()
    fast = plan(net)
    for size in ((6, 10), (8, 12), (6, 10)):
        assert close(fast(image(*size)), net, image(*size))
    plans = [made for _, made in fast._settings.plans if made() is not None]
    first, second = ([step.packed for step in steps_of(made())[:2]] for made in plans)
    assert all(a is b and len(a) == 1 for a, b in zip(first, second, strict=True))


@torch.no_grad()
def test_changed_weights_are_packed_anew(planned_as_on_a_gpu):
    net, x = small_net(), image(6, 10)
    fast = plan(net)
    for factor in (1.0, 2.0, -0.5):
        net[0].weight.mul_(factor)
        assert close(fast(x), net, x), factor
    net[2].weight = nn.Parameter(torch.randn_like(net[2].weight))
    assert close(fast(x), net, x)


@torch.no_grad()
def test_nothing_is_packed_while_a_graph_is_recorded(planned_as_on_a_gpu):
    """The graph would own the memory, and pack again in each replay."""
    capturing, _ = planned_as_on_a_gpu
    capturing[0] = True
    net, x = small_net(), image(6, 10)
    made = plan_of(net, x, poison=False)
    assert close(made.run([x]), net, x)
    assert all(not step.packed for step in steps_of(made))
    capturing[0] = False
    assert close(made.run([x]), net, x)
    assert [len(step.packed) for step in steps_of(made)] == [1, 1, 0]


@torch.no_grad()
@pytest.mark.parametrize("enabled", [False, True])
def test_without_measurements_the_estimated_kernel_gets_its_weight(
    enabled, planned_as_on_a_gpu, monkeypatch
):
    monkeypatch.setattr(_autotune, "ENABLED", enabled)
    net, x = small_net(), image(6, 10)
    made = plan_of(net, x, poison=False)
    assert close(made.run([x]), net, x)
    assert len(_autotune.TUNER) == (3 if enabled else 0)
    assert len(steps_of(made)[0].packed) == 1


@torch.no_grad()
def test_pytorch_is_a_contender(planned_as_on_a_gpu):
    planned_as_on_a_gpu[1][0] = PYTORCH
    net, x = small_net(), image(6, 10)
    made = plan_of(net, x, poison=False)
    for _ in range(2):
        assert close(made.run([x]), net, x)
    assert all(text.startswith("measured: PyTorch") for text in made.measured().values())
    assert all(not step.packed for step in steps_of(made))


def test_pytorch_gives_what_the_operators_give(planned_as_on_a_gpu):
    """Bias, residual, activation; the result in a slice of the channels of other memory."""
    planned_as_on_a_gpu[1][0] = PYTORCH
    x, residual = image(5, 7), torch.rand(1, 24, 5, 7)
    weight, bias, slopes = torch.randn(24, 16, 3, 3), torch.randn(24), torch.rand(24)
    for place in ("before", "after"):
        results = []
        for fastest in (PYTORCH, ""):
            planned_as_on_a_gpu[1][0] = fastest
            _autotune.TUNER._choices.clear()
            out = torch.zeros(1, 32, 5, 7).contiguous(memory_format=torch.channels_last)[:, 4:28]
            Tuned(torch.ops.denoise_ext.conv2d_out.default)(
                x, weight, None, bias, [1, 1], [1, 1], [1, 1], 1, "constant", "prelu", 0.0, slopes,
                residual, place, "direct", out, "default",
            )  # fmt: skip
            results.append(out)
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_strict_leaves_tf32_to_nobody(planned_as_on_a_gpu, monkeypatch):
    """PyTorch's convolution would round; its setting is no contender's."""
    monkeypatch.setattr(_autotune, "tf32_allowed", lambda: True)
    weight, out = torch.randn(24, 16, 2, 2), torch.empty(1, 24, 10, 14)
    arguments = (image(5, 7), torch.randn(16, 24, 2, 2), None, [2, 2], [0, 0], [0, 0], 1, [1, 1],
                 "none", 0.0, None, None, "before", "strict", out)  # fmt: skip
    assert not _autotune.pytorch_may_serve(arguments)
    assert _autotune.pytorch_may_serve((*arguments[:13], "default", out))
    convolution = (image(5, 7), weight, None, None, [1, 1], [0, 0], [1, 1], 1, "constant", "none",
                   0.0, None, None, "before", "auto", out)  # fmt: skip
    assert not _autotune.pytorch_may_serve((*convolution, "strict"))
    assert _autotune.pytorch_may_serve((*convolution, "fast"))


@torch.no_grad()
def test_tuned_steps_are_laid_out_as_convolutions(request):
    """Their images are channels_last, also the caller's."""
    net, x = small_net(), image(6, 10)
    plain = plan_of(net, x, poison=False).schedule
    request.getfixturevalue("planned_as_on_a_gpu")
    tuned = plan_of(net, x, poison=False).schedule
    assert len(tuned.any_layout) == len(plain.any_layout) == 0
    for ours, theirs in ((tuned.fresh, plain.fresh), (tuned.places, plain.places)):
        assert [v.shape for v in ours] == [v.shape for v in theirs]
    assert list(tuned.fresh.values()) == list(plain.fresh.values())


def test_the_kernels_that_pack_are_those_of_the_library(machine):
    weight = torch.randn(16, 16, 3, 3).half()
    for name in PACKING_KERNELS:
        assert torch.ops.denoise_ext.conv2d_pack(weight, name).numel() >= weight.numel()


# --- sessions ------------------------------------------------------------------------------------


def test_a_gpu_has_plans_where_the_build_has_kernels():
    assert session._has_plans(torch.device("cpu"))
    assert session._has_plans(torch.device("cuda", 0)) == native().build_info()["cuda"]
    assert not session._has_plans(torch.device("meta"))


@torch.no_grad()
@pytest.mark.parametrize("precision", ["strict", "default", "float16"])
def test_a_session_runs_a_plan(precision, planned_as_on_a_gpu):
    network = tiny("dncnn_gray")
    inputs = {"image": torch.rand(1, 1, 20, 24)}
    exact = Session(copy.deepcopy(network).double(), "default", run_planned=False)
    expected, *_ = exact.run({"image": inputs["image"].double()})
    ours = Session(network, precision, run_planned=True)
    outputs, _, recomputed = ours.run(inputs)
    # The layers' weights are of order 1, and a result of order 1: fp16 rounds by 5e-4 a layer.
    limit = 5e-3 if precision == "float16" else 1e-5
    assert (outputs["image"].double() - expected["image"]).abs().max() <= limit
    assert not recomputed
    (made,) = [made() for _, made in ours._network._settings.plans]
    assert len(steps_of(made)) >= 2 and any(step.packed for step in steps_of(made))


def test_memory_of_a_recorded_plan_is_counted(monkeypatch):
    """A CUDA graph has inputs and results of its own."""
    ours = Session(tiny("dncnn_gray"), "default", run_planned=True)
    plain = Session(tiny("dncnn_gray"), "default", run_planned=True).bytes_per_pixel
    ours.device = torch.device("cuda")
    assert ours.bytes_per_pixel == plain + 2 * memory._RECORDED  # an input and an output


def failing_plan(monkeypatch, error: Exception) -> tuple[Accelerated, nn.Module, list[int]]:
    net, calls = small_net()[:1].eval(), []
    fast = plan(net)
    fast(image(6, 10))

    def leaves(self, tensors: list[Tensor], spoil: bool = False) -> list[Tensor]:
        calls.append(1)
        raise error

    monkeypatch.setattr(Plan, "leaves", leaves)
    monkeypatch.setattr(accelerate_module, "_on_a_gpu", lambda args, kwargs: True)
    return fast, net, calls


@torch.no_grad()
def test_a_plan_that_fails_on_a_gpu_leaves_the_calls_to_the_network(monkeypatch, caplog):
    fast, net, calls = failing_plan(monkeypatch, RuntimeError("CUDA error 700"))
    x = image(6, 10)
    with caplog.at_level(logging.WARNING, "denoise_ext"):
        for _ in range(3):
            assert torch.equal(fast(x), net(x))
    assert len(calls) == 1, "the plan is not tried again"
    assert "CUDA error 700" in caplog.text and "CUDA error 700" in str(fast.report())


@torch.no_grad()
def test_a_plan_without_memory_is_tried_again(monkeypatch):
    fast, net, calls = failing_plan(monkeypatch, torch.OutOfMemoryError("no memory"))
    x = image(6, 10)
    for _ in range(3):
        assert torch.equal(fast(x), net(x))
    assert len(calls) == 3


@torch.no_grad()
def test_on_the_cpu_what_a_trusted_plan_raises_is_an_error(monkeypatch):
    fast, *_ = failing_plan(monkeypatch, RuntimeError("a defect"))
    monkeypatch.setattr(accelerate_module, "_on_a_gpu", lambda args, kwargs: False)
    with pytest.raises(RuntimeError, match="a defect"):
        fast(image(6, 10))
