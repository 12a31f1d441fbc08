"""``denoise_ext.accelerate``: results, state, gradients, sizes, threads, reports."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from engine_tools import is_site, planned, set_times, small_net, timed
from engine_tools import ours_is_faster as ours_is_faster
from torch import nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext import engine, models

pytestmark = pytest.mark.usefixtures("ours_is_faster")


class UNet(nn.Module):
    """Two levels, with pooling, both kinds of upsampling, concatenations and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect")
        self.up, self.join = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 16, 3, padding=1)
        self.last = nn.Conv2d(19, 3, 3, padding=1)

    def forward(self, x):
        a = F.relu(self.first(x))
        b = F.relu(self.down(F.max_pool2d(a, 2)))
        b = F.leaky_relu(self.deep(F.max_pool2d(b, 2)), 0.1)
        b = F.interpolate(b, scale_factor=2, mode="nearest")
        c = F.relu(self.join(torch.cat([a, self.up(b)], 1)))
        return x - self.last(torch.cat([c, x], 1))


NETS = {
    "plain": small_net,
    "u-net": lambda: UNet().eval(),
    "dncnn": lambda: models.create_model("dncnn_gray", depth=4, channels=3).eval(),
    "dncnn with batch norm": lambda: models.create_model(
        "dncnn_gray", depth=4, channels=3, batch_norm=True
    ).eval(),
}


def same(actual: torch.Tensor, expected: torch.Tensor, scale: float = 1.0) -> bool:
    # Four layers of sums of at most 9 * 32 terms, each off by 17 eps of its scale at most
    # (tests/support/bounds.py has the full bound): 2^8 eps is for the layers after it.
    eps = torch.finfo(torch.float32).eps
    return (actual.shape, actual.dtype) == (expected.shape, expected.dtype) and bool(
        (actual - expected).abs().max() <= 256 * scale * eps * max(1.0, expected.abs().max())
    )


@pytest.mark.parametrize("precision", ["strict", "default", "fast"])
@pytest.mark.parametrize("name", NETS)
def test_results_are_the_originals(name, precision, isa):
    net, x = NETS[name](), torch.randn(2, 3, 24, 20)
    fast = denoise_ext.accelerate(net, x, precision=precision)
    with torch.no_grad():
        for size in [(24, 20), (8, 8), (52, 8), (24, 20)]:
            x = torch.randn(1, 3, *size)
            # Winograd's errors are up to 79 (F4) and 114 (F6) times the direct sum's.
            assert same(fast(x), net(x), {"strict": 1, "default": 79, "fast": 114}[precision])
    assert planned(fast), fast.report()


def test_layout_and_gradient_of_results():
    net, x = small_net(), torch.randn(1, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    assert fast(x).is_contiguous() and not fast(x).requires_grad
    assert fast(x).stride() == net(x).stride()
    y = x.contiguous(memory_format=torch.channels_last)
    assert fast(y).stride() == net(y).stride()
    with torch.inference_mode():
        assert same(fast(x), net(x))
    assert same(fast(x), net(x).detach())


def test_plans_made_in_inference_mode_serve_outside_of_it():
    net, x = UNet().eval(), torch.randn(1, 3, 16, 16)
    fast = denoise_ext.accelerate(net)
    with torch.inference_mode():
        first = fast(x)
    again = fast(x)
    assert torch.equal(first, again) and not again.is_inference()
    assert planned(fast), fast.report()


def test_plans_without_examination():
    model = models.create_model("ffdnet_gray", depth=3).eval()
    x = torch.rand(1, 1, 21, 18)
    fast = engine.plan(model)
    with torch.no_grad():
        assert same(fast(x, 25), model(x, 25), 79)
    assert planned(fast) and "not examined" in str(fast.report())
    assert "not examined" not in str(copy.deepcopy(fast).report())


def test_inputs_that_require_grad_run_the_original():
    net, x = small_net(), torch.randn(1, 3, 12, 12, requires_grad=True)
    fast = denoise_ext.accelerate(net, x.detach())
    fast(x).sum().backward()
    ours, x.grad = x.grad, None
    net(x).sum().backward()
    assert torch.equal(ours, x.grad)
    with torch.no_grad():
        assert not fast(x).requires_grad


def test_training_runs_the_original_and_plans_follow_the_weights():
    net, x = small_net(), torch.randn(4, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    fast.train()
    assert net.training and fast.training and net[3].training
    optimiser = torch.optim.SGD(fast.parameters(), 0.1)
    mean = net[3].running_mean.clone()
    fast(x).square().mean().backward()
    optimiser.step()
    assert not torch.equal(mean, net[3].running_mean)  # the batch norm has seen a batch
    fast.eval()
    assert not net[3].training
    with torch.no_grad():
        assert same(fast(x), net(x))


def test_state_dict_is_the_originals():
    net, x = small_net(), torch.randn(1, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    assert list(fast.state_dict()) == list(net.state_dict())
    assert [n for n, _ in fast.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert [n for n, _ in fast.named_buffers()] == [n for n, _ in net.named_buffers()]
    other = small_net()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    fast.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert same(fast(x), other(x), 10)

    class Wrapper(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

    outer = Wrapper(fast)
    assert list(outer.state_dict()) == [f"inner.{key}" for key in net.state_dict()]
    outer.load_state_dict({f"inner.{k}": v for k, v in small_net().state_dict().items()})
    with torch.no_grad():
        assert same(fast(x), small_net()(x))
    assert len(list(outer.parameters())) == len(list(net.parameters()))


def test_changes_are_noticed():
    net, x = small_net(), torch.randn(1, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)

    def check() -> None:
        with torch.no_grad():
            assert same(fast(x), net(x), 10)

    with torch.no_grad():
        net[0].weight.mul_(2)
        check()
        net[3].running_mean.add_(1)
        check()
        net[2].weight = nn.Parameter(torch.randn(16, 16, 3, 3))
        check()
        net[5] = nn.Conv2d(16, 5, 1)
        check()
        net[1] = nn.Tanh()
        check()
        net[0].padding = (2, 2)
        check()
        net[0].weight.data.mul_(3)  # moves no version counter
        fast.refresh()
        check()
    net.double()
    x = x.double()
    check()
    net.float()
    x = x.float()
    net[0].register_forward_hook(lambda module, args, result: result * 2)
    check()


def test_attributes_pass_through():
    model = models.create_model("ffdnet_gray", depth=3).eval()
    fast = denoise_ext.accelerate(model)
    assert fast.needs_sigma and fast.config == model.config and fast.in_channels == 1
    fast.note = "kept"
    assert model.note == "kept"
    del fast.note
    assert not hasattr(model, "note") and not hasattr(fast, "note")
    assert "Conv2d" in repr(fast) and len(list(fast.children())) == len(list(model.children()))


def test_sigma_of_our_models():
    model = models.create_model("ffdnet_gray", depth=3).eval()
    x = torch.rand(2, 1, 17, 12)
    fast = denoise_ext.accelerate(model, (x, 25.0))
    maps = torch.rand(2, 1, 17, 12) * 50
    with torch.no_grad():
        for sigma in (0, 25.0, 40, torch.tensor([10.0, 20.0]), maps):
            assert same(fast(x, sigma), model(x, sigma), 79)
        assert fast(x[:0], 25).shape == (0, 1, 17, 12)
    with pytest.raises(ValueError, match="sigma"):
        fast(x, -1)
    with pytest.raises(ValueError, match="sigma"):
        fast(x)


def test_copies_and_pickles():
    net, x = small_net(), torch.randn(1, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x, precision="strict")
    stored = io.BytesIO()
    torch.save(fast, stored)
    stored.seek(0)
    copies = [
        copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)),
        torch.load(stored, weights_only=False),
    ]  # fmt: skip
    with torch.no_grad():
        net[0].weight.zero_()
        expected = small_net()(x)
        for other in copies:
            assert same(other(x), expected) and "strict" in repr(other)
            assert planned(other)


def test_hooks_on_the_result_run():
    net, x = small_net(), torch.randn(1, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    calls = []
    handle = fast.register_forward_hook(lambda module, args, result: calls.append(result.shape))
    fast(x)
    handle.remove()
    fast(x)
    assert calls == [x.shape]


def test_where_the_original_runs():
    net, x = small_net(), torch.randn(2, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast(x), net(x)) and fast(x).dtype == torch.bfloat16
        batched = torch.func.vmap(fast)(x[:, None])
        assert torch.allclose(batched[:, 0], net(x), atol=1e-5)
        assert same(
            fast(x.as_subclass(type("Sub", (torch.Tensor,), {}))).as_subclass(torch.Tensor), net(x)
        )


def test_many_sizes_keep_few_plans():
    net = small_net()
    fast = denoise_ext.accelerate(net, torch.randn(1, 3, 12, 12))
    region = fast._shim._engine_state.regions["forward"]
    with torch.no_grad():
        for size in [*range(4, 30), 4, 5]:
            x = torch.randn(1, 3, size, 8)
            assert same(fast(x), net(x))
            assert len(region._entries) <= 8


def test_threads():
    net = UNet().eval()
    inputs = [torch.randn(1, 3, 16, 8 * (i % 3 + 1)) for i in range(12)]
    with torch.no_grad():
        expected = [net(x) for x in inputs]
    fast = denoise_ext.accelerate(net)  # the threads race for the first call

    def work(i: int) -> bool:
        with torch.no_grad():
            return all(same(fast(inputs[i]), expected[i], 79) for _ in range(10))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(12)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_storage(dtype):
    net, x = small_net(), torch.randn(1, 3, 20, 20)
    fast = denoise_ext.accelerate(net, x, dtype=dtype)
    with torch.no_grad():
        actual, expected = fast(x), net(x)
    assert planned(fast), fast.report()
    assert actual.dtype == torch.float32
    error = (actual - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 0 < error < 8 * torch.finfo(dtype).eps  # of 4 roundings, by batch norm up to doubled


def test_examples():
    model = models.create_model("ffdnet_gray", depth=3).eval()
    x = torch.rand(1, 1, 8, 8)
    for example in [(x, 25), {"x": x, "sigma": 25}]:
        assert planned(denoise_ext.accelerate(model, example))
    assert planned(denoise_ext.accelerate(small_net(), torch.randn(1, 3, 8, 8)))
    assert "nothing decided yet" in str(denoise_ext.accelerate(small_net()).report())
    again = denoise_ext.accelerate(denoise_ext.accelerate(small_net()))
    assert list(again.state_dict()) == list(small_net().state_dict())


def test_bad_arguments():
    with pytest.raises(TypeError, match="model must be"):
        denoise_ext.accelerate(lambda x: x)
    with pytest.raises(ValueError, match=r"precision.*one of"):
        denoise_ext.accelerate(small_net(), precision="high")
    with pytest.raises(ValueError, match="dtype must be"):
        denoise_ext.accelerate(small_net(), dtype=torch.float64)
    with pytest.raises(RuntimeError, match="channels"):
        denoise_ext.accelerate(small_net(), torch.randn(1, 4, 8, 8))


# --- decisions ------------------------------------------------------------------------------------


def test_a_wrong_site_is_left(monkeypatch):
    from denoise_ext.engine.fuse.conv import ConvSite

    right = ConvSite.folded

    def wrong(self, constants):
        weight, bias = right(self, constants)
        return (weight * 1.001, bias) if self.input.shape[1] == 3 else (weight, bias)

    monkeypatch.setattr(ConvSite, "folded", wrong)
    net, x = small_net(), torch.randn(1, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    with torch.no_grad():
        assert same(fast(x), net(x))
    rows = {row.module: row for row in fast.report().rows}
    assert rows["0"].variant == "original" and "is off by" in rows["0"].reason
    assert rows["2"].variant != "original" and planned(fast)


def test_a_slower_site_and_a_slower_whole_are_left(monkeypatch):
    net, x = small_net(), torch.randn(1, 3, 12, 12)
    set_times(monkeypatch, lambda c: [1.0, 2.0] if is_site(c) else timed(1.0, 2.0, c))
    fast = denoise_ext.accelerate(net, x)
    assert all(row.variant != "plan" for row in fast.report().rows)
    assert "direct is not faster" in str(
        denoise_ext.accelerate(net, x, precision="strict").report()
    )
    # Sites are faster; the whole is not, in either layout, nor are parts.
    set_times(monkeypatch, lambda c: [2.0, 1.0] if is_site(c) else timed(1.0, 2.0, c))
    fast = denoise_ext.accelerate(net, x, precision="strict")
    rows = {row.module: row for row in fast.report().rows if row.variant == "original"}
    assert "the plan is not faster" in rows[""].reason and rows["0"].reason == rows[""].reason
    assert torch.equal(fast(x), net(x))


def test_the_report_reads_as_a_table():
    fast = denoise_ext.accelerate(UNet().eval(), torch.randn(1, 3, 16, 16))
    text = str(fast.report())
    lines = text.splitlines()
    assert lines[0].split()[:4] == ["module", "site", "variant", "error"]
    assert "conv2d 3x3 3->16 + relu" in text and "reflect" in text and "residual" in text
    for row in fast.report().rows:
        assert row.error is None or row.error <= row.bound
