"""``accelerate``: images between the planned parts of a model that runs its own forward."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import strides_that_matter
from torch import Tensor, nn

import denoise_ext

pytestmark = pytest.mark.usefixtures("ours_is_faster")
LAST = torch.channels_last


@pytest.fixture(autouse=True)
def nothing_on_disk(monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")


class Parts(nn.Module):
    """Its forward writes to an attribute: it runs itself, on parts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.second = nn.Conv2d(8, 4, 3, padding=1)
        self.between: Tensor | None = None
        self.calls = 0

    def forward(self, x: Tensor):
        self.calls += 1
        y = self.first(x)
        self.between = y
        return self.result(self.second(self.middle(y)))

    def middle(self, y: Tensor) -> Tensor:
        return y * 0.5

    def result(self, y: Tensor):
        return y


class Viewed(Parts):
    """PyTorch refuses its view of images in channels_last."""

    def middle(self, y: Tensor) -> Tensor:
        return (y.view(len(y), -1) * 0.5).view(y.shape)


class ViewedIfLarge(Viewed):
    def middle(self, y: Tensor) -> Tensor:
        return super().middle(y) if y.shape[-1] > 16 else y * 0.5


@dataclass
class Found:
    image: Tensor
    mean: Tensor


class Nested(Parts):
    def result(self, y: Tensor):
        return Found(y, y.mean((2, 3))), [y[:, :2]]


class Known:
    """A result of a class that cannot be looked into."""

    def __init__(self, image: Tensor) -> None:
        self.image = image


class Hidden(Parts):
    def result(self, y: Tensor):
        return y, Known(y)


def is_planned(fast) -> bool:
    return fast._shim is not None and fast.report().rows[-1].variant == "its parts' plans"


def check(fast, model, x: Tensor) -> None:
    with torch.no_grad():
        ours, theirs = fast(x), model(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert strides_that_matter(ours) == strides_that_matter(theirs)


def test_parts_pass_images_on_in_channels_last():
    model, x = Parts().eval(), torch.randn(1, 3, 12, 16)
    fast = denoise_ext.accelerate(model, x)
    assert is_planned(fast)
    for y in (x, torch.randn(2, 3, 9, 7)):
        for _ in range(3):
            check(fast, model, y)
        with torch.no_grad():
            fast(y)
        assert model.between.is_contiguous(memory_format=LAST)
        assert not model.between.is_contiguous()
    check(fast, model, x.contiguous(memory_format=LAST))


def test_a_view_that_needs_the_original_s_layout():
    model, x = Viewed().eval(), torch.randn(1, 3, 12, 16)
    fast = denoise_ext.accelerate(model, x)
    assert is_planned(fast) and not any("raises" in r.reason for r in fast.report().rows)
    check(fast, model, x)
    with torch.no_grad():
        fast(x)
    assert model.between.is_contiguous()


def test_a_view_at_another_size():
    """That call is the original's; the next one decides anew."""
    model, small, large = ViewedIfLarge().eval(), torch.randn(1, 3, 8, 8), torch.randn(1, 3, 20, 24)
    fast = denoise_ext.accelerate(model, small)
    assert is_planned(fast)
    for x in (small, large, large, large, small):
        check(fast, model, x)
    assert is_planned(fast) and model.between.is_contiguous()


def test_nested_results_are_contiguous():
    model, x = Nested().eval(), torch.randn(1, 3, 12, 16)
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        (found, (part,)), (wanted, (wanted_part,)) = fast(x), model(x)
        fast(x)
    assert is_planned(fast)
    for ours, theirs in zip(
        (found.image, found.mean, part), (wanted.image, wanted.mean, wanted_part), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert strides_that_matter(ours) == strides_that_matter(theirs)


@pytest.mark.parametrize("kind", ["hidden", "given in channels_last", "weights in channels_last"])
def test_layouts_stay_where_results_might_show_them(kind):
    model = (Hidden if kind == "hidden" else Parts)().eval()
    x = torch.randn(1, 3, 12, 16)
    if kind == "given in channels_last":
        x = x.contiguous(memory_format=LAST)
    if kind == "weights in channels_last":
        model = model.to(memory_format=LAST)
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        theirs, wanted = model(x), model.between.stride()
        ours = fast(x)
    assert model.between.stride() == wanted
    if kind != "hidden":
        assert is_planned(fast) and strides_that_matter(ours) == strides_that_matter(theirs)
