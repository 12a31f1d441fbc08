"""``accelerate`` on odd models: equal or left alone, never wrong."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import strides_that_matter
from odd_models import (
    ODD,
    Body,
    clone,
    counts,
    depends_on_numbers,
    dropout_always,
    norm_in_training,
)
from odder_models import (
    ODDER,
    Frozen,
    Plugin,
    Registered,
    autocast_inside,
    cached,
    cached_in_a_dict,
    gradient_step,
    keeps_results,
)
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import denoise_ext
from denoise_ext import engine


def assert_same(actual, expected) -> None:
    a, spec = pytree.tree_flatten(opened(actual))
    e, expected_spec = pytree.tree_flatten(opened(expected))
    assert spec == expected_spec
    for x, y in zip(a, e, strict=True):
        if not isinstance(y, torch.Tensor):
            assert x == y
            continue
        assert (x.shape, x.dtype, x.device) == (y.shape, y.dtype, y.device)
        assert strides_that_matter(x) == strides_that_matter(y)
        if y.is_floating_point() or y.is_complex():
            # A few convolutions of 27 terms: their rounding errors, and 8 bits of slack.
            eps = torch.finfo(y.dtype).eps
            assert (x - y).abs().max() <= 256 * eps * max(1.0, y.abs().max()) if y.numel() else True
        else:
            # uint8: a float that rounds the other way
            assert (x.double() - y.double()).abs().max() <= 1


def opened(result):
    if dataclasses.is_dataclass(result):
        return vars(result)
    if isinstance(result, OrderedDict):
        return dict(result)
    return list(result) if isinstance(result, Iterator) else result


def planned(model) -> str:
    rows = model.report().rows
    plans = [row.module for row in rows if row.variant == "plan"]
    return "all" if "" in plans else ("parts" if plans else "nothing")


ALL = ODD | ODDER


@pytest.mark.parametrize("name", ALL)
def test_odd_models(name, ours_is_faster):
    torch.manual_seed(1)
    odd = ALL[name]
    model = odd.build()
    if name != "batch norm in training":
        model.eval()
    args, kwargs = odd.inputs(), odd.keywords()
    reference = copy.deepcopy(model)  # some forwards change the module
    fast = denoise_ext.accelerate(model)
    with torch.no_grad():
        for _ in range(3):
            expected = reference(*clone(args), **clone(kwargs))
            mine = clone(args)
            assert_same(fast(*mine, **clone(kwargs)), expected)
            if name == "changes its argument":
                assert_same(mine[0], args[0] * 0.5)
    assert planned(fast) == odd.planned, fast.report()
    assert_same(model.state_dict(), reference.state_dict())


def test_a_model_that_counts_is_counted_once_per_call(ours_is_faster):
    model = Body(counts).eval()
    fast = denoise_ext.accelerate(model)
    with torch.no_grad():
        for turn in range(3):
            fast(torch.randn(1, 3, 8, 8))
            assert model.count == turn + 1
    assert "writes to count" in str(fast.report())


def test_random_numbers_go_on_as_without_the_engine(ours_is_faster):
    model = Body(dropout_always).eval()
    x = torch.randn(1, 3, 8, 8)
    fast = denoise_ext.accelerate(model)
    with torch.no_grad():
        torch.manual_seed(5)
        expected = [model(x) for _ in range(3)]
        torch.manual_seed(5)
        assert_same([fast(x) for _ in range(3)], expected)
    assert planned(fast) == "parts"


def test_the_first_result_is_the_originals_where_the_parts_are_refused(ours_is_faster, monkeypatch):
    model, x = Body(depends_on_numbers).eval(), torch.randn(1, 3, 8, 8)
    right = Body.forward
    # Of the model itself and of copies right, but not where the engine runs it on planned parts.
    monkeypatch.setattr(Body, "forward", lambda self, x: right(self, x) + (type(self) is not Body))
    fast = denoise_ext.accelerate(model)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(fast(x), expected) and torch.equal(fast(x), expected)
    assert fast.report().rows[-1].variant == "original"
    assert "is off by" in fast.report().rows[-1].reason


def test_a_model_that_cannot_be_copied_is_left(ours_is_faster):
    model, x = Body(gradient_step).eval(), torch.randn(1, 3, 8, 8)
    model.lock = threading.Lock()
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))
    assert planned(fast) == "nothing" and "cannot be copied" in fast.report().rows[-1].reason


def test_gradients_in_a_branch_that_the_example_did_not_take(ours_is_faster):
    model = Body(lambda m, x: gradient_step(m, x) if x.mean() < 0 else m.b(m.a(x))).eval()
    x = torch.rand(1, 3, 8, 8)
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        assert_same(fast(-x), model(-x))
    assert planned(fast) == "parts"


def test_autocast_without_examination():
    model, x = Body(autocast_inside).eval(), torch.randn(1, 3, 8, 8)
    fast = engine.plan(model)
    with torch.no_grad():
        assert_same(fast(x), model(x))
    assert "turns on autocast" in str(fast.report())


@pytest.mark.parametrize("whole", [True, False], ids=["model", "part"])
def test_in_training_mode_the_example_changes_nothing(whole):
    model = norm_in_training().train(whole)
    model[1].train()
    before = copy.deepcopy(model.state_dict())
    fast = denoise_ext.accelerate(model, torch.randn(2, 3, 8, 8))
    assert_same(fast.state_dict(), before)


def test_the_users_caches_hold_real_tensors(ours_is_faster):
    x = torch.randn(1, 3, 12, 20)
    for name, run in (("cached", cached), ("a dict", cached_in_a_dict), ("kept", keeps_results)):
        model = Body(run).eval()
        fast = denoise_ext.accelerate(model, x)
        with torch.no_grad():
            assert_same(fast(x), model(x))  # which met what planning left behind
        assert planned(fast) == "parts", name
    assert "keeps tensors outside" in str(fast.report())


@pytest.mark.parametrize(
    "ask", [lambda x: x.device.type == "cpu", lambda x: x.type() == "torch.FloatTensor"]
)
def test_every_size_is_held_against_the_original(ours_is_faster, ask):
    model = Body(lambda m, x: m.a(x) * (2 if x.shape[-1] > 8 and not ask(x) else 1)).eval()
    fast = denoise_ext.accelerate(model, torch.randn(1, 3, 8, 8))
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert_same(fast(x), model(x))
    assert planned(fast) == "all" and "is off by" in fast.report().rows[-1].reason


def test_no_class_is_registered_for_the_engine(ours_is_faster):
    before = set(Registered.names)
    assert planned(denoise_ext.accelerate(Plugin().eval(), torch.randn(1, 3, 8, 8))) == "all"
    assert Registered.names == before


def test_a_number_that_varies_makes_few_plans(ours_is_faster):
    model = Body(lambda m, x, sigma: m.a(x) * sigma + m.b(x)).eval()
    x = torch.randn(1, 3, 8, 8)
    fast = denoise_ext.accelerate(model, (x, 0.0))
    region = fast._shim._engine_state.regions["forward"]
    with torch.no_grad():
        for sigma in (-0.0, 1.0, 2, 2.5, 3.0, 1.0, 3.5, 4.0):
            assert_same(fast(x, sigma), model(x, sigma))
    assert len(region._entries) == 5  # of four floats, and one int


@pytest.mark.parametrize(
    ("value", "change", "read"),
    [
        (SimpleNamespace(n=1), lambda v: vars(v).update(n=5), lambda v: v.n),
        ({"single": 1}, lambda v: v.update(double=v.pop("single")), lambda v: 1 + ("double" in v)),
        ({1}, lambda v: v.add(2), len),
        (np.ones(3), lambda v: v.fill(2), lambda v: float(v[0])),
        (Frozen(Fraction(1), {"a": 1.0}), lambda v: v.gains.update(a=5.0), lambda v: v.gains["a"]),
        ([{"n": [1]}], lambda v: v[0]["n"].append(1), lambda v: len(v[0]["n"])),
    ],
    ids=["object", "dict", "set", "array", "frozen", "nest"],
)
def test_changed_attributes_are_noticed(ours_is_faster, value, change, read):
    model, x = Body(lambda m, x: m.a(x) * read(m.value)).eval(), torch.randn(1, 3, 8, 8)
    model.value = value
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        assert_same(fast(x), model(x))
        change(value)
        assert_same(fast(x), model(x))


@pytest.mark.parametrize("by", ["size", "scale_factor"])
def test_nearest_upsampling_is_pytorchs(by):
    """Whose first pixels of a block come from the block before, for some factors."""
    for factor in (2, 3, 40, 41, 47, 55, 61):
        to = {"size": (3 * factor, 2 * factor), "scale_factor": factor}[by]
        model = Body(lambda m, x, to=to: F.interpolate(m.a(x), **{by: to})).eval()
        x = torch.randn(1, 3, 3, 2)
        fast = engine.plan(model)
        with torch.no_grad():
            assert_same(fast(x), model(x))
        assert planned(fast) == "all"
