"""Plans on a GPU: recorded as CUDA graphs, on several streams, from several threads."""

from __future__ import annotations

import contextlib
import copy
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of
from real_gpu import missing_gpu
from torch import nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext import models
from denoise_ext.engine.capture.graph import Graph, Value
from denoise_ext.engine.run import cuda_graph, region
from denoise_ext.engine.run.entries import Entry
from denoise_ext.engine.run.settings import Settings

pytestmark = pytest.mark.usefixtures("ours_is_faster")
on_gpu = pytest.mark.skipif(missing_gpu() is not None, reason=str(missing_gpu()))


class Net(nn.Module):
    """A two-level network with everything that plans replace on CUDA."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.down = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.up, self.last = nn.ConvTranspose2d(64, 32, 2, 2), nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, x):
        a = F.relu(self.first(x))
        b = F.relu(self.norm(self.down(F.max_pool2d(a, 2))))
        return x - self.last(torch.cat((a, self.up(b)), 1))


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    # Sums of 9 * 64 terms in four layers; a stale or unordered result is off by its own size.
    return torch.allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_a_tensor_elsewhere_is_an_obstacle():
    gpu = torch.device("cuda", 0)
    devices = (gpu, torch.device("cpu"))
    here, there = (Value((1,), (1,), torch.float32, device) for device in devices)
    assert cuda_graph.obstacle(Graph([here], [], [], [], [], None), gpu) is None
    assert "cpu" in cuda_graph.obstacle(Graph([here, there], [], [], [], [], None), gpu)


@contextlib.contextmanager
def _replaying_on_the_cpu(recorder, monkeypatch):
    """``torch.cuda`` whose graph repeats the launch on the recorder's own inputs."""
    again = lambda: recorder._results.__setitem__(slice(None), recorder._launch(recorder._inputs))  # noqa: E731
    nothing = contextlib.nullcontext
    stream = SimpleNamespace(wait_stream=lambda other: None)
    stand_in = {
        "is_current_stream_capturing": lambda: False,
        "current_stream": lambda device: stream,
        "Stream": lambda device: stream,
        "CUDAGraph": lambda: SimpleNamespace(replay=again),
        "set_stream": lambda stream: None,
        "device": nothing,
        "stream": nothing,
        "graph": lambda *_, **__: nothing(),
    }
    with monkeypatch.context() as patch:
        for name, value in stand_in.items():
            patch.setattr(torch.cuda, name, value)
        yield


@pytest.mark.parametrize(
    "shape, expanded", [((2, 1, 5), (2, 4, 5)), ((1,), (3,)), ((1, 1, 6), (2, 3, 6)), ((), (2, 2))]
)
def test_expanded_inputs_are_recorded(shape, expanded, monkeypatch):
    """Of stride 0: PyTorch does not write such a tensor as a whole."""
    recorder = cuda_graph.Recorder(lambda x: [2 * x[0]], [False], torch.device("cpu"))
    with _replaying_on_the_cpu(recorder, monkeypatch):
        for seed in range(3):
            torch.manual_seed(seed)
            x = torch.randn(shape).expand(expanded)
            assert torch.equal(recorder([x])[0], 2 * x)
            assert recorder.failure is None and recorder.recorded
    assert recorder._inputs[0].stride() == x.stride()


@on_gpu
@torch.no_grad()
def test_a_plan_with_an_expanded_input_is_recorded():
    net = Net().eval().cuda()
    inputs = [torch.randn(1, 1, 64, 64, device="cuda").expand(1, 3, 64, 64) for _ in range(3)]
    plan = plan_of(net, inputs[0], poison=False)
    assert all(close(plan.run([x]), net(x)) for x in inputs)
    assert plan.unrecorded is None and plan.free_workspaces()[0].recorded


@on_gpu
@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 3, 64, 64), (2, 3, 130, 96)])
def test_replays_compute_what_the_model_does(size):
    net = Net().eval().cuda()
    inputs = [torch.randn(size, device="cuda") for _ in range(6)]
    plan = plan_of(net, inputs[0], poison=False)
    results = [plan.run([x]) for x in inputs]  # none may be overwritten by the calls after it
    assert all(close(y, net(x)) for x, y in zip(inputs, results, strict=True))
    assert plan.workspaces == 1 and plan.unrecorded is None
    assert plan.free_workspaces()[0].recorded


def test_a_plan_is_made_anew_when_pytorch_changes_its_tf32_setting(monkeypatch):
    """Its kernels were chosen under the setting of the time; without a GPU, up to that decision."""
    part = region.Region(nn.Identity(), "forward", "", Settings("default", None))
    made, allowed = [], [False]
    on_gpu = SimpleNamespace(is_cuda=True)
    monkeypatch.setattr(region, "call_key", lambda *_: (("key",), [on_gpu]))
    monkeypatch.setattr(region, "tf32_allowed", lambda: allowed[0])
    prepare = lambda key, *_: made.append(allowed[0]) or part._entries.keep(key, Entry(None))  # noqa: E731
    monkeypatch.setattr(part, "_prepare", prepare)
    for value in (False, False, True, True, False):
        allowed[0] = value
        part.call((), {})
    assert made == [False, True, False]


@on_gpu
@torch.no_grad()
@pytest.mark.parametrize("precision", ["strict", "default", "fast"])
def test_the_tf32_setting_is_followed(precision):
    net, x = Net().eval().cuda(), torch.randn(1, 3, 64, 64, device="cuda")
    exact = copy.deepcopy(net).double()(x.double())
    fast = denoise_ext.accelerate(net, x, precision=precision)
    for allowed in (False, True, False):
        torch.backends.cudnn.allow_tf32 = allowed
        error = (fast(x).double() - exact).norm() / exact.norm()
        if precision == "strict" or (precision == "default" and not allowed):
            assert error < 1e-5
    torch.backends.cudnn.allow_tf32 = False


@on_gpu
@torch.no_grad()
def test_changed_weights_count():
    net, x = Net().eval().cuda(), torch.randn(1, 3, 64, 64, device="cuda")
    fast = denoise_ext.accelerate(net, x)
    for _ in range(3):
        net.last.weight.mul_(2)
        assert close(fast(x), net(x))


@on_gpu
@torch.no_grad()
def test_streams_and_threads():
    net = Net().eval().cuda()
    inputs = [torch.randn(1, 3, 256, 256, device="cuda") for _ in range(8)]
    expected = [net(x) for x in inputs]
    fast = denoise_ext.accelerate(net, inputs[0])
    torch.cuda.synchronize()

    def work(i: int) -> bool:
        stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(stream):
            results = [fast(inputs[i]) for _ in range(10)]
            stream.synchronize()
            return all(close(y, expected[i]) for y in results)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(8)))


@on_gpu
@torch.no_grad()
def test_what_cannot_be_recorded_says_why():
    class Waits(Net):
        def forward(self, x, scale):
            return super().forward(x) * scale.to(x.device)

    net, x = Waits().eval().cuda(), torch.randn(1, 3, 64, 64, device="cuda")
    plan = plan_of(net, x, torch.tensor(1.0), poison=False)
    for scale in (0.5, 2.0, 3.0):
        assert close(plan.run([x, torch.tensor(scale)]), net(x, torch.tensor(scale)))
    assert plan.unrecorded == "a tensor is on cpu"


@on_gpu
@torch.no_grad()
def test_a_recording_that_fails_leaves_everything_as_it_was():
    class Inverts(Net):
        def forward(self, x):  # an inverse looks whether there is one: the GPU has to be waited for
            return super().forward(x) * torch.linalg.inv(2 + x.mean().reshape(1, 1))

    net, x = Inverts().eval().cuda(), torch.randn(1, 3, 64, 64, device="cuda")
    plan, stream = plan_of(net, x, poison=False), torch.cuda.current_stream()
    for _ in range(3):
        assert close(plan.run([x]), net(x))
        assert torch.cuda.current_stream() == stream
    assert plan.unrecorded and not plan.free_workspaces()[0].recorded
    assert torch.rand(4, device="cuda").isfinite().all()
    after = plan_of(Net().eval().cuda(), x, poison=False)
    after.run([x])
    assert after.free_workspaces()[0].recorded


@on_gpu
@torch.no_grad()
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
def test_each_device_records_its_own():
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        net, x = Net().eval().to(device), torch.randn(1, 3, 64, 64, device=device)
        plan = plan_of(net, x, poison=False)
        for _ in range(3):
            assert close(plan.run([x]), net(x))
            assert torch.cuda.current_device() == 0
        assert plan.free_workspaces()[0].recorded


@on_gpu
@torch.no_grad()
@pytest.mark.parametrize("name", ["dncnn_gray", "ffdnet_gray", "dxnet_s_gray"])
def test_models_of_the_zoo(name):
    net = models.create_model(name).eval().cuda()
    x = torch.rand(1, 1, 96, 128, device="cuda")
    arguments = (x, 25.0) if net.needs_sigma else (x,)
    fast = denoise_ext.accelerate(net, arguments)
    for _ in range(3):
        assert close(fast(*arguments), net(*arguments))
