"""Traces hold the operators that PyTorch calls on the CPU, not those for tensors without data."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of, planned
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.capture.trace import trace

CL = torch.channels_last


def operators(module: nn.Module, *args: Tensor, **options) -> list[str]:
    graph = trace(module.eval(), "forward", args, {}, None, True, **options)[0]
    return [node.op._schema.name.removeprefix("aten::") for node in graph.nodes]


class Calls(nn.Module):
    """Calls a function of tensors."""

    def __init__(self, function) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 8, 1)  # something to replace
        self.function = function

    def forward(self, *args: Tensor):
        return self.function(self, *args)


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_stays_in_channels_last(affine):
    norm = nn.GroupNorm(4, 8, affine=affine)
    assert operators(norm, torch.randn(2, 8, 6, 5)) == ["native_group_norm"]
    graph = trace(norm.eval(), "forward", (torch.randn(2, 8, 6, 5),), {}, None, True)[0]
    x = torch.randn(2, 8, 6, 5).contiguous(memory_format=CL)
    assert graph.outputs[0].stride == norm(x).stride()
    torch.testing.assert_close(plan_of(norm, x).run([x]), norm(x))


def test_group_norm_of_some_channels():
    """The operator refuses channels of a larger tensor: PyTorch copies them first."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x[:, 8:])

    x = torch.randn(2, 16, 6, 5).contiguous(memory_format=torch.channels_last)
    assert operators(Half(), x)[-2:] == ["clone", "native_group_norm"]
    assert operators(Half(), x[:, :, 1:4])[-2:] == ["clone", "native_group_norm"]


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 5), (2, 8, 3, 4, 5)])
def test_group_norm_of_other_ranks(shape):
    norm, x = nn.GroupNorm(4, 8), torch.randn(shape)
    assert operators(norm, x)[-1] == "native_group_norm"
    torch.testing.assert_close(plan_of(norm, x).run([x]), norm(x))


def test_an_error_of_group_norm_is_pytorch_s():
    wrong = Calls(lambda self, x: F.group_norm(x, 3))
    fast = denoise_ext.accelerate(wrong.eval())
    with pytest.raises(RuntimeError, match="divisible"):
        fast(torch.randn(1, 8, 4, 4))


def attend(self: nn.Module, x: Tensor, **options) -> Tensor:
    heads = self.body(x).unflatten(1, (2, 4)).flatten(3).transpose(2, 3)
    q, k, v = (heads * factor for factor in (1, 2, 3))
    return F.scaled_dot_product_attention(q, k, v, **options)


MASK = torch.rand(30, 30, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": MASK}, {"attn_mask": MASK > 0}],
)  # fmt: skip
def test_attention_is_one_operator(options, ours_is_faster):
    options = dict(options)

    def call(self: nn.Module, x: Tensor) -> Tensor:
        masked = {} if self.mask is None else {"attn_mask": self.mask}
        return attend(self, x, **{**options, **masked})

    net = Calls(call).eval()
    net.register_buffer("mask", options.pop("attn_mask", None))
    x = torch.randn(1, 1, 6, 5)
    names = operators(net, x)
    assert sum("flash_attention" in name for name in names) == 1
    assert not any("softmax" in name for name in names)
    fast = denoise_ext.accelerate(net, x)
    assert planned(fast), fast.report()
    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(1, 1, 6, 5)
            torch.testing.assert_close(fast(x), net(x), rtol=1e-5, atol=1e-6)


def test_attention_that_is_not_fused_is_written_out():
    """Of three dimensions; with dropout it is random and not planned at all."""
    flat = Calls(lambda self, x: F.scaled_dot_product_attention(*[x.flatten(2)] * 3))
    assert not any("flash" in name for name in operators(flat, torch.randn(1, 8, 4, 4)))
    with pytest.raises(denoise_ext.engine.capture.constants.NotPlannedError, match="random"):
        operators(Calls(lambda self, x: attend(self, x, dropout_p=0.5)), torch.randn(1, 1, 4, 4))


class WritesChannels(nn.Module):
    """A convolution of some channels, as in PLKSR."""

    def __init__(self, first: int, end: int | None, step: int = 1) -> None:
        super().__init__()
        self.first, self.end, self.step = first, end, step
        self.before = nn.Conv2d(3, 16, 3, padding=1)
        part = len(range(16)[first:end:step])
        self.part, self.after = nn.Conv2d(part, part, 3, padding=1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        at = slice(self.first, self.end, self.step)
        x[:, at] = self.part(x[:, at])
        return self.after(x)


@pytest.mark.parametrize("at", [(0, 4), (4, 12), (12, None), (-4, None), (0, None), (0, None, 2)])
def test_written_channels_are_a_concatenation(at, ours_is_faster):
    net, x = WritesChannels(*at).eval(), torch.randn(2, 3, 12, 10)
    names = operators(net, x)
    if len(at) == 2:
        assert "slice_scatter" not in names and "copy" not in names
    fast = denoise_ext.accelerate(net, x)
    assert planned(fast), fast.report()
    with torch.no_grad():
        for y in (x, torch.randn(1, 3, 9, 17)):
            exact = copy.deepcopy(net).double()(y.double())
            assert float((fast(y) - exact).abs().max()) < 1e-4


def test_a_written_channel_that_is_broadcast_stays(ours_is_faster):
    def write(self: nn.Module, x: Tensor) -> Tensor:
        y = self.body(x)
        y[:, 2:4] = x
        return y * 2

    net, x = Calls(write).eval(), torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(denoise_ext.accelerate(net, x)(x), net(x))


@pytest.mark.parametrize("turned", [False, True])
def test_a_copy_keeps_the_layout_that_views_of_it_have(turned, ours_is_faster):
    """What is copied is in channels_last, the copy is not: its pixels are a row of memory."""

    def write(self: nn.Module, x: Tensor) -> Tensor:
        y = torch.empty(x.shape[0], 8, *x.shape[2:])
        y.copy_(self.body(x))
        return y.permute(0, 2, 3, 1).exp() if turned else y.view(x.shape[0], -1).cumsum(1)

    net, x = Calls(write).eval(), torch.randn(2, 1, 6, 5)
    fast = denoise_ext.accelerate(net, x)
    assert planned(fast), fast.report()
    with torch.no_grad():
        for y in (x, torch.randn(1, 1, 9, 4)):
            torch.testing.assert_close(fast(y), net(y), rtol=1e-4, atol=1e-5)


class Transformer(nn.Module):
    """Its second convolution reads what was not in channels_last before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bias = nn.Parameter(torch.randn(1, 8, 4, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x).flatten(2).softmax(2).unflatten(2, x.shape[2:]).contiguous()
        return F.avg_pool2d(self.second(x), 3, 1, 1).sigmoid(), self.bias


def test_weights_are_laid_out_as_the_plan_reads_them(ours_is_faster):
    net, x = Transformer().eval(), torch.randn(1, 3, 4, 6)
    graph = trace(net, "forward", (x,), {}, None, True, weights_last=True)[0]
    last = next(n for n in reversed(graph.nodes) if n.op is torch.ops.aten.convolution.default)
    assert last.first.stride == (192, 1, 48, 8)
    before = {name: p.stride() for name, p in net.named_parameters()}
    fast = denoise_ext.accelerate(net, x)
    assert planned(fast)
    ours, bias = fast(x)
    torch.testing.assert_close(ours, net(x)[0], rtol=1e-4, atol=1e-5)
    assert bias.data_ptr() == net.bias.data_ptr() and bias.stride() == net.bias.stride()
    assert {name: p.stride() for name, p in net.named_parameters()} == before
    with torch.no_grad():
        net.second.weight.mul_(2)  # is noticed in the copy, too
    torch.testing.assert_close(fast(x)[0], net(x)[0], rtol=1e-4, atol=1e-5)
