"""``accelerate`` on twelve small networks, shaped like published ones: what is decided for each."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import set_times, timed
from network_families import FAMILIES
from torch.utils import _pytree as pytree

import denoise_ext
from denoise_ext.engine.fuse import verify


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """[original, ours] in milliseconds, of sites and of plans; planning takes no time.

    Plans of PyTorch's own operators are slower than the original.
    """
    times = {"site": [2.0, 1.0], "plan": [2.0, 1.0]}

    def interleaved(calls) -> list[float]:
        if calls[0].__module__ == verify.__name__:
            return times["site"]
        no_site = times["site"][0] < times["site"][1]
        return [1.0, 2.0] if no_site else timed(*times["plan"], calls)

    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")
    set_times(monkeypatch, interleaved)
    monkeypatch.setattr(verify, "clock", lambda: 0.0)
    return times


def made(name: str):
    torch.manual_seed(0)
    family = FAMILIES[name]
    model = family.build().eval()
    return family, model, copy.deepcopy(model)


def leaves(result) -> list[torch.Tensor]:
    result = getattr(result, "sample", result)
    return [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]


def check(fast, exact, shape) -> None:
    """Against the original in float64, within a few times the original's own error in float32."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, plain = leaves(fast(x)), leaves(exact(x))
        reference = leaves(copy.deepcopy(exact).double()(x.double()))
    for a, b, e in zip(ours, plain, reference, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        # F(4x4, 3x3) has 19 times the rounding error of the direct sum (engine/fuse/conv.py).
        scale = max(1.0, float(e.abs().max()))
        allowed = 40 * float((b - e).abs().max()) + 1e-5 * scale
        assert float((a - e).abs().max()) <= allowed


@pytest.mark.parametrize("name", FAMILIES)
def test_every_site_is_faster(name):
    family, model, exact = made(name)
    fast = denoise_ext.accelerate(model, torch.rand(family.shape))
    check(fast, exact, family.shape)
    check(fast, exact, (2, *family.shape[1:-1], 16))  # a new size
    rows = fast.report().rows
    plans = [row.module for row in rows if row.variant == "plan"]
    kind = "whole" if "" in plans else ("parts" if plans else "original")
    assert kind == family.planned, fast.report()
    sites = [row for row in rows if "conv" in row.site]
    replaced = [row for row in sites if row.variant not in ("original", "left out")]
    assert len(replaced) == family.convolutions
    assert not any(row.variant == "original" for row in sites)


@pytest.mark.rotates()
@pytest.mark.parametrize("name", FAMILIES)
def test_no_plan_is_faster(name, clock):
    """Sites are faster one by one, but neither the whole nor any part as a plan."""
    check_left_as_it_is(name, clock, "plan")


@pytest.mark.parametrize("name", FAMILIES)
def test_no_site_is_faster(name, clock):
    check_left_as_it_is(name, clock, "site")


def check_left_as_it_is(name, clock, slower: str) -> None:
    clock[slower] = [1.0, 2.0]
    family, model, exact = made(name)
    fast = denoise_ext.accelerate(model, torch.rand(family.shape))
    assert all(row.variant != "plan" for row in fast.report().rows) and fast._shim is None
    x = torch.rand(family.shape)
    with torch.no_grad():
        for a, b in zip(leaves(fast(x)), leaves(exact(x)), strict=True):
            assert torch.equal(a, b)
