"""What a network gives beside the image: of a part, and beside alpha that is denoised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denoise_ext import Denoiser
from denoise_ext._loader import native_error
from denoise_ext.models import create_model

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")

SMALL = {"widths": [8, 16], "blocks": [1, 1], "estimator_width": 8}
RNG = np.random.default_rng(7)


def blind(channels: int):
    """A network with the output "noise_level", at half the resolution."""
    torch.manual_seed(0)
    return create_model("dxnet_s_photo", channels=channels, **SMALL).eval()


@pytest.mark.parametrize("rows", [(41, 100), (0, 160), (7, 8)])
def test_those_of_a_part_are_those_of_the_whole_there(rows):
    image = RNG.integers(0, 65536, (160, 171, 3), dtype=np.uint16)
    denoiser = Denoiser(blind(3), precision="strict")
    whole = denoiser.run(image).outputs["noise_level"]
    made = denoiser.run_part(image, (slice(*rows), slice(30, 171))).outputs["noise_level"]
    expected = whole[rows[0] // 2 : (rows[1] + 1) // 2, 15:86]
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-6)


def test_alpha_does_not_replace_them():
    image = RNG.integers(0, 256, (40, 50, 2), dtype=np.uint8)
    plain = Denoiser(blind(1)).run(image[..., 0]).outputs["noise_level"]
    made = Denoiser(blind(1), alpha="denoise").run(image)
    np.testing.assert_array_equal(made.outputs["noise_level"], plain)
    assert (made.image[..., 1] != image[..., 1]).any()
