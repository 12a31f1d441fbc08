"""Guided filters as models of a Denoiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denoise_ext import nn, reference, tasks
from denoise_ext._loader import native_error
from denoise_ext.tasks import Denoiser

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")

RNG = np.random.default_rng(9)
DEPTH = (np.arange(31 * 43).reshape(31, 43) % 43 > 20) * 0.6 + RNG.normal(0.1, 0.05, (31, 43))
DEPTH = DEPTH.astype(np.float32)
PHOTO = RNG.integers(0, 20, (31, 43, 3), dtype=np.uint8)
PHOTO[:, 21:] += 180


def test_joint_bilateral_keeps_the_edges_of_the_guide():
    result = tasks.denoise(DEPTH, "joint_bilateral", guide=PHOTO)
    assert result.shape == DEPTH.shape and result.dtype == DEPTH.dtype
    for side in (slice(0, 21), slice(21, 43)):
        clean = 0.1 if side.start == 0 else 0.7
        before, after = (np.abs(x[:, side] - clean).mean() for x in (DEPTH, result))
        assert after < before / 2
    expected = reference.joint_bilateral_blur(
        torch.from_numpy(DEPTH)[None, None],
        torch.from_numpy(PHOTO).permute(2, 0, 1)[None] / 255,
        (13, 13), 0.1, (3.0, 3.0), color_distance_type="l2",
    )  # fmt: skip
    np.testing.assert_allclose(result, expected[0, 0], atol=1e-5)


def test_a_filter_of_ones_own_in_tiles_and_batches():
    layer = nn.JointBilateralBlur(5, sigma_color=0.2, sigma_space=1.5)
    whole = Denoiser(layer, tile=None)(DEPTH, guide=PHOTO)
    tiled = Denoiser(layer, tile=14).run(DEPTH, guide=PHOTO)
    assert tiled.tiles > 6 and tiled.sigma is None
    np.testing.assert_array_equal(tiled.image, whole)
    alpha = np.concatenate([PHOTO, PHOTO[..., :1]], -1)
    np.testing.assert_array_equal(Denoiser(layer)(DEPTH, guide=alpha), whole)
    batch = torch.from_numpy(np.stack([DEPTH, DEPTH[::-1]]))[:, None]
    guides = torch.from_numpy(np.stack([PHOTO, PHOTO[::-1]])).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(Denoiser(layer)(batch, guide=guides)[0, 0], whole)
    with pytest.raises(ValueError, match=r"cannot be computed in tiles.*border is circular"):
        Denoiser(nn.JointBilateralBlur(5, 0.2, 1.5, "circular"), tile=14)(DEPTH, guide=PHOTO)


BAD_GUIDES = [
    ({"guide": PHOTO}, ValueError, 'guide: this model takes none; model="joint_bilateral"'),
    ({"model": "joint_bilateral"}, ValueError, "guide is required by this model"),
    ({"model": "joint_bilateral", "guide": PHOTO[1:]}, ValueError, r"guide must.*\(31, 43\).*30"),
    ({"model": "joint_bilateral", "guide": 7}, TypeError, "guide: image must be"),
    ({"model": "joint_bilateral", "guide": PHOTO, "backend": "torch"}, ValueError, "guided"),
]


@pytest.mark.parametrize("change, error, message", BAD_GUIDES)
def test_bad_guides_are_named(change, error, message):
    with pytest.raises(error, match=message):
        tasks.denoise(DEPTH, **{"sigma": 10.0} | change)
