"""Tiles: every pixel once, and the same numbers as from the whole image."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from zoo import FAMILIES, family, tiny

from denoise_ext._loader import native_error
from denoise_ext.analysis.geometry import describe, without_data
from denoise_ext.nn import to_torch
from denoise_ext.runtime import memory, tile_planner
from denoise_ext.runtime.session import Session
from denoise_ext.runtime.tiling import Rule, grid, spans, window_for
from denoise_ext.tasks import Denoiser

needs_native = pytest.mark.skipif(native_error() is not None, reason="native library missing")
RNG = np.random.default_rng(5)
GRAY = [name for name in FAMILIES if "gray" in name]
# wide enough for Winograd's algorithm
WIDE = {
    "dncnn": {"width": 16}, "ffdnet": {"width": 16}, "deconvnet": {"width": 16},
    "dxnet": {"widths": [16, 16]},
}  # fmt: skip


def image_for(model, height: int, width: int) -> np.ndarray:
    shape = (height, width) if model.in_channels == 1 else (height, width, 3)
    return RNG.random(shape, dtype=np.float32)


def exactly(model, image: np.ndarray) -> np.ndarray:
    """The network's result in float64, by PyTorch's own convolutions."""
    x = torch.from_numpy(image).double()
    x = x[None, None] if x.dim() == 2 else x.permute(2, 0, 1)[None]
    with torch.inference_mode():
        y = to_torch(model).double()(x, 25.0 if model.needs_sigma else None)[0]
    return (y[0] if image.ndim == 2 else y.permute(1, 2, 0)).numpy()


# --- the plan ------------------------------------------------------------------------------------


def test_every_pixel_is_kept_once_and_has_what_it_depends_on():
    random = np.random.default_rng(0)
    cut = 0
    for _ in range(4000):
        size, most = (int(x) for x in random.integers(1, 300, 2))
        tiles = Rule(int(random.integers(0, 30)), int(random.choice([1, 2, 4, 8, 24])))
        if most < size and most < tiles.smallest:
            with pytest.raises(ValueError, match=f"tile of {most} pixels.*makes {tiles.smallest}"):
                spans(size, most, tiles)
            continue
        windows = spans(size, most, tiles)
        cut += len(windows) > 1
        assert windows[0].first == 0 and windows[-1].last == size
        assert all(a.last == b.first for a, b in pairwise(windows))
        assert len({w.stop - w.start for w in windows}) == 1
        for w in windows:
            assert 0 <= w.start <= w.first < w.last <= w.stop <= size
            assert w.start % tiles.alignment == 0 and w.stop - w.start <= max(most, 1)
            assert w.start == 0 or w.first - w.start >= tiles.radius
            assert w.stop == size or w.stop - w.last >= tiles.radius
    assert cut > 1000


def test_windows_fill_the_memory_and_no_more():
    for height, width, pixels in ((100, 100, 2500), (30, 4000, 9000), (4000, 3, 99), (7, 7, 1e9)):
        rows, columns = window_for(height, width, pixels)
        assert rows * columns <= pixels and rows <= height and columns <= width
        assert (rows + 1) * (columns + 1) > min(pixels, height * width)
    tiles = list(grid(50, 70, (40, 40), Rule(3, 4)))
    seen = np.zeros((50, 70), int)
    for tile in tiles:
        rows, columns = tile.rows, tile.columns
        seen[rows.first : rows.last, columns.first : columns.last] += 1
    assert (seen == 1).all() and len(tiles) == len(grid(50, 70, (40, 40), Rule(3, 4))) == 4


# --- equality ------------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("name", FAMILIES)
def test_tiles_equal_the_whole_bit_for_bit(name):
    model = tiny(name)
    geometry = describe(model)
    if geometry.global_operations:
        return refuses_tiles(model)
    side = 2 * geometry.radius + 2 * geometry.stride + 1
    image = image_for(model, 2 * side + 5, side + 2 * geometry.stride + 3)
    options = {"sigma": 25.0, "precision": "strict"}
    whole = Denoiser(model, tile=None, **options).run(image)
    tiled = Denoiser(model, tile=side, **options).run(image)
    assert whole.tiles == 1 and tiled.tiles >= 6
    np.testing.assert_array_equal(tiled.image, whole.image)


@needs_native
def test_less_overlap_would_be_seen(monkeypatch):
    model = tiny("dncnn_gray")
    image = image_for(model, 31, 17)
    options = {"sigma": 25.0, "precision": "strict"}
    monkeypatch.setattr(Session, "tile_rule", Rule(describe(model).radius - 1, 1))
    whole = Denoiser(model, tile=None, **options)(image)
    assert (Denoiser(model, tile=9, **options)(image) != whole).any()


def refuses_tiles(model) -> None:
    image = image_for(model, 40, 50)
    for options, argument in (
        ({"tile": 32}, "tile"),
        ({"max_memory": 2000}, "max_memory of 2 KiB"),
    ):
        expected = rf"{argument}.*\d+ more.*`denoise-ext models`"
        with pytest.raises(ValueError, match=expected) as refused:
            Denoiser(model, **options)(image)
        assert "50 x 40" in str(refused.value) and "\n" not in str(refused.value)
    assert Denoiser(model).run(image).tiles == 1


@needs_native
@pytest.mark.parametrize("name", [name for name in GRAY if family(name) in WIDE])
def test_winograd_rounds_tiles_no_worse_than_the_whole(name):
    model = tiny(name, **WIDE[family(name)])
    geometry = describe(model)
    side = 2 * geometry.radius + 8 * geometry.stride + 1
    image = image_for(model, 2 * side + 5, side + 4 * geometry.stride + 3)
    whole = Denoiser(model, sigma=25.0, tile=None)(image)
    assert (whole != Denoiser(model, sigma=25.0, tile=None, precision="strict")(image)).any()
    tiled = Denoiser(model, sigma=25.0, tile=side).run(image)
    assert tiled.tiles >= 6
    # Both are the exact result plus rounding errors of one kind: their difference is at most
    # sqrt(2) times its rms, and as far out at the tails as the largest of so many.
    exact = exactly(model, image)
    error = whole - exact
    difference = (tiled.image - whole).astype(np.float64)
    assert np.sqrt((difference**2).mean()) <= np.sqrt(2) * np.sqrt((error**2).mean())
    assert np.abs(difference).max() <= 2 * np.abs(error).max()


@needs_native
def test_kinds_and_noise_maps_in_tiles():
    model = tiny("ffdnet_color", width=8, depth=3, predicts="noise")
    options = {"sigma": 25.0, "precision": "strict"}
    tiles, whole = Denoiser(model, tile=40, **options), Denoiser(model, tile=None, **options)
    rgba = RNG.integers(0, 256, (75, 61, 4), dtype=np.uint8)
    level = RNG.uniform(5, 50, (75, 61))
    batch = torch.rand(2, 3, 75, 61)
    levels = torch.tensor([5.0, 50.0])
    maps = torch.rand(2, 1, 75, 61) * 50
    for image, sigma in (
        (rgba, None), (rgba[..., 0], level), (batch, levels), (batch, maps),
        (batch[0].to(torch.float16), 9),
    ):  # fmt: skip
        expected, result = whole.run(image, sigma), tiles.run(image, sigma)
        assert expected.tiles == 1 and result.tiles > 3
        np.testing.assert_array_equal(np.asarray(result.image), np.asarray(expected.image))
    gray = Denoiser(tiny("ffdnet_gray"), tile=40, **options)  # a colour image, channel by channel
    np.testing.assert_array_equal(gray(rgba)[..., 1], gray(np.ascontiguousarray(rgba[..., 1])))


# --- memory --------------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("name", [name for name in GRAY if family(name) in WIDE])
def test_counted_memory_is_what_the_plan_takes(name):
    """The plan's one block of memory, for an image of known size."""
    model = tiny(name)
    session = Session(model, "default", run_planned=True)
    side = 64 * model.stride
    x = torch.rand(1, 1, side, side)
    session.run(model.inputs_for(x, 25.0 if model.needs_sigma else None))
    (region,) = session._network._shim._engine_state.regions.values()
    (entry,) = region._entries.values()
    taken = entry.plan.schedule.size / side**2
    assert taken <= session.bytes_per_pixel <= 3 * taken + 64


@needs_native
@pytest.mark.parametrize("name", FAMILIES)
def test_memory_is_counted_without_data_as_with_it(name):
    model = tiny(name)
    for dtype in (torch.float32, torch.bfloat16):
        real = memory._most_per_pixel(model.to(dtype))
        assert memory._most_per_pixel(without_data(model)) == real > 0


@needs_native
def test_memory_of_a_network_that_looks_at_numbers():
    model = tiny("dncnn_gray")
    expected = memory.bytes_per_pixel(model, torch.float32)

    class Looking(type(model)):
        def denoise(self, x, noise_map):
            return super().denoise(x, noise_map) if float(x.mean()) < 2 else x

    model.__class__ = Looking
    assert memory.bytes_per_pixel(model, torch.float32) == expected


@needs_native
def test_max_memory_makes_tiles(monkeypatch):
    model = tiny("dncnn_gray")
    image = image_for(model, 301, 203)
    each = Session(model, "default", run_planned=True).bytes_per_pixel
    whole = Denoiser(model).run(image)
    assert whole.tiles == 1
    for share in (0.5, 0.1):
        result = Denoiser(model, max_memory=int(share * image.size * each)).run(image)
        assert 1 / share < result.tiles < 3 / share
        np.testing.assert_allclose(result.image, whole.image, atol=1e-6)
    half = int(0.6 * image.size * each)
    (many,) = Denoiser(model, max_memory=half).denoise_many([image], workers=1)
    np.testing.assert_allclose(many, whole.image, atol=1e-6)
    batch = torch.from_numpy(np.stack([image[:50, :50]] * 5))[:, None]
    batched = Denoiser(model, max_memory=int(2.5 * 2500 * each)).run(batch)
    assert batched.tiles == 3  # two images at a time
    np.testing.assert_allclose(batched.image[4, 0], batched.image[0, 0], atol=1e-6)
    with pytest.raises(ValueError, match=r"max_memory of 2 KiB is not enough: the smallest tile"):
        Denoiser(model, max_memory=2000)(image)
    two = Denoiser(model, max_memory=2000).denoise_many([image], workers=2)
    with pytest.raises(ValueError, match=r"max_memory of 2 KiB for 2 images at a time is not"):
        list(two)
    monkeypatch.setattr(memory, "_machine", lambda: 2 * half)
    assert Denoiser(model).run(image).tiles == 1  # too small an image to ask what is free
    monkeypatch.setattr(tile_planner, "_LITTLE", 0)
    assert Denoiser(model).run(image).tiles > 1  # not more than half of what is free


@pytest.mark.parametrize("bad", ["auto", True, -1, 0, float("nan"), float("inf")])
def test_bad_memory_and_tiles(bad):
    with pytest.raises((TypeError, ValueError), match=r"max_memory.*bytes"):
        Denoiser(max_memory=bad)
    if bad != "auto":
        with pytest.raises((TypeError, ValueError), match=r'tile.*"auto", None'):
            Denoiser(tile=bad)
