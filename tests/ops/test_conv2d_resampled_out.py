"""The raw operator conv2d_resampled_out, against float64 with the bound of winograd_bounds.py.

It is a 3x3 convolution that reads an upsampled image in front of another and pools its result.
"""

from __future__ import annotations

import itertools
import random

import bounds
import pytest
import torch
import winograd_bounds
from conv_images import POOLS, WINOGRAD_OUTPUTS, image_of, padded, values
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import reference
from denoise_ext._loader import native

OPS = torch.ops.denoise_ext


def run(
    coarse: Tensor | None,
    fine: Tensor | None,
    weight: Tensor,
    *,
    algorithm: str = "winograd4",
    results: str = "both",
    pooling: str = "max",
    border: str = "constant",
    layout=torch.channels_last,
    **options,
) -> dict[str, Tensor]:
    """``out`` and ``pooled``, or the one that ``results`` names."""
    n, _, h, w = image_of(coarse, fine).shape
    shapes = {"out": (h, w), "pooled": (h // 2, w // 2)}
    given = {
        name: torch.full((n, weight.shape[0], *size), float("nan"), dtype=weight.dtype).contiguous(
            memory_format=layout
        )
        for name, size in shapes.items()
        if results in (name, "both")
    }
    packed = OPS.conv2d_pack(weight, algorithm)
    OPS.conv2d_resampled_out(
        coarse, fine, weight, packed, options.get("bias"), border,
        options.get("activation", "none"), 0.1, options.get("prelu_weight"),
        options.get("residual"), options.get("position", "before"), pooling, given.get("out"),
        given.get("pooled"),
    )  # fmt: skip
    return given


def check(coarse: Tensor | None, fine: Tensor | None, weight: Tensor, **options) -> None:
    actual = run(coarse, fine, weight, **options)
    image = padded(image_of(coarse, fine), 1, options.get("border", "constant"))
    extra = {
        name: options[name].double()
        for name in ("bias", "prelu_weight", "residual")
        if name in options
    }
    exact = reference.conv2d(
        image, weight.double(), activation=options.get("activation", "none"), negative_slope=0.1,
        residual_position=options.get("position", "before"), **extra,
    )  # fmt: skip
    m = WINOGRAD_OUTPUTS[options.get("algorithm", "winograd4")]
    # Slopes are at most 1; 16 eps for bias, residual and the activation of values around 1.
    allowed = winograd_bounds.bound(image, weight.double(), m) + 16 * winograd_bounds.EPS
    pool = POOLS[options.get("pooling", "max")]
    # Neither the largest nor the mean of four is further off than the worst of them, the mean of
    # values around 1 up to its own three roundings.
    pooled = (pool(exact, 2), F.max_pool2d(allowed, 2) + 4 * winograd_bounds.EPS)
    for name, (wanted, bound) in {"out": (exact, allowed), "pooled": pooled}.items():
        if name in actual:
            assert actual[name].shape == wanted.shape
            error = (actual[name].double() - wanted).abs()
            bound = bound + bounds.output_rounding(wanted, weight.dtype)
            assert (error <= bound).all(), f"{name}: {float((error / bound).max()):.3g} x the bound"


def weights(filters: int, channels: int, seed: int = 1) -> Tensor:
    return values(filters, channels, 3, 3, seed=seed) / (3 * channels**0.5)


@pytest.mark.parametrize("algorithm", WINOGRAD_OUTPUTS)
@pytest.mark.parametrize("border", ["constant", "reflect", "replicate", "circular"])
def test_upsampling_sizes_and_borders(algorithm, border, isa):
    for h, w in [(1, 1), (1, 3), (2, 2), (4, 3), (7, 10), (17, 20)]:
        coarse, fine = values(2, 17, h, w), values(2, 33, 2 * h, 2 * w, seed=1)
        if border == "circular":  # the window wraps around once, as torch's padding
            image = F.pad(image_of(coarse, fine), [1] * 4, mode="circular")
            actual = run(coarse, fine, weights(20, 50), algorithm=algorithm, border=border)["out"]
            exact = F.conv2d(image, weights(20, 50).double())
            m = WINOGRAD_OUTPUTS[algorithm]
            allowed = winograd_bounds.bound(image, weights(20, 50).double(), m)
            assert ((actual.double() - exact).abs() <= allowed + 16 * winograd_bounds.EPS).all()
        else:
            check(coarse, fine, weights(20, 50), algorithm=algorithm, border=border)


@pytest.mark.parametrize("pooling", POOLS)
@pytest.mark.parametrize("algorithm", WINOGRAD_OUTPUTS)
def test_pooling_sizes(algorithm, pooling, isa):
    """Whole tiles, cut ones, odd sizes whose last row or column no block has."""
    for h, w in [(2, 2), (3, 5), (4, 4), (12, 12), (13, 26), (33, 40)]:
        for filters in (32, 21):
            fine = values(2, 16, h, w)
            options = {"algorithm": algorithm, "pooling": pooling, "activation": "relu"}
            check(None, fine, weights(filters, 16), **options)
            check(None, fine, weights(filters, 16), results="pooled", **options)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    "coarse, fine, filters",
    [(16, 0, 16), (16, 1, 5), (1, 16, 17), (3, 3, 64), (64, 48, 112), (20, 37, 31)],
)
def test_channels(coarse, fine, filters, layout, isa):
    a = values(1, coarse, 7, 11, layout=layout)
    b = values(1, fine, 14, 22, seed=1, layout=layout) if fine else None
    check(a, b, weights(filters, coarse + fine), layout=layout)


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "prelu", "sigmoid", "tanh"])
@pytest.mark.parametrize("position", [None, "before", "after"])
def test_epilogues(activation, position, isa):
    for filters, pooling in itertools.product((32, 21), POOLS):
        options = {"bias": values(filters, 1, 1, 1, seed=2).flatten(), "activation": activation}
        if activation == "prelu":
            options["prelu_weight"] = values(filters, 1, 1, 1, seed=3).flatten()
        if position:
            options["residual"] = values(1, filters, 14, 22, seed=4)
            options["position"] = position
        for results in ("both", "out", "pooled"):
            check(
                values(1, 16, 7, 11), values(1, 16, 14, 22, seed=1), weights(filters, 32),
                pooling=pooling, results=results, **options,
            )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_storage(dtype, isa):
    for pooling in POOLS:
        coarse, fine = values(2, 16, 5, 9).to(dtype), values(2, 24, 10, 18, seed=1).to(dtype)
        check(coarse, fine, weights(32, 40).to(dtype), pooling=pooling, activation="relu")


def test_random_calls(isa):
    rng = random.Random(5)
    for seed in range(24):
        h, w = rng.randint(1, 20), rng.randint(1, 20)
        first, second, filters = (rng.randint(1, 70) for _ in range(3))
        check(
            values(2, first, h, w, seed=seed), values(2, second, 2 * h, 2 * w, seed=seed + 50),
            weights(filters, first + second, seed), algorithm=rng.choice([*WINOGRAD_OUTPUTS]),
            pooling=rng.choice([*POOLS]), results=rng.choice(["out", "pooled", "both"]),
            activation=rng.choice(["none", "relu", "tanh"]),
        )  # fmt: skip


def test_slices_of_channels():
    """Images and results inside larger buffers: what surrounds the results stays."""
    coarse, fine = values(1, 40, 6, 9)[:, 3:20], values(1, 60, 12, 18, seed=1)[:, 5:38]
    weight = weights(32, 50)
    alone = run(coarse.clone(), fine.clone(), weight)
    whole, half = values(1, 70, 12, 18, seed=2), values(1, 70, 6, 9, seed=3)
    before = whole.clone(), half.clone()
    packed = OPS.conv2d_pack(weight, "winograd4")
    OPS.conv2d_resampled_out(
        coarse, fine, weight, packed, None, "constant", "none", 0.01, None, None, "before", "max",
        whole[:, 20:52], half[:, 20:52],
    )  # fmt: skip
    for buffer, old, result in zip((whole, half), before, alone.values(), strict=True):
        assert torch.equal(buffer[:, 20:52], result)
        assert torch.equal(buffer[:, :20], old[:, :20])
        assert torch.equal(buffer[:, 52:], old[:, 52:])


def test_nan_passes_the_pooling():
    """As in torch: one NaN among four is the result."""
    for h, w in [(8, 8), (7, 5)]:
        fine = values(1, 16, h, w)
        fine[0, 0, 1, 2] = float("nan")
        weight = weights(16, 16)
        both = run(None, fine, weight)
        expected = F.max_pool2d(both["out"], 2)
        assert torch.equal(both["pooled"].isnan(), expected.isnan())
        assert both["pooled"].isnan().any()
        assert torch.equal(both["pooled"].nan_to_num(9.0), expected.nan_to_num(9.0))


def test_threads_do_not_matter():
    coarse, fine, weight = values(2, 32, 17, 30), values(2, 32, 34, 60, seed=1), weights(48, 64)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            results.append(run(coarse, fine, weight))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(other[name], results[0][name]) for name in other)


def test_empty_batch():
    out = run(values(0, 16, 4, 4), values(0, 16, 8, 8), weights(16, 32))
    assert out["out"].shape == (0, 16, 8, 8)


def test_errors_name_the_argument():
    native()
    coarse, fine, weight = values(1, 16, 4, 4), values(1, 16, 8, 8), weights(16, 32)
    packed = OPS.conv2d_pack(weight, "winograd4")

    def call(**changed):
        arguments = {
            "coarse": coarse, "fine": fine, "weight": weight, "packed_weight": packed,
            "bias": None, "border": "constant", "activation": "none", "negative_slope": 0.01,
            "prelu_weight": None, "residual": None, "residual_position": "before",
            "pooling": "max", "out": torch.empty(1, 16, 8, 8), "pooled": None,
        }  # fmt: skip
        OPS.conv2d_resampled_out(*{**arguments, **changed}.values())

    call()
    for changed, message in [
        ({"coarse": None, "fine": None}, "coarse or fine must be given"),
        ({"coarse": values(1, 16, 5, 4)}, "coarse must have half as many rows"),
        ({"fine": None, "coarse": torch.empty(0, 32, 2**29 + 1, 1)}, "coarse must have at most"),
        ({"weight": weights(16, 30)}, r"weight must be \(K, 32, 3, 3\)"),
        ({"fine": fine.double()}, "fine"),
        ({"packed_weight": OPS.conv2d_pack(weight, "direct")}, "packed for 'winograd2'"),
        ({"packed_weight": torch.empty(0)}, "packed_weight must be a result of conv2d_pack"),
        ({"packed_weight": torch.zeros(packed.shape)}, "packed_weight cannot be used here"),
        (
            {
                "coarse": None,
                "fine": torch.zeros(1, 32, 8, 8, dtype=torch.uint8),
                "weight": torch.zeros(16, 32, 3, 3, dtype=torch.uint8),
                "out": torch.zeros(1, 16, 8, 8, dtype=torch.uint8),
            },
            "weight must be floating point, got uint8",
        ),
        ({"pooling": "median"}, "pooling must be 'max' or 'average', got 'median'"),
        ({"out": None}, "out or pooled must be given"),
        ({"out": torch.empty(1, 16, 8, 7)}, "out"),
        ({"pooled": torch.empty(1, 16, 4, 3)}, "pooled"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            call(**changed)
