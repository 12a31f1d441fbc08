"""Winograd convolution on the CPU: against float64, with the bound of winograd_bounds.py."""

from __future__ import annotations

import random

import bounds
import pytest
import torch
import winograd_bounds
from conv_images import WINOGRAD_OUTPUTS, padded, values
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import ops, reference
from denoise_ext._loader import native

OPS = torch.ops.denoise_ext
SIZES = [(1, 1), (2, 3), (4, 4), (5, 7), (6, 12), (13, 9), (33, 40)]
CHANNELS = [
    (1, 1), (3, 5), (8, 16), (16, 8), (16, 16), (17, 33), (31, 64), (64, 64), (48, 20), (20, 112),
    (100, 65), (96, 2), (130, 130),
]  # fmt: skip


@pytest.fixture(params=WINOGRAD_OUTPUTS)
def algorithm(request) -> str:
    return request.param


def run(x: Tensor, weight: Tensor, algorithm: str, out: Tensor | None = None, **options) -> Tensor:
    p, d = options.get("padding", 1), options.get("dilation", 1)
    if out is None:
        shape = (x.shape[0], weight.shape[0], *(size + 2 * (p - d) for size in x.shape[2:]))
        out = torch.full(shape, float("nan"), dtype=x.dtype)
        out = out.contiguous(memory_format=options.get("layout", torch.channels_last))
    OPS.conv2d_out(
        x, weight, options.get("packed"), options.get("bias"), [1, 1], [p, p], [d, d], 1,
        options.get("border", "constant"), options.get("activation", "none"), 0.1,
        options.get("prelu_weight"), options.get("residual"), options.get("position", "before"),
        algorithm, out,
    )  # fmt: skip
    return out


def check(x: Tensor, weight: Tensor, algorithm: str, **options) -> Tensor:
    actual = run(x, weight, algorithm, **options)
    image = padded(x.double(), options.get("padding", 1), options.get("border", "constant"))
    extra = {
        name: options[name].double() for name in ("prelu_weight", "residual") if name in options
    }
    exact = reference.conv2d(
        image, weight.double(), options["bias"].double() if "bias" in options else None,
        dilation=options.get("dilation", 1), activation=options.get("activation", "none"),
        negative_slope=0.1, residual_position=options.get("position", "before"), **extra,
    )  # fmt: skip
    # Slopes are at most 1; 16 eps for bias, residual and the activation of values around 1.
    allowed = torch.empty_like(exact)
    d = options.get("dilation", 1)  # so many images along each axis
    for y in range(d):
        for column in range(d):
            allowed[:, :, y::d, column::d] = winograd_bounds.bound(
                image[:, :, y::d, column::d], weight.double(), WINOGRAD_OUTPUTS[algorithm]
            )
    allowed = allowed + 16 * winograd_bounds.EPS + bounds.output_rounding(exact, x.dtype)
    error = (actual.double() - exact).abs()
    assert (error <= allowed).all(), f"{float((error / allowed).max()):.3g} times the bound"
    return actual


@pytest.mark.parametrize("border", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_sizes_and_borders(algorithm, border, padding, isa):
    weight, bias = values(20, 19, 3, 3, seed=1) / 9, values(20, 1, 1, 1, seed=2).flatten()
    for h, w in SIZES:
        if min(h, w) + 2 * padding >= 3:
            x = values(2, 19, h, w)
            check(x, weight, algorithm, border=border, padding=padding, bias=bias)


@pytest.mark.parametrize("channels, filters", CHANNELS)
def test_channels(channels, filters, algorithm, isa):
    weight = values(filters, channels, 3, 3, seed=1) / (3 * channels**0.5)
    for layout in (torch.channels_last, torch.contiguous_format):
        check(values(1, channels, 14, 23, layout=layout), weight, algorithm, layout=layout)


def test_random_shapes(algorithm, isa):
    rng = random.Random(7)
    for seed in range(12):
        n, channels, filters = rng.randint(1, 3), rng.randint(1, 130), rng.randint(1, 130)
        x = values(n, channels, rng.randint(1, 30), rng.randint(1, 30), seed=seed)
        weight = values(filters, channels, 3, 3, seed=seed + 100) / (3 * channels**0.5)
        check(x, weight, algorithm, activation=rng.choice(["none", "relu", "tanh"]))


EPILOGUES = ["none", "relu", "leaky_relu", "prelu", "sigmoid", "tanh"]


@pytest.mark.parametrize("activation", EPILOGUES)
@pytest.mark.parametrize("position", [None, "before", "after"])
def test_epilogues(activation, position, algorithm, isa):
    """Tiles inside and at the border, whole and cut vectors of filters, both layouts."""
    for filters, layout in [(48, torch.channels_last), (21, torch.channels_last), (16, None)]:
        layout = layout or torch.contiguous_format
        x, weight = values(1, 16, 13, 22, layout=layout), values(filters, 16, 3, 3, seed=1) / 12
        options = {"bias": values(filters, 1, 1, 1, seed=2).flatten(), "activation": activation}
        if activation == "prelu":
            options["prelu_weight"] = values(filters, 1, 1, 1, seed=3).flatten()
        if position:
            options["residual"] = values(1, filters, 13, 22, seed=4, layout=layout)
            options["position"] = position
        check(x, weight, algorithm, layout=layout, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_storage(dtype, algorithm, isa):
    x, weight = values(2, 24, 11, 18).to(dtype), (values(40, 24, 3, 3, seed=1) / 15).to(dtype)
    residual = values(2, 40, 11, 18, seed=2).to(dtype)
    check(x, weight, algorithm, activation="relu", residual=residual)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_slices_of_channels(layout, algorithm, isa):
    """Input, residual and output inside one buffer: what surrounds the output stays."""
    buffer = values(2, 80, 9, 26, layout=layout)
    before, weight = buffer.clone(), values(32, 17, 3, 3, seed=1) / 12
    residual = buffer[:, 41:73].clone()
    out = run(
        buffer[:, 3:20], weight, algorithm, out=buffer[:, 41:73], residual=buffer[:, 41:73],
        activation="relu",
    )  # fmt: skip
    alone = run(before[:, 3:20], weight, algorithm, residual=residual, activation="relu")
    assert torch.equal(out, alone)
    check(before[:, 3:20], weight, algorithm, residual=residual, activation="relu")
    assert torch.equal(buffer[:, :41], before[:, :41])
    assert torch.equal(buffer[:, 73:], before[:, 73:])


def test_threads_and_place_change_nothing(algorithm):
    """A tile's result depends on its inputs alone: not on threads, blocks or the batch."""
    x, weight = values(1, 40, 37, 50), values(72, 40, 3, 3, seed=1) / 18
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            results.append(run(x, weight, algorithm))
            results.append(run(x.repeat(3, 1, 1, 1), weight, algorithm)[2:])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)
    m = WINOGRAD_OUTPUTS[algorithm]
    shifted = run(x[:, :, m:, 2 * m :], weight, algorithm, padding=0)
    assert torch.equal(shifted, run(x, weight, algorithm, padding=0)[:, :, m:, 2 * m :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weight_gives_the_same_result(dtype, algorithm, isa):
    x, weight = values(1, 20, 9, 11).to(dtype), values(33, 20, 3, 3, seed=1).to(dtype)
    plain = run(x, weight, algorithm)
    packed = OPS.conv2d_pack(weight, algorithm)
    assert torch.equal(run(x, weight, algorithm, packed=packed), plain)
    assert torch.equal(run(x, weight, "auto", packed=packed), plain)
    torch.library.opcheck(
        OPS.conv2d_pack.default, (weight, algorithm), test_utils="test_faketensor"
    )
    with pytest.raises(RuntimeError, match="packed for another algorithm"):
        run(x, weight, "direct", packed=packed)


def test_what_winograd_cannot_do(algorithm):
    x, out = values(1, 4, 9, 9), torch.empty(1, 4, 7, 7)

    def refused(
        match: str, weight: Tensor, stride=1, dilation=1, groups=1, padding=0, x=x, out=out
    ) -> None:
        with pytest.raises(RuntimeError, match=f"winograd cannot be used here: {match}"):
            OPS.conv2d_out(
                x, weight, None, None, [stride] * 2, [padding] * 2, [dilation] * 2, groups,
                "constant", "none", 0.0, None, None, "before", algorithm, out,
            )  # fmt: skip

    refused("the kernel is not 3x3", values(4, 4, 3, 2), out=torch.empty(1, 4, 7, 8))
    refused("with stride 2", values(4, 4, 3, 3), stride=2, out=torch.empty(1, 4, 4, 4))
    refused("stride is neither 1 nor 2", values(4, 4, 3, 3), stride=3, out=torch.empty(1, 4, 3, 3))
    kernel, small = values(4, 4, 3, 3), torch.empty(1, 4, 3, 3)
    refused("neither dilation nor stride", kernel, 2, 2, out=small)
    refused("padding is no multiple", kernel, 1, 2, padding=1, out=torch.empty(1, 4, 7, 7))
    refused("dilation is larger than the output", kernel, 1, 4, out=small[:, :, :1, :1])
    refused("groups is not 1", values(4, 1, 3, 3), groups=4)
    refused("float64", values(4, 4, 3, 3).double(), x=x.double(), out=out.double())
    with pytest.raises(RuntimeError, match=r"weight of sizes .* the kernel is not 3x3"):
        OPS.conv2d_pack(values(4, 4, 5, 5), algorithm)


def test_empty_batch(algorithm):
    assert run(values(0, 16, 8, 8), values(16, 16, 3, 3), algorithm).shape == (0, 16, 8, 8)


def test_nan_reaches_every_output_that_reads_it(algorithm):
    x = values(1, 16, 20, 20)
    x[0, 5, 9, 10] = float("nan")
    for activation in ("none", "relu", "leaky_relu"):
        y = run(x, values(32, 16, 3, 3, seed=1), algorithm, activation=activation)
        assert y[:, :, 8:11, 9:12].isnan().all()
        assert not y[:, :, :1].isnan().any()


def test_output_larger_than_the_caches(algorithm):
    """Stores go past the caches then; compared on some rows."""
    x, weight = values(1, 16, 1024, 600), values(64, 16, 3, 3, seed=1) / 12
    y = run(x, weight, algorithm, activation="relu")
    for top in (0, 500):
        exact = F.conv2d(padded(x, 1)[:, :, top : top + 42].double(), weight.double()).relu()
        image = padded(x, 1)[:, :, top : top + 42].double()
        allowed = winograd_bounds.bound(image, weight.double(), 6) + winograd_bounds.EPS
        assert ((y[:, :, top : top + 40] - exact).abs() <= allowed).all()
    assert torch.equal(y[:, :, 1020:], run(x, weight, algorithm, activation="relu")[:, :, 1020:])


# --- the choice -----------------------------------------------------------------------------------


def test_precision_chooses():
    x, weight = values(1, 64, 48, 48), values(64, 64, 3, 3, seed=1) / 24

    def public(precision: str) -> Tensor:
        return ops.conv2d(x, weight, padding=1, precision=precision)

    assert torch.equal(public("strict"), run(x, weight, "direct"))
    assert torch.equal(public("default"), run(x, weight, "winograd4"))
    assert torch.equal(public("fast"), run(x, weight, "winograd6"))
    assert not torch.equal(public("strict"), public("default"))
    assert torch.equal(run(x, weight, "auto"), public("default"))


@pytest.mark.parametrize(
    "channels, filters, options",
    [
        (1, 64, {}),
        (3, 3, {}),
        (64, 64, {"stride": 2}),
        (64, 64, {"dilation": 2}),
        (64, 64, {"groups": 2}),
    ],
)
def test_direct_where_winograd_does_not_pay_or_apply(channels, filters, options):
    x = torch.empty(1, channels, 64, 64).contiguous(memory_format=torch.channels_last)
    weight = torch.empty(filters, channels // options.get("groups", 1), 3, 3)
    text = ops.explain(ops.conv2d, x, weight, padding=1, **options)
    assert text.startswith("conv_direct: chosen (CPU")
    reason = {
        "stride": "with stride 2",
        "dilation": "dilation is not 1",
        "groups": "groups is not",
    }
    assert reason.get(next(iter(options), ""), "times as long") in text.splitlines()[1]


def test_explain():
    x, weight = torch.empty(1, 64, 64, 64), torch.empty(64, 64, 3, 3)
    isa = native().isa_in_use()
    lines = ops.explain(ops.conv2d, x, weight, padding=1).splitlines()
    assert lines[0] == f"conv_winograd4: chosen (CPU, {isa})"
    assert lines[1] == "conv_winograd6: precision is not 'fast'"
    assert lines[2].startswith("conv_direct: estimated to take ")
    strict = ops.explain(ops.conv2d, x, weight, padding=1, precision="strict").splitlines()
    assert strict[0].startswith("conv_direct: chosen")
    assert strict[1] == "conv_winograd4: precision is 'strict'"
    text = ops.explain(ops.conv2d, x.double(), weight.double(), padding=1)
    assert "conv_winograd4: float64 is computed directly" in text


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_input_gradient(padding, isa):
    """It is a convolution with the rotated weight, and takes the same algorithm."""
    x = values(2, 32, 15, 18).requires_grad_()
    weight = values(48, 32, 3, 3, seed=1) / 17
    y = ops.conv2d(x, weight, padding=padding)
    grad = values(*y.shape, seed=2)
    (actual,) = torch.autograd.grad(y, x, grad)
    exact = F.conv_transpose2d(grad.double(), weight.double(), padding=padding)
    image = padded(grad.double(), 2)
    rotated = weight.double().transpose(0, 1).flip(2, 3)
    allowed = winograd_bounds.bound(image, rotated, 4)
    allowed = F.pad(allowed, [-padding] * 4)  # the gradient of the padding is dropped
    assert ((actual - exact).abs() <= allowed).all()
    # And it is Winograd's, not the direct sum.
    strict = ops.conv2d(x, weight, padding=padding, precision="strict")
    assert not torch.equal(actual, torch.autograd.grad(strict, x, grad)[0])


TRANSPOSED = {
    "k4s2": (4, (2, 2), (1, 1), 0),
    "k4s2_no_padding": (4, (2, 2), (0, 0), 0),
    "k4s2_padding_3": (4, (2, 2), (3, 3), 1),
    "k5s2": (5, (2, 2), (2, 2), 1),
    "k6s3": (6, (3, 3), (2, 1), 0),
    "k4s2x1": ((4, 3), (2, 1), (1, 1), 0),
}


@pytest.mark.parametrize("precision", ["default", "fast"])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed(name, precision, isa):
    """Each phase is a convolution of its own; odd sizes, so that phases differ in theirs."""
    kernel, stride, padding, output_padding = TRANSPOSED[name]
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x, bias = values(2, 48, 13, 19), torch.linspace(-1, 1, 64)
    weight = values(48, 64, *kernel, seed=1) / 20
    output_padding = tuple(min(output_padding, s - 1) for s in stride)
    arguments = (bias, stride, padding, output_padding)
    out = ops.conv_transpose2d(x, weight, *arguments, activation="relu", precision=precision)
    exact = F.conv_transpose2d(x.double(), weight.double(), bias.double(), *arguments[1:])
    outputs = 6 if precision == "fast" else 4
    allowed = winograd_bounds.transposed_bound(
        x.double(), weight.double(), stride, padding, exact.shape[2:], outputs
    )
    assert ((out - exact.relu()).abs() <= allowed).all()
    assert (
        "conv_winograd"
        in ops.explain(ops.conv_transpose2d, x, weight, *arguments, precision=precision).split(":")[
            0
        ]
    )
    planes = ops.conv_transpose2d(
        x.contiguous(), weight.contiguous(), *arguments, activation="relu", precision=precision
    )
    assert planes.is_contiguous() and ((planes - exact.relu()).abs() <= allowed).all()


def test_transposed_beyond_3x3_inputs_is_direct():
    x, weight = values(1, 64, 20, 20), values(64, 64, 8, 8)
    text = ops.explain(ops.conv_transpose2d, x, weight, stride=2, padding=3)
    assert text.startswith("conv_direct")
    assert "an output depends on more than 3x3 inputs" in text


def test_transposed_of_a_stride_beyond_the_kernel_is_direct():
    """A phase is a loop of the estimate too: 2**30 of them took seconds."""
    x, weight = values(1, 64, 1, 1), values(64, 64, 3, 3)
    text = ops.explain(ops.conv_transpose2d, x, weight, stride=2**30)
    assert text.startswith("conv_direct")
    assert "more phases than taps" in text


@pytest.mark.parametrize("border", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize(("dilation", "padding"), [(2, 2), (3, 3), (2, 4), (3, 0), (5, 5)])
def test_dilation(algorithm, dilation, padding, border, isa):
    """The pixels that lie a dilation apart are an image of their own."""
    weight, bias = values(35, 18, 3, 3, seed=1) / 9, values(35, 1, 1, 1, seed=2).flatten()
    for h, w in [(7, 9), (16, 13), (23, 31)]:
        x = values(2, 18, h, w)
        options = {"bias": bias, "dilation": dilation, "padding": padding, "border": border}
        if min(h, w) + 2 * (padding - dilation) < dilation:
            continue
        check(x, weight, algorithm, activation="relu", **options)
        residual = values(2, 35, *(size + 2 * (padding - dilation) for size in (h, w)), seed=3)
        check(x.contiguous(), weight, algorithm, residual=residual, **options)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [(7, 9), (16, 16), (29, 31)])
def test_weights_that_no_cache_keeps(algorithm, threads, size, isa):
    """More than a megabyte: blocks of all tiles, and for each thread some of the filters."""
    x, weight = values(2, 67, *size), values(307, 67, 3, 3, seed=1) / 24
    assert weight.shape[0] * weight.shape[1] * (WINOGRAD_OUTPUTS[algorithm] + 2) ** 2 * 4 > 2**20
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        actual = check(x, weight, algorithm, residual=values(2, 307, *size, seed=2))
        torch.set_num_threads(1)
        assert torch.equal(
            actual[:1], check(x[:1], weight, algorithm, residual=values(2, 307, *size, seed=2)[:1])
        )
    finally:
        torch.set_num_threads(before)


def test_bounds_use_a_correct_algorithm():
    """The matrices that the bound is made of compute a convolution."""
    x, weight = values(2, 3, 11, 9).double(), values(4, 3, 3, 3, seed=1).double()
    for m in WINOGRAD_OUTPUTS.values():
        error = winograd_bounds.convolve(x, weight, m) - F.conv2d(x, weight)
        assert error.abs().max() < 1e-12
    # What csrc/cpu and the documentation say about the points.
    assert winograd_bounds.amplification(2) == pytest.approx(7.1, abs=0.1)
    assert winograd_bounds.amplification(4) == pytest.approx(83.5, abs=0.1)
    assert winograd_bounds.amplification(6) == pytest.approx(509, abs=1)
