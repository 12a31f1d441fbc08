"""Arrays and tensors that are seldom: a right result, or one error that names `image`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import denoise_ext

PIXELS = np.random.default_rng(0).random((24, 32), np.float32)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.ma.masked_array(PIXELS, PIXELS > 0.5), "image must not be masked"),
        (torch.zeros(24, 32).to(torch.float8_e4m3fn), "image must be uint8.* got torch.float8"),
        (torch.zeros(24, 32, device="meta"), "image must be a dense tensor.*meta"),
        (torch.eye(24).to_sparse(), "image must be a dense tensor.*sparse_coo"),
    ],
)
def test_refused(image, message):
    with pytest.raises(TypeError, match=message):
        denoise_ext.denoise(image, sigma=5)


def test_a_field_of_records():
    records = np.zeros((24, 32), [("value", "f4"), ("flag", "u1")])  # 5 bytes from one to the next
    records["value"] = PIXELS
    clean = denoise_ext.denoise(records["value"], sigma=5)
    np.testing.assert_array_equal(clean, denoise_ext.denoise(PIXELS, sigma=5))
