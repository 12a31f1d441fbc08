"""``accelerate``: what a forward may do with its own submodules while parts of it are replaced."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, deque
from dataclasses import dataclass

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import planned, small_net
from torch import Tensor, nn

import denoise_ext
from denoise_ext.engine.fuse import verify
from denoise_ext.engine.run.plan import _Workspace
from denoise_ext.engine.run.snapshot import Snapshot

pytestmark = pytest.mark.usefixtures("ours_is_faster")


def conv(channels: int = 8, out: int = 8) -> nn.Module:
    return nn.Conv2d(channels, out, 3, padding=1)


class Parts(nn.Module):
    """Its own forward runs, on replaced parts: it counts its calls."""

    def __init__(self, run) -> None:
        super().__init__()
        self.first = conv(3)
        self.list = nn.ModuleList(conv() for _ in range(3))
        self.sequence = nn.Sequential(conv(), nn.ReLU(), conv())
        self.table = nn.ModuleDict({"a": conv(), "b": conv()})
        self.run, self.calls = run, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.run(self, self.first(x))


def sliced_list(m, x):
    for layer in m.list[:-1]:
        x = layer(x)
    return m.list[-1](x)


def sliced_sequence(m, x):
    return m.sequence[1:](x) + m.sequence[:2](x)


def concatenated(m, x):
    return nn.Sequential(*m.list, *m.sequence)(x) + (m.sequence + m.sequence)(x)


def copied(m, x):
    return copy.copy(m.first)(x[:, :3]) + copy.deepcopy(m.sequence)(x)


def pickled(m, x):
    return pickle.loads(pickle.dumps(m.sequence))(x)


def renamed(m, x):
    m.again = m.sequence
    m.table["c"] = m.list[0]
    x = m.again(m.table["c"](x))
    del m.table["c"], m.again
    return x


def appended(m, x):
    m.list.append(m.first)
    try:
        return m.list[0](x) + m.list[-1](x[:, :3])
    finally:
        m.list.pop(-1)


def walked(m, x):
    for name, layer in m.table.items():
        x = layer(x) if name in m.table else x
    return x * len(m.table) + sum(p.sum() for p in m.list.parameters())


FORWARDS = [
    sliced_list, sliced_sequence, concatenated, copied, pickled, renamed, appended, walked,
]  # fmt: skip


@pytest.mark.parametrize("run", FORWARDS, ids=lambda run: run.__name__)
def test_containers_and_copies(run):
    torch.manual_seed(0)
    model, x = Parts(run).eval(), torch.randn(1, 3, 12, 12)
    reference = copy.deepcopy(model)
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        for _ in range(2):
            # Three convolutions of at most 72 terms: their rounding errors, and 5 bits of slack.
            torch.testing.assert_close(fast(x), reference(x), rtol=1e-4, atol=1e-4)
    plans = [row.module for row in fast.report().rows if row.variant == "plan"]
    assert "first" in plans, fast.report()
    assert model.calls == 3  # the example's, and two
    types = {type(part) for part in model.modules()}
    assert types <= {Parts, nn.Conv2d, nn.ReLU, nn.ModuleList, nn.Sequential, nn.ModuleDict}


def test_a_forward_that_refuses_replaced_parts_is_left():
    """It compares classes; the original would not raise, nor be called twice for one call."""

    def strict(m, x):
        m.calls += 1
        m.seen.append(m.calls)
        m.state.add_(1)
        if type(m.first) is not nn.Conv2d:
            raise TypeError("no convolution")
        return x + m.state

    model, x = Parts(strict).eval(), torch.randn(1, 3, 8, 8)
    model.seen = []
    model.register_buffer("state", torch.zeros(1))
    reference = copy.deepcopy(model)
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        reference(x)
        for _ in range(2):
            assert torch.equal(fast(x), reference(x))
    assert (model.calls, model.seen) == (reference.calls, reference.seen)
    assert "raises TypeError: no convolution" in fast.report().rows[-1].reason


def test_an_exception_at_a_later_call_leaves_the_original():
    def strict(m, x):
        if x.shape[-1] > 8 and type(m.first) is not nn.Conv2d:
            raise TypeError("no convolution")
        return x

    model = Parts(strict).eval()
    fast = denoise_ext.accelerate(model, torch.randn(1, 3, 8, 8))
    x = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))
    assert "no convolution" in fast.report().rows[-1].reason and fast._shim is None
    with pytest.raises(RuntimeError, match="channels"):  # the original's own
        fast(torch.randn(1, 4, 8, 8))


@dataclass
class Result:
    image: Tensor
    more: tuple[Tensor, int]


class Dataclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3)

    def forward(self, x: Tensor) -> Result:
        return Result(self.first(x), (x.relu(), 3))


def test_a_dataclass_is_a_result():
    model, x = Dataclass().eval(), torch.randn(1, 3, 8, 8)
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        ours, theirs = fast(x), model(x)
    assert planned(fast) and type(ours) is Result and ours.more[1] == 3
    torch.testing.assert_close(ours.image, theirs.image, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.more[0], theirs.more[0])


def test_a_sequence_stays_one():
    net, x = small_net(), torch.randn(1, 3, 8, 8)
    fast = denoise_ext.accelerate(net, x)
    assert len(fast) == 6 and list(fast) == list(net) and fast[0] is net[0] and net[1] in fast
    assert type(fast[1:3]) is nn.Sequential and isinstance(fast, denoise_ext.engine.Accelerated)
    fast[1] = nn.Tanh()
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)
    assert bool(denoise_ext.accelerate(Dataclass()))  # has no length
    with pytest.raises(TypeError, match="len"):
        len(denoise_ext.accelerate(Dataclass()))
    assert len(copy.deepcopy(fast)) == len(pickle.loads(pickle.dumps(fast))) == 6


class CopiesInTraining(nn.Module):
    """As torchvision's feature extractors: a copy comes back in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3), nn.BatchNorm2d(8), nn.Dropout(0.5))

    def __deepcopy__(self, memo):
        other = CopiesInTraining()
        other.load_state_dict(self.state_dict())
        return other

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_the_reference_has_the_modes_of_the_model():
    model, x = CopiesInTraining().eval(), torch.randn(2, 3, 8, 8)
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert planned(fast), fast.report()


def test_memory_that_no_step_writes_is_found(monkeypatch):
    """Whatever lay in it before: memory is filled with NaN for the comparison."""
    with monkeypatch.context() as patch:
        patch.setattr(verify, "call_step", lambda step, env: None)
        # oneDNN's convolutions allocate their results.
        patch.setattr("denoise_ext.engine.fuse.onednn.CONVOLUTION", None)
        rows = denoise_ext.accelerate(small_net(), torch.randn(1, 3, 8, 8)).report().rows
    convolutions = [row for row in rows if "conv" in row.site]
    assert convolutions
    assert all(row.error is None and "off by inf" in row.reason for row in convolutions)
    right = _Workspace._bind
    with monkeypatch.context() as patch:  # plans without the last step
        last = lambda self, i, step, plan: (  # noqa: E731
            [] if step is plan.schedule.steps[-1] else right(self, i, step, plan)
        )
        patch.setattr(_Workspace, "_bind", last)
        fast = denoise_ext.accelerate(small_net(), torch.randn(1, 3, 8, 8))
    # Memory without a writer, or, where PyTorch allocates it, a result that does not exist.
    reason = fast.report().rows[-1].reason
    assert not planned(fast) and ("off by inf" in reason or "raises KeyError" in reason)


class Frozen(dict):
    """Refuses every change by its own methods, as diffusers' configurations do."""

    def refuse(self, *args, **kwargs):
        raise TypeError("this is frozen")

    __setitem__ = __delitem__ = update = clear = pop = refuse


def test_containers_are_restored_past_the_methods_of_their_classes():
    net = small_net()
    net.settings, net.order = Frozen(a=1), OrderedDict(b=1, a=2)
    net.last, net.seen, net.names = deque([1, 2]), {1}, [1]
    snapshot = Snapshot(net, [])
    dict.__setitem__(net.settings, "a", 2)
    net.order.move_to_end("b")
    net.last.append(3)
    net.seen.add(2)
    net.names.clear()
    snapshot.restore()
    assert net.settings == {"a": 1} and list(net.order) == ["b", "a"]
    assert (list(net.last), net.seen, net.names) == ([1, 2], {1}, [1])
