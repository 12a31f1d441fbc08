"""Block matching, motion compensation and recurrent fusion: what they find, and at their limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import ops, reference

LARGEST = 19  # pixels


def texture(*size: int, seed: int = 0) -> Tensor:
    """(1, 1, H, W) in [0, 1] with detail at every scale of the pyramid."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.zeros(1, 1, *size)
    for scale in (2, 4, 8, 16):
        small = [-(-side // scale) + 1 for side in size]
        noise = torch.rand(1, 1, *small, generator=generator)
        large = F.interpolate(noise, scale_factor=scale, mode="bicubic")
        made += large[..., : size[0], : size[1]] / 4
    return made.clamp(0, 1)


@pytest.mark.parametrize("dy, dx", [(0, 0), (5, -7), (-1, 1), (16, 16), (-16, 8), (13, -2)])
def test_a_shifted_texture_is_found(dy, dx, isa):
    whole = texture(128 + 2 * LARGEST, 160 + 2 * LARGEST)
    previous = whole[..., LARGEST:-LARGEST, LARGEST:-LARGEST]
    moved = whole[..., LARGEST + dy : LARGEST + dy + 128, LARGEST + dx : LARGEST + dx + 160]
    motion = ops.block_match(moved, previous)
    inner = motion[:, 4:-4, 4:-4]  # what its window shows is in both frames
    assert inner.dtype == torch.int16
    found = (inner == torch.tensor([dy, dx])).all(-1).float().mean()
    assert found > 0.9
    warped = ops.block_warp(previous, motion)
    error = (warped - moved)[..., 32:-32, 32:-32].abs()
    assert error.mean() < 0.1 * max((previous - moved).abs().mean(), error.new_tensor(1e-3))


def test_vectors_of_flat_areas_do_not_follow_the_noise():
    """A noisy frame beside a denoised one, in which a fifth of the noise is left."""
    sigma, generator = 25.0, torch.Generator().manual_seed(1)
    noise = torch.randn(2, 1, 128, 128, generator=generator) * sigma / 255
    current, previous = 0.5 + noise[:1], 0.5 + 0.2 * noise[1:]

    def still(margin: float) -> float:
        return float((ops.block_match(current, previous, margin) == 0).all(-1).float().mean())

    assert still(sigma) > 0.95
    assert still(0.0) < 0.5  # what the margin is for


def test_sigma_is_that_of_each_block():
    previous, current = torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    sigma = torch.zeros(1, 1, 8, 8)
    sigma[..., 4:] = 1e4
    motion = ops.block_match(current, previous, sigma)
    assert not motion[:, :, 4:].any()
    assert torch.equal(motion[:, :, :4], ops.block_match(current, previous)[:, :, :4])


@pytest.mark.parametrize("value", [float("nan"), -5.0])
def test_a_sigma_that_is_none_counts_as_0(value):
    previous, current = torch.rand(2, 1, 1, 32, 32)
    sigma = torch.full((1, 1, 1, 1), value)
    for op in (ops.block_match, reference.block_match):
        assert torch.equal(op(current, previous, sigma), op(current, previous, 0.0))


def test_motion_far_outside_reads_the_edge(isa):
    image = torch.rand(1, 2, 16, 24)
    for extreme in (-(2**15), 2**15 - 1):
        motion = torch.full((1, 2, 3, 2), extreme, dtype=torch.int16)
        row, column = (0, 0) if extreme < 0 else (15, 23)
        expected = image[:, :, row, column, None, None].expand_as(image)
        assert torch.equal(ops.block_warp(image, motion), expected)
        assert torch.equal(reference.block_warp(image, motion), expected)


def zeros_and_more() -> list[Tensor]:
    """Arguments of a fusion with levels of 0 in some places: nothing is known, or no noise."""
    generator = torch.Generator().manual_seed(3)
    x, previous = (torch.rand(1, c, 8, 24, generator=generator).double() for c in (3, 7))
    gate, level = torch.rand(1, 16, 2, 6), torch.rand(1, 1, 8, 24)
    previous[:, -1, :, ::3] = 0
    level[..., ::5] = 0
    return [x, previous, gate.double(), level.double()]


def test_levels_of_0_fuse_nothing(isa):
    x, previous, gate, level = zeros_and_more()
    fused = ops.recurrent_fuse(x, previous, gate, level)
    unknown = slice(None, None, 3)
    assert torch.equal(fused[:, :3, :, unknown], x[..., unknown])  # the last output
    assert torch.equal(fused[:, 3:6, :, unknown], x[..., unknown])
    torch.testing.assert_close(fused[:, 6:, :, unknown], level[..., unknown])
    assert torch.equal(fused[:, 3:6, :, ::5], x[..., ::5])  # no noise
    assert not fused[:, 6:, :, ::5].any()


def test_gradients_where_levels_are_0(isa):
    plain = zeros_and_more()
    results = []
    for op in (ops.recurrent_fuse, reference.recurrent_fuse):
        leaves = [x.clone().requires_grad_() for x in plain]
        output = op(*leaves)
        grad = torch.linspace(-1, 1, output.numel()).double().view_as(output)
        results.append([output, *torch.autograd.grad(output, leaves, grad)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_state_of_zeros_is_that_before_the_first_frame():
    x, gate = torch.rand(2, 1, 8, 8), torch.rand(2, 16, 2, 2)
    fused = ops.recurrent_fuse(x, torch.zeros(2, 3, 8, 8), gate, 0.1)
    assert torch.equal(fused, torch.cat([x, x, torch.full_like(x, 0.1)], 1))
