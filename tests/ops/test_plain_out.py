"""The raw operators that write into given memory, but for the convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext import ops

OPS = torch.ops.denoise_ext
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def layouts(x: Tensor) -> list[Tensor]:
    """The same numbers: dense, channels_last, channels of a larger tensor, every second column."""
    wide = x.new_zeros(x.shape[0], x.shape[1] + 3, *x.shape[2:])
    wide = wide.contiguous(memory_format=torch.channels_last)
    wide[:, 2:-1] = x
    spread = x.new_zeros(*x.shape[:3], 2 * x.shape[3])
    spread[..., ::2] = x
    last = x.contiguous(memory_format=torch.channels_last)
    return [x.contiguous(), last, wide[:, 2:-1], spread[..., ::2]]


def outputs(like: Tensor) -> list[Tensor]:
    return [x.fill_(float("nan")) for x in layouts(like.clone())]


def _layer_norm_out(
    x: Tensor,
    out: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
) -> None:
    OPS.layer_norm2d_out(x, weight, None, eps, activation, 0.0, out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_pixel_unshuffle(factor, dtype):
    x = random(2, 3, 12, 24, dtype=dtype)
    wanted = F.pixel_unshuffle(x, factor)
    for given in layouts(x):
        for out in outputs(wanted):
            OPS.pixel_unshuffle_out(given, factor, out)
            assert torch.equal(out, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_pixel_shuffle(factor, dtype):
    x = random(2, 3 * factor**2, 5, 7, dtype=dtype)
    wanted = F.pixel_shuffle(x, factor)
    for given in layouts(x):
        for out in outputs(wanted):
            OPS.pixel_shuffle_out(given, factor, out)
            assert torch.equal(out, wanted)


def test_pixel_unshuffle_leaves_what_lies_between():
    whole = torch.zeros(1, 9, 4, 4).contiguous(memory_format=torch.channels_last)
    OPS.pixel_unshuffle_out(random(1, 1, 8, 8), 2, whole[:, 3:7])
    assert not whole[:, :3].any() and not whole[:, 7:].any() and whole[:, 3:7].all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_block_warp(dtype):
    x = random(2, 3, 21, 35, dtype=dtype)
    motion = torch.randint(-40, 41, (2, 3, 5, 2), generator=torch.Generator().manual_seed(1))
    motion = motion.short()
    wanted = ops.block_warp(x, motion)
    for given in layouts(x):
        for out in outputs(wanted):
            OPS.block_warp_out(given, motion, out)
            assert torch.equal(out, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_recurrent_fuse(dtype):
    x, previous = random(1, 2, 8, 12, dtype=dtype), random(1, 5, 8, 12, dtype=dtype)
    gate, level = random(1, 4, 4, 6, dtype=dtype), random(1, 1, 8, 12, dtype=dtype)
    wanted = ops.recurrent_fuse(x, previous, gate, level)
    for given in layouts(gate):
        for out in outputs(wanted):
            OPS.recurrent_fuse_out(x, previous, given, level, out)
            assert torch.equal(out, wanted)


@pytest.mark.parametrize("last", [torch.contiguous_format, torch.channels_last])
def test_what_is_fused_has_the_layout_of_the_state(last):
    previous = random(1, 3, 8, 12).contiguous(memory_format=last)
    fused = ops.recurrent_fuse(random(1, 1, 8, 12), previous, random(1, 4, 4, 6), 0.1)
    assert fused.stride() == previous.stride()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [6, 16, 35])
def test_norms(channels, dtype):
    x = random(2, channels, 5, 70, dtype=dtype)
    weight, bias = random(channels, dtype=dtype), random(channels + 1, dtype=dtype)[1:]
    for given in layouts(x):
        # One sum for each way that pixels lie in memory: with the same input, the same bits.
        wanted = ops.layer_norm2d(given, weight, bias, activation="silu")
        grouped = ops.group_norm(given, channels, weight, bias, activation="leaky_relu")
        for out in outputs(wanted):
            OPS.layer_norm2d_out(given, weight, bias, 1e-5, "silu", 0.01, out)
            assert torch.equal(out, wanted)
            OPS.group_norm_out(given, channels, weight, bias, 1e-5, "leaky_relu", 0.01, out)
            assert torch.equal(out, grouped)


@pytest.mark.parametrize("channels", [8, 16, 17, 31, 40])  # 17: vectors that share channels
def test_norms_in_place(channels, isa):
    x = random(1, channels, 9, 10)
    for layout in layouts(x):
        wanted, out = ops.layer_norm2d(layout), layout.clone()
        OPS.layer_norm2d_out(out, None, None, 1e-5, "none", 0.0, out)
        torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ("factor.*3", lambda x: OPS.pixel_unshuffle_out(x, 3, x)),
        ("factor.*0", lambda x: OPS.pixel_unshuffle_out(x, 0, x)),
        ("out.*sizes", lambda x: OPS.pixel_unshuffle_out(x, 2, torch.empty(1, 4, 4, 8))),
        ("out", lambda x: OPS.pixel_unshuffle_out(x, 1, x.double())),
        ("out.*input", lambda x: OPS.pixel_unshuffle_out(x, 1, x)),
        ("factor.*3", lambda x: OPS.pixel_shuffle_out(x, 3, x)),
        ("factor.*0", lambda x: OPS.pixel_shuffle_out(x, 0, x)),
        ("factor.*2", lambda x: OPS.pixel_shuffle_out(x.expand(1, 6, 8, 8), 2, x)),
        ("factor.*4294967296", lambda x: OPS.pixel_shuffle_out(x, 2**32, x)),
        ("out.*sizes", lambda x: OPS.pixel_shuffle_out(x, 1, torch.empty(1, 4, 4, 8))),
        ("out.*input", lambda x: OPS.pixel_shuffle_out(x, 1, x)),
        ("out.*input", lambda x: OPS.block_warp_out(x, torch.zeros(1, 1, 1, 2).short(), x)),
        ("motion", lambda x: OPS.block_warp_out(x, torch.zeros(1, 2, 1, 2).short(), x.clone())),
        (
            "out.*previous",
            lambda x: OPS.recurrent_fuse_out(x[:, :0], x, x[:, :1], x[:, :1], x),
        ),
        ("out.*input", lambda x: _layer_norm_out(x[..., :4], x[..., 1:5])),
        ("out.*sizes", lambda x: _layer_norm_out(x, x[..., :4])),
        ("weight.*sizes", lambda x: _layer_norm_out(x, x.clone(), torch.ones(2))),
        ("eps.*-1", lambda x: _layer_norm_out(x, x.clone(), eps=-1.0)),
        ("activation.*prelu", lambda x: _layer_norm_out(x, x.clone(), activation="prelu")),
        ("activation.*mish", lambda x: _layer_norm_out(x, x.clone(), activation="mish")),
        (
            "num_groups.*2",
            lambda x: OPS.group_norm_out(x, 2, None, None, 1e-5, "none", 0.0, x.clone()),
        ),
    ],
)  # fmt: skip
def test_what_is_refused(named, call):
    with pytest.raises(RuntimeError, match=named):
        call(random(1, 1, 8, 8))
