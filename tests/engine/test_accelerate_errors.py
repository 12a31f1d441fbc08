"""``accelerate``: how large an error is let through."""

from __future__ import annotations

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import planned, small_net
from winograd_bounds import matrices

import denoise_ext
from denoise_ext.engine.fuse import conv as conv_site
from denoise_ext.engine.fuse import verify
from denoise_ext.engine.run.plan import Plan

pytestmark = pytest.mark.usefixtures("ours_is_faster")


def test_one_wrong_pixel_is_found(monkeypatch):
    """Off by 1 % of the largest value, in the plan's result and in each site's."""

    def spoilt(result):
        result[..., -1, -1] += 0.01 * result.abs().max()
        return result

    def spoilt_leaves(self, tensors, spoil=False):
        return [spoilt(leaf) for leaf in right(self, tensors, spoil)]

    net, x = small_net(), torch.randn(1, 3, 64, 64)
    right = Plan.leaves
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "leaves", spoilt_leaves)
        fast = denoise_ext.accelerate(net, x)
        assert not planned(fast) and "is off by" in fast.report().rows[-1].reason
    right_step = verify._bound

    def bound(*args):
        call = right_step(*args)
        return lambda: [spoilt(result) for result in call()]

    monkeypatch.setattr(verify, "_bound", bound)
    rows = denoise_ext.accelerate(net, x).report().rows
    assert all(row.variant == "original" and "is off by" in row.reason for row in rows[:3])


def test_one_wrong_pixel_among_many_counts():
    y = torch.randn(1, 1, 512, 512, generator=torch.Generator().manual_seed(0))
    z = y.clone()
    z[0, 0, -1, -1] += 3
    bound = verify.whole_bound([1e-3] * 17)  # root mean square: 3 / 512 is less than that
    assert 3 / 512 < bound < verify.relative_error(z, y)
    assert verify.relative_error(y, y) == 0
    z[0, 0, 0, 0] = torch.nan
    assert verify.relative_error(z, y) == float("inf")


def test_the_amplification_of_winograd_is_that_of_its_points():
    for size in (2, 4, 6):
        a, g, b = matrices(size)
        sums = torch.einsum("ip,pu,p->iu", a.square(), g.square(), b.square().sum(1))
        expected = round(float(sums.max()), 1)
        assert conv_site._AMPLIFICATION[f"winograd{size}"] == expected
