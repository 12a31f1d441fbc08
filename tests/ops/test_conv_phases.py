"""Phases: Winograd with stride 2, packed transposed weights, tasks of all phases."""

from __future__ import annotations

import bounds
import pytest
import torch
import winograd_bounds
from conv_images import WINOGRAD_OUTPUTS, padded, values
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import ops, reference

OPS = torch.ops.denoise_ext
# kernel, padding: four phases of 3x3, 3x2, 2x3 and 2x2 taps; others have zeros on another side
STRIDED = [(5, 2), (5, 1), (4, 1), (4, 2), (6, 2), (5, 0), (5, 3)]
# kernel, stride, padding, output padding
TRANSPOSED = [(5, 2, 2, 1), (4, 2, 1, 0), (3, 2, 1, 1), (2, 2, 0, 0), (3, 1, 1, 0), (5, 3, 1, 0)]


@pytest.fixture(params=WINOGRAD_OUTPUTS)
def algorithm(request) -> str:
    return request.param


def strided(x: Tensor, weight: Tensor, packed: Tensor | None, padding: int, **options) -> Tensor:
    """conv2d_out with stride 2 into memory that is filled with NaN."""
    size = [(n + 2 * padding - weight.shape[2]) // 2 + 1 for n in x.shape[2:]]
    out = torch.full((x.shape[0], weight.shape[0], *size), float("nan"), dtype=x.dtype)
    out = out.contiguous(memory_format=options.get("layout", torch.channels_last))
    OPS.conv2d_out(
        x, weight, packed, options.get("bias"), [2, 2], [padding] * 2, [1, 1], 1,
        options.get("border", "constant"), options.get("activation", "none"), 0.1, None,
        options.get("residual"), "before", options.get("algorithm", "auto"), out,
    )  # fmt: skip
    return out


def pack(weight: Tensor, algorithm: str, stride: int, padding: int, transposed: bool) -> Tensor:
    return OPS.conv2d_pack(weight, algorithm, 1, "default", [stride] * 2, [padding] * 2, transposed)


def unshuffled(image: Tensor, weight: Tensor, padding: int, size: list[int]) -> tuple:
    """The same convolution of stride 1: of four images as channels of one, with 3x3 weights."""
    before = (padding + 1) // 2  # pixels of a phase
    left = 2 * before - padding
    rows, cols = (2 * (n + 2) for n in size)
    image = F.pad(image, (left, max(0, cols - left - image.shape[3]),
                          left, max(0, rows - left - image.shape[2])))  # fmt: skip
    image = image[:, :, :rows, :cols]
    images, weights = [], []
    for y in range(2):
        for x in range(2):
            images.append(image[:, :, y::2, x::2])
            taps = weight.new_zeros((*weight.shape[:2], 3, 3))
            for i in range(3):
                for j in range(3):
                    u, v = (2 * (t - before) + r + padding for t, r in ((i, y), (j, x)))
                    if 0 <= u < weight.shape[2] and 0 <= v < weight.shape[3]:
                        taps[:, :, i, j] = weight[:, :, u, v]
            weights.append(taps)
    return torch.cat(images, 1), torch.cat(weights, 1)


def check_strided(x: Tensor, weight: Tensor, algorithm: str, padding: int, **options) -> None:
    packed = pack(weight, algorithm, 2, padding, False)
    actual = strided(x, weight, packed, padding, **options)
    w = weight.double()
    image = padded(x.double(), padding, options.get("border", "constant"))
    bias, residual = (
        options[name].double() if name in options else None for name in ("bias", "residual")
    )
    exact = reference.conv2d(
        image, w, bias, stride=2, activation=options.get("activation", "none"), negative_slope=0.1,
        **({} if residual is None else {"residual": residual}),
    )  # fmt: skip
    images, weights = unshuffled(image, w, padding, list(exact.shape[2:]))
    torch.testing.assert_close(  # the bound is of the same sum
        F.conv2d(images, weights), F.conv2d(image, w, stride=2), rtol=0, atol=1e-10
    )
    allowed = winograd_bounds.bound(images, weights, WINOGRAD_OUTPUTS[algorithm])
    allowed = allowed + 16 * winograd_bounds.EPS + bounds.output_rounding(exact, x.dtype)
    error = (actual.double() - exact).abs()
    assert (error <= allowed).all(), f"{float((error / allowed).max()):.3g} times the bound"
    # With the weight packed in the call the sums are the same.
    assert torch.equal(strided(x, weight, None, padding, algorithm=algorithm, **options), actual)


@pytest.mark.parametrize(("kernel", "padding"), STRIDED)
@pytest.mark.parametrize("border", ["constant", "reflect", "replicate"])
def test_strided_sizes_and_borders(kernel, padding, border, algorithm, isa):
    weight, bias = values(20, 19, kernel, kernel, seed=1) / 20, values(20, 1, 1, 1, seed=2)
    for h, w in [(6, 7), (8, 8), (13, 9), (33, 40)]:
        check_strided(
            values(2, 19, h, w), weight, algorithm, padding, border=border, bias=bias.flatten()
        )


@pytest.mark.parametrize(
    ("channels", "filters"), [(1, 1), (3, 5), (16, 16), (16, 64), (17, 33), (64, 64), (20, 112)]
)
def test_strided_channels(channels, filters, algorithm, isa):
    """Whole vectors of each phase and cut ones, one block of filters and several."""
    weight = values(filters, channels, 5, 5, seed=1) / (5 * channels**0.5)
    for layout in (torch.channels_last, torch.contiguous_format):
        x = values(1, channels, 29, 46, layout=layout)
        check_strided(x, weight, algorithm, 2, layout=layout)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu"])
def test_strided_epilogues(activation, algorithm, isa):
    x, weight = values(1, 16, 26, 44), values(48, 16, 5, 5, seed=1) / 20
    residual = values(1, 48, 13, 22, seed=4)
    check_strided(x, weight, algorithm, 2, activation=activation, residual=residual)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_strided_16_bit_storage(dtype, algorithm, isa):
    x, weight = values(2, 24, 21, 36).to(dtype), (values(40, 24, 5, 5, seed=1) / 25).to(dtype)
    check_strided(x, weight, algorithm, 2)


def test_strided_slice_of_channels(isa):
    buffer = values(1, 40, 19, 26)
    check_strided(buffer[:, 5:22], values(32, 17, 5, 5, seed=1) / 20, "winograd4", 2)


def test_threads_change_nothing():
    x, weight = values(1, 24, 37, 50), values(40, 24, 5, 5, seed=1) / 20
    packed, before = pack(weight, "winograd4", 2, 2, False), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(strided(x, weight, packed, 2))
            results.append(strided(x.repeat(3, 1, 1, 1), weight, packed, 2)[2:])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_strided_nan_reaches_every_output_that_reads_it():
    x, weight = values(1, 16, 40, 40), values(16, 16, 5, 5, seed=1)
    x[0, 5, 18, 21] = float("nan")
    y = strided(x, weight, pack(weight, "winograd4", 2, 2, False), 2)
    assert y[:, :, 8:11, 10:12].isnan().all()  # 2 i - 2 <= 18 <= 2 i + 2, 2 j - 2 <= 21 <= 2 j + 2
    assert not y[:, :, :4].isnan().any()


# --- transposed -----------------------------------------------------------------------------------


def transposed(x, weight, packed, geometry, dtype=torch.float32, precision="default") -> Tensor:
    kernel, stride, padding, extra = geometry
    size = [(n - 1) * stride - 2 * padding + kernel + extra for n in x.shape[2:]]
    out = torch.full((x.shape[0], weight.shape[1], *size), float("nan"), dtype=dtype)
    out = out.contiguous(memory_format=torch.channels_last)
    OPS.conv_transpose2d_out(
        x, weight, None, [stride] * 2, [padding] * 2, [extra] * 2, 1, [1, 1], "none", 0.0, None,
        None, "before", precision, out, packed,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("filters", [3, 24, 33])
@pytest.mark.parametrize("geometry", TRANSPOSED, ids=str)
def test_packed_transposed_weights(geometry, filters, dtype, isa):
    """The same sums as from a weight that is packed in the call."""
    kernel, stride, padding, _ = geometry
    x = values(1, 24, 15, 22).to(dtype)
    weight = (values(24, filters, kernel, kernel, seed=1) / 20).to(dtype)
    packed = pack(weight, "direct", stride, padding, True)
    plain = transposed(x, weight, None, geometry, dtype, "strict")
    assert torch.equal(transposed(x, weight, packed, geometry, dtype), plain)
    assert not plain.isnan().any()


@pytest.mark.parametrize("geometry", [g for g in TRANSPOSED if g[1] < 3], ids=str)
def test_packed_transposed_winograd(geometry, isa):
    """Where weights of a phase are zero at a point, its products are left out."""
    kernel, stride, padding, extra = geometry
    x, weight = values(2, 40, 33, 46), values(40, 48, kernel, kernel, seed=1) / 30
    packed = pack(weight, "winograd4", stride, padding, True)
    actual = transposed(x, weight, packed, geometry)
    image = x.double()
    exact = F.conv_transpose2d(image, weight.double(), None, stride, padding, extra)
    before = winograd_bounds.first_inputs(weight, (stride,) * 2, (padding,) * 2)
    found = 0
    for (first_y, first_x), taps in winograd_bounds.phases(
        weight.double(), (stride,) * 2, (padding,) * 2
    ):
        wanted = exact[:, :, first_y::stride, first_x::stride]
        rows, cols = wanted.shape[2:]
        read = F.pad(image, (before[1], cols + 2 - 46 - before[1],
                             before[0], rows + 2 - 33 - before[0]))  # fmt: skip
        allowed = winograd_bounds.bound(read, taps, 4) + winograd_bounds.EPS
        error = actual[:, :, first_y::stride, first_x::stride].double() - wanted
        assert (error.abs() <= allowed).all()
        found += 1
    assert found == stride**2


# --- what does not fit ----------------------------------------------------------------------------


def test_packed_weights_are_checked():
    x, weight = values(1, 16, 20, 20), values(16, 16, 5, 5)
    strided_pack = pack(weight, "winograd4", 2, 2, False)
    for packed, match in [
        (pack(weight, "winograd4", 2, 1, False), "another stride or padding"),
        (pack(weight, "winograd4", 2, 2, True), "other kind of convolution"),
    ]:
        with pytest.raises(RuntimeError, match=match):
            strided(x, weight, packed, 2)
    # a padding that differs by the stride moves the image alone
    moved = pack(weight, "winograd4", 2, 0, False)
    assert torch.equal(strided(x, weight, moved, 2), strided(x, weight, strided_pack, 2))
    geometry = (5, 2, 2, 1)
    for packed, match in [
        (pack(weight, "direct", 2, 1, True), "another stride or padding"),
        (pack(weight, "direct", 3, 2, True), "another stride or padding"),
        (strided_pack, "other kind of convolution"),
    ]:
        with pytest.raises(RuntimeError, match=match):
            transposed(x, weight, packed, geometry)
    with pytest.raises(RuntimeError, match="smaller than the stride"):
        transposed(x[:, :, :1], weight, pack(weight, "direct", 4, 2, True), (5, 4, 2, 0))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "match"),
    [
        (3, 2, 1, "fewer than 4x4"),
        (7, 2, 3, "more than 3x3"),
        (5, 3, 2, "neither 1 nor 2"),
        (5, 1, 2, "not 3x3"),
        (5, 300, 2, "above 255"),
    ],
)
def test_what_cannot_be_packed(kernel, stride, padding, match):
    weight = values(16, 16, kernel, kernel)
    with pytest.raises(RuntimeError, match=match):
        pack(weight, "winograd4", stride, padding, False)


@pytest.mark.parametrize("name", ["direct", "winograd4"])
@pytest.mark.parametrize(("stride", "turned"), [(1, False), (2, False), (2, True)])
def test_opcheck(name, stride, turned):
    kernel = 3 if stride == 1 else 5
    weight = values(18, 16, kernel, kernel)
    torch.library.opcheck(
        OPS.conv2d_pack.default, (weight, name, 1, "default", [stride] * 2, [1, 1], turned)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (4, 2, 1), (3, 3, 0)])
def test_phases_of_a_tile_are_one_task(kernel, stride, padding, dtype, isa):
    """From 16 tiles on."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1).to(dtype)
        for shape in ((1, 6, 139, 151), (6, 5, kernel, kernel))
    )
    exact = F.conv_transpose2d(x.double(), weight.double(), None, stride, padding)
    terms = 6 * (kernel // stride + 1) ** 2  # each at most 1: in any order n^2 eps / 2 at most
    for layout in (torch.contiguous_format, torch.channels_last):
        out = ops.conv_transpose2d(
            x.contiguous(memory_format=layout), weight, None, stride, padding, precision="strict"
        )
        assert (out.double() - exact).abs().max() <= terms**2 * torch.finfo(dtype).eps
