"""Memory for results of another size than the image: what an upscaler writes into."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_ext import io
from denoise_ext.tasks.images import open_image

RNG = np.random.default_rng(2)
GRAY = RNG.random((5, 7), dtype=np.float32)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def enlarged(image, axes=None):
    """Every pixel twice, by what `open_image` gives and takes."""
    opened = open_image(image, axes)
    target = opened.target(Fraction(2))
    n, c, h, w = opened.source.shape
    assert target.pixels.shape == (n, c, 2 * h, 2 * w)
    assert target.pixels.dtype == opened.source.dtype
    target.pixels.copy_(opened.source.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return target.result()


@pytest.mark.parametrize(
    "image",
    [GRAY, RGB, np.asfortranarray(RGB), GRAY.astype(">f4"), RGB.transpose(1, 0, 2)],
    ids=["gray", "rgb", "fortran", "big endian", "view"],
)
def test_arrays(image):
    result = enlarged(image)
    assert result.dtype == image.dtype
    np.testing.assert_array_equal(result, image.repeat(2, 0).repeat(2, 1))


def test_tensors_keep_their_layout():
    x = torch.rand(2, 3, 5, 7).contiguous(memory_format=torch.channels_last)
    for image in (x, x[0], x[0, 0]):
        result = enlarged(image)
        assert torch.equal(result, image.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert enlarged(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("axes", ["ZYX", "YXC", "ZYCX"])
def test_named_axes(axes):
    image = RNG.integers(0, 999, (2, 3, 5, 4)[: len(axes)], dtype=np.uint16)
    expected = image.repeat(2, axes.index("Y")).repeat(2, axes.index("X"))
    np.testing.assert_array_equal(enlarged(image, axes), expected)


def test_pillow_keeps_its_notes_and_its_physical_size():
    image = Image.fromarray(RGB)
    image.info.update(dpi=(300, 150), icc_profile=b"x")
    result = enlarged(image)
    np.testing.assert_array_equal(np.asarray(result), RGB.repeat(2, 0).repeat(2, 1))
    assert result.info == {"dpi": (600, 300), "icc_profile": b"x"}


def test_numbers_of_a_file_that_are_not_finite_stay(tmp_path):
    image = GRAY.copy()
    image[1, 2], image[4, 0] = np.nan, np.inf
    io.write_image(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(enlarged(tmp_path / "a.tif"), image.repeat(2, 0).repeat(2, 1))


def test_nothing_is_allocated_before_a_size_is_known(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("memory for a result")

    monkeypatch.setattr(np, "empty_like", refuse)
    monkeypatch.setattr(torch, "empty_like", refuse)
    assert open_image(RGB).source.shape == (1, 3, 5, 7)
    assert open_image(torch.rand(5, 7)).source.shape == (1, 1, 5, 7)
