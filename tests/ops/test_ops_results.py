"""Operators that write into a given tensor: overlaps, versions and gradients, as for ``out=``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

OPS = torch.ops.denoise_ext
CHANNELS = 16


def images(count: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, CHANNELS, 8, 8, generator=generator) for _ in range(count)]


def weight() -> Tensor:
    return torch.rand(CHANNELS, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(1))


def conv2d_out(out: Tensor, input=None, weight=None, bias=None, residual=None, prelu=None) -> None:
    activation = "none" if prelu is None else "prelu"
    OPS.conv2d_out(
        input, weight, None, bias, [1, 1], [1, 1], [1, 1], 1, "constant", activation, 0.0, prelu,
        residual, "before", "direct", out,
    )  # fmt: skip


def conv_transpose2d_out(
    out: Tensor, input=None, weight=None, bias=None, residual=None, prelu=None
) -> None:
    activation = "none" if prelu is None else "prelu"
    OPS.conv_transpose2d_out(
        input, weight, None if bias is None else bias, [1, 1], [1, 1], [0, 0], 1, [1, 1],
        activation, 0.0, prelu, residual, "before", "default", out,
    )  # fmt: skip


def conv2d_resampled_out(
    out: Tensor, input=None, weight=None, bias=None, residual=None, prelu=None
) -> None:
    activation = "none" if prelu is None else "prelu"
    packed = OPS.conv2d_pack(weight.detach(), "winograd4")
    OPS.conv2d_resampled_out(
        None, input, weight, packed, bias, "constant", activation, 0.0, prelu, residual, "before",
        "max", out, None,
    )  # fmt: skip


WRITERS: dict[str, Callable[..., None]] = {
    "conv2d_out": conv2d_out,
    "conv_transpose2d_out": conv_transpose2d_out,
    "conv2d_resampled_out": conv2d_resampled_out,
}


def buffer(layout: torch.memory_format) -> Tensor:
    x = torch.rand(1, 3 * CHANNELS, 8, 8, generator=torch.Generator().manual_seed(2))
    return x.contiguous(memory_format=layout)


LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WRITERS)
def test_out_must_not_overlap_an_argument(name, layout):
    write, memory = WRITERS[name], buffer(LAYOUTS[layout])
    before = memory.clone()
    part = memory[:, :CHANNELS]
    for shift in (0, 1, CHANNELS - 1):
        out = memory[:, shift : shift + CHANNELS]
        with pytest.raises(RuntimeError, match=r"\bout must not overlap\b.*\b(input|fine)\b"):
            write(out, part, weight())
        if shift:
            with pytest.raises(RuntimeError, match=r"\bout must not overlap\b.*\bresidual\b"):
                write(out, images()[0], weight(), residual=part)
    flat = memory.permute(0, 2, 3, 1).reshape(-1) if layout == "channels_last" else memory.view(-1)
    for key in ("bias", "prelu"):
        vector = flat[5 : 5 + CHANNELS]
        with pytest.raises(
            RuntimeError, match=r"\bout must not overlap\b.*\b(bias|prelu_weight)\b"
        ):
            write(part, images()[0], weight(), **{key: vector})
    assert torch.equal(memory, before)


@pytest.mark.parametrize("name", ["conv2d_out", "conv_transpose2d_out"])
def test_out_must_not_overlap_the_weight(name):
    memory = torch.rand(4096)
    w = memory[: CHANNELS * CHANNELS * 9].view(CHANNELS, CHANNELS, 3, 3)
    out = memory[2000 : 2000 + CHANNELS * 64].view(1, CHANNELS, 8, 8)
    with pytest.raises(RuntimeError, match=r"\bout must not overlap\b.*\bweight\b"):
        WRITERS[name](out, images()[0], w)


@pytest.mark.parametrize("name", WRITERS)
def test_out_must_not_overlap_itself(name):
    x, w = images()[0], weight()
    memory = torch.zeros(4 * CHANNELS * 64)
    views = [
        torch.zeros(1, CHANNELS, 1, 8).expand(1, CHANNELS, 8, 8),
        torch.zeros(1, 1, 8, 8).expand(1, CHANNELS, 8, 8),
        memory.as_strided((1, CHANNELS, 8, 8), (0, 64, 7, 1)),
        memory.as_strided((1, CHANNELS, 8, 8), (0, 63, 8, 1)),
        memory.as_strided((1, CHANNELS, 8, 8), (0, 6, 15, 10)),
    ]
    for out in views:
        with pytest.raises(RuntimeError, match=r"\bout must not overlap itself\b"):
            WRITERS[name](out, x, w)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WRITERS)
def test_neighbours_in_one_buffer_are_allowed(name, layout):
    """Slices of channels lie between each other's elements, without sharing one."""
    write, memory, w = WRITERS[name], buffer(LAYOUTS[layout]), weight()
    x, out, residual = memory.split(CHANNELS, dim=1)
    expected = torch.empty_like(out)
    write(expected, x.clone(), w, residual=residual.clone())
    write(out, x, w, residual=residual)
    assert torch.equal(out, expected)
    # every second column; rows of 8 in a pitch of 17; pixels whose strides do not nest
    wide = torch.zeros(1, CHANNELS, 8, 16)
    pitched = torch.zeros(CHANNELS * 8 * 17).as_strided((1, CHANNELS, 8, 8), (0, 8 * 17, 17, 1))
    woven = torch.zeros(9000).as_strided((1, CHANNELS, 8, 8), (0, 200, 8, 9))
    for view in (wide[..., ::2], pitched, woven):
        write(view, x, w, residual=residual)
        assert torch.equal(view, expected)
    assert not wide[..., 1::2].any()


def test_pooled_overlaps_nothing():
    x, w = images()[0], weight()
    packed = OPS.conv2d_pack(w, "winograd4")
    out, memory = torch.zeros(1, CHANNELS, 8, 8), torch.zeros(CHANNELS * 64 + 64)

    def run(out: Tensor | None, pooled: Tensor, residual: Tensor | None = None) -> None:
        OPS.conv2d_resampled_out(
            None, x, w, packed, None, "constant", "none", 0.0, None, residual, "before", "max",
            out, pooled,
        )  # fmt: skip

    pooled = torch.zeros(1, CHANNELS, 4, 4)
    versions = out._version, pooled._version
    run(out, pooled)
    assert (out._version, pooled._version) == (versions[0] + 1, versions[1] + 1)
    inside = out.view(-1)[: CHANNELS * 16].view(1, CHANNELS, 4, 4)
    with pytest.raises(RuntimeError, match=r"\bpooled must not overlap\b.*\bout\b"):
        run(out, inside)
    with pytest.raises(RuntimeError, match=r"\bpooled must not overlap\b.*\bresidual\b"):
        run(None, inside, residual=out)
    with pytest.raises(RuntimeError, match=r"\bpooled must not overlap itself\b"):
        run(out, memory[:16].view(1, 1, 4, 4).expand(1, CHANNELS, 4, 4))


@pytest.mark.parametrize("name", WRITERS)
def test_autograd_notices_the_change(name):
    write, w, x = WRITERS[name], weight(), images()[0]
    out = torch.rand(1, CHANNELS, 8, 8)
    factor = torch.ones(1, requires_grad=True)
    loss = (factor * out).sum()  # keeps out for factor's gradient
    version = out._version
    with torch.no_grad():
        write(out, x, w)
    assert out._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.no_grad():  # a view's change is its base's
        base = torch.zeros(1, 2 * CHANNELS, 8, 8)
        write(base[:, CHANNELS:], x, w)
    assert base._version == 1


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("key", ["out", "input", "bias", "residual", "prelu"])
@pytest.mark.parametrize("history", [False, True])
def test_gradients_are_refused(name, key, history):
    vector = torch.rand(CHANNELS)
    arguments = {
        "out": torch.zeros(1, CHANNELS, 8, 8), "input": images()[0], "weight": weight(),
        "bias": vector, "residual": images()[0], "prelu": vector.clone(),
    }  # fmt: skip
    arguments[key].requires_grad_()
    if history:
        arguments[key] = 2 * arguments[key]
    before = arguments["out"].detach().clone()
    argument = {"prelu": "prelu_weight", "input": "(input|fine)"}.get(key, key)
    with pytest.raises(RuntimeError, match=rf"\b{argument} must not require grad\b"):
        WRITERS[name](**arguments)
    assert torch.equal(arguments["out"], before)
    with torch.no_grad():
        WRITERS[name](**arguments)
    assert not torch.equal(arguments["out"], before)


@pytest.mark.parametrize("name", WRITERS)
def test_inference_mode(name):
    x, w = images()[0], weight()
    expected = torch.zeros(1, CHANNELS, 8, 8)
    WRITERS[name](expected, x, w)
    with torch.inference_mode():
        out = torch.zeros(1, CHANNELS, 8, 8)
        WRITERS[name](out, x, w)
        assert torch.equal(out, expected)
