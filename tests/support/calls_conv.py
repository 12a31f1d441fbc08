"""Calls of the convolutions: chosen ones, small ones for gradcheck, random ones."""

from __future__ import annotations

import random

from calls import Call

from denoise_ext._arguments import ACTIVATIONS


def _conv_call(
    input: tuple[int, ...], weight: tuple[int, ...], *, bias: int | None = None, **options: object
) -> Call:
    shapes = {"input": input, "weight": weight}
    if bias:
        shapes["bias"] = (bias,)
    return Call(shapes, options)


def _activations(base: Call, channels: int) -> dict[str, Call]:
    plain = [name for name in ACTIVATIONS if name not in ("none", "leaky_relu", "prelu")]
    calls = {name: base.with_options(activation=name) for name in plain}
    calls["leaky_relu"] = base.with_options(activation="leaky_relu", negative_slope=0.2)
    prelu = base.with_options(activation="prelu")
    calls["prelu"] = prelu.with_shapes(prelu_weight=(1,))
    calls["prelu_per_channel"] = prelu.with_shapes(prelu_weight=(channels,))
    return calls


def _residuals(activations: dict[str, Call], shape: tuple[int, ...]) -> dict[str, Call]:
    calls = {}
    for name, call in activations.items():
        with_residual = call.with_shapes(residual=shape)
        calls[f"{name}_residual_before"] = with_residual
        calls[f"{name}_residual_after"] = with_residual.with_options(residual_position="after")
    return calls


def conv2d_calls() -> dict[str, Call]:
    base = _conv_call((2, 5, 9, 8), (7, 5, 3, 3), bias=7, padding=1)
    activations = {"none": base, **_activations(base, 7)}
    return {
        **activations,
        **_residuals(activations, (2, 7, 9, 8)),
        "no_bias": _conv_call((2, 5, 9, 8), (7, 5, 3, 3)),
        "1x1": _conv_call((2, 6, 5, 7), (9, 6, 1, 1), bias=9),
        "1x1_image": _conv_call((3, 4, 1, 1), (5, 4, 3, 3), bias=5, padding=1),
        "kernel_larger_than_image": _conv_call((1, 2, 1, 2), (3, 2, 5, 5), bias=3, padding=2),
        "padding_larger_than_kernel": _conv_call((1, 2, 3, 2), (3, 2, 3, 1), bias=3, padding=4),
        "stride": _conv_call((1, 3, 11, 10), (4, 3, 5, 3), bias=4, stride=(2, 3), padding=(2, 1)),
        "dilation": _conv_call((1, 3, 11, 12), (4, 3, 3, 2), bias=4, dilation=(2, 3), padding=2),
        "stride_dilation": _conv_call(
            (1, 3, 13, 12), (4, 3, 3, 3), bias=4, stride=2, dilation=2, padding=3
        ),
        "groups": _conv_call((2, 6, 7, 5), (9, 2, 3, 3), bias=9, groups=3, padding=1),
        "depthwise": _conv_call((2, 17, 8, 9), (17, 1, 3, 3), bias=17, groups=17, padding=1),
        "depthwise_multiplier": _conv_call((1, 4, 6, 7), (8, 1, 5, 5), groups=4, padding=2),
        "depthwise_stride": _conv_call((1, 32, 9, 8), (32, 1, 3, 3), groups=32, stride=2),
        "same": _conv_call((1, 3, 6, 7), (4, 3, 3, 5), bias=4, padding="same"),
        "same_uneven": _conv_call((1, 3, 6, 7), (4, 3, 4, 2), padding="same", dilation=(1, 3)),
        "valid": _conv_call((1, 3, 6, 7), (4, 3, 4, 2), padding="valid"),
        "tuned_channels": _conv_call((1, 16, 12, 21), (32, 16, 3, 3), bias=32, padding=1),
        "wide": _conv_call((1, 3, 4, 61), (16, 3, 3, 3), bias=16, padding=1),
        "one_output": _conv_call((2, 32, 5, 41), (1, 32, 3, 3), bias=1, padding=1),
        "two_outputs_dilation": _conv_call(
            (1, 16, 6, 23), (2, 16, 3, 3), bias=2, padding=2, dilation=2, activation="relu"
        ),
        "few_outputs_odd": _conv_call((1, 35, 4, 22), (3, 35, 3, 3), bias=3, padding=1),
        "four_outputs": _conv_call(
            (1, 48, 4, 19), (4, 48, 5, 5), bias=4, padding=2, activation="tanh"
        ).with_shapes(residual=(1, 4, 4, 19)),
        "64_channels": _conv_call((1, 64, 9, 33), (64, 64, 3, 3), bias=64, padding=1),
        "first_layer": _conv_call((1, 1, 20, 19), (64, 1, 3, 3), bias=64, padding=1),
        "last_layer": _conv_call((1, 64, 20, 19), (1, 64, 3, 3), bias=1, padding=1),
        "several_tiles": _conv_call((2, 3, 19, 131), (20, 3, 3, 3), bias=20, padding=1),
        "many_channels": _conv_call((1, 300, 3, 13), (70, 300, 3, 3), bias=70, padding=1),
        "empty_batch": _conv_call((0, 5, 9, 8), (7, 5, 3, 3), bias=7, padding=1),
        "unbatched": _conv_call((5, 9, 8), (7, 5, 3, 3), bias=7, padding=1).with_shapes(
            residual=(7, 9, 8)
        ),
    }


def conv2d_small_calls() -> dict[str, Call]:
    base = _conv_call((2, 2, 4, 3), (4, 1, 3, 2), bias=4, groups=2, padding=1, stride=(2, 1))
    activations = {"none": base, **_activations(base, 4)}
    return {
        **activations,
        **_residuals(activations, (2, 4, 2, 4)),
        "dilation": _conv_call((1, 2, 5, 4), (2, 2, 2, 2), bias=2, dilation=2, padding=1),
        "unbatched": _conv_call((2, 4, 3), (3, 2, 1, 1), bias=3),
    }


def _random_activation(rng: random.Random, call: Call, channels: int) -> Call:
    activation = rng.choice(ACTIVATIONS)
    call = call.with_options(activation=activation)
    if activation == "leaky_relu":
        call = call.with_options(negative_slope=rng.choice([0.0, 0.01, 0.5, 1.5]))
    if activation == "prelu":
        call = call.with_shapes(prelu_weight=(rng.choice([1, channels]),))
    return call


def _random_groups(rng: random.Random) -> tuple[int, int, int]:
    """(groups, input channels per group, output channels per group)."""
    if rng.random() < 0.25:
        return rng.randint(1, 40), 1, rng.choice([1, 1, 2])  # depthwise
    return rng.choice([1, 1, 1, 2, 3]), rng.randint(1, 20), rng.randint(1, 20)


def fuzz_conv2d(rng: random.Random) -> Call:
    groups, c_in, c_out = _random_groups(rng)
    while True:
        size = rng.randint(1, 18), rng.randint(1, 18)
        kernel = rng.randint(1, 6), rng.randint(1, 6)
        stride = rng.randint(1, 3), rng.randint(1, 3)
        dilation = rng.randint(1, 3), rng.randint(1, 3)
        padding = rng.randint(0, 4), rng.randint(0, 4)
        output = [
            (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
            for i in (0, 1)
        ]
        if min(output) >= 1:
            break
    batch, channels = rng.randint(1, 3), groups * c_out
    call = _conv_call(
        (batch, groups * c_in, *size), (channels, c_in, *kernel),
        bias=rng.choice([None, channels]), stride=stride, padding=padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip
    if rng.random() < 0.4:
        call = call.with_shapes(residual=(batch, channels, *output))
        call = call.with_options(residual_position=rng.choice(["before", "after"]))
    return _random_activation(rng, call, channels)


def conv_transpose2d_calls() -> dict[str, Call]:
    base = _conv_call((2, 5, 4, 6), (5, 7, 4, 4), bias=7, stride=2, padding=1)
    return {
        "none": base,
        **_activations(base, 7),
        "no_bias": _conv_call((2, 5, 4, 6), (5, 7, 3, 3)),
        "2x2_stride2": _conv_call((1, 16, 5, 9), (16, 32, 2, 2), bias=32, stride=2),
        "3x3_stride2": _conv_call(
            (1, 3, 5, 4), (3, 4, 3, 3), bias=4, stride=2, padding=1, output_padding=1
        ),
        "stride_larger_than_kernel": _conv_call((1, 3, 4, 5), (3, 2, 2, 1), bias=2, stride=(3, 4)),
        "output_padding": _conv_call(
            (1, 3, 4, 5), (3, 2, 3, 5), stride=(3, 2), output_padding=(2, 1), padding=(1, 2)
        ),
        "dilation": _conv_call((1, 3, 5, 4), (3, 4, 3, 2), stride=2, dilation=(3, 2), padding=1),
        "output_padding_by_dilation": _conv_call(
            (1, 2, 3, 3), (2, 2, 2, 2), dilation=3, output_padding=2
        ),
        "groups": _conv_call((1, 6, 5, 4), (6, 4, 3, 3), bias=12, stride=2, groups=3),
        "depthwise": _conv_call((1, 19, 5, 4), (19, 1, 4, 4), stride=2, padding=1, groups=19),
        "1x1_image": _conv_call((2, 4, 1, 1), (4, 3, 4, 4), bias=3, stride=2, padding=1),
        "padding_larger_than_kernel": _conv_call((1, 2, 9, 8), (2, 3, 3, 3), padding=4),
        "64_channels": _conv_call((1, 64, 7, 9), (64, 64, 4, 4), bias=64, stride=2, padding=1),
        "several_tiles": _conv_call((2, 3, 9, 67), (3, 20, 4, 4), bias=20, stride=2, padding=1),
        "many_channels": _conv_call((1, 300, 3, 7), (300, 70, 2, 2), bias=70, stride=2),
        "empty_batch": _conv_call((0, 5, 4, 6), (5, 7, 4, 4), bias=7, stride=2, padding=1),
        "unbatched": _conv_call((5, 4, 6), (5, 7, 4, 4), bias=7, stride=2, padding=1),
    }


def conv_transpose2d_small_calls() -> dict[str, Call]:
    base = _conv_call((2, 2, 2, 3), (2, 2, 3, 2), bias=4, groups=2, padding=1, stride=(2, 3))
    return {
        "none": base,
        **_activations(base, 4),
        "dilation": _conv_call((1, 2, 3, 2), (2, 2, 2, 2), bias=2, dilation=2, padding=1, stride=2),
        "unbatched": _conv_call((2, 2, 3), (2, 3, 2, 2), bias=3, stride=2),
    }


def fuzz_conv_transpose2d(rng: random.Random) -> Call:
    groups, c_in, c_out = _random_groups(rng)
    while True:
        size = rng.randint(1, 10), rng.randint(1, 10)
        kernel = rng.randint(1, 6), rng.randint(1, 6)
        stride = rng.randint(1, 4), rng.randint(1, 4)
        dilation = rng.randint(1, 3), rng.randint(1, 3)
        padding = rng.randint(0, 3), rng.randint(0, 3)
        extra = [rng.randint(0, max(stride[i], dilation[i]) - 1) for i in (0, 1)]
        output = [
            (size[i] - 1) * stride[i]
            - 2 * padding[i]
            + dilation[i] * (kernel[i] - 1)
            + extra[i]
            + 1
            for i in (0, 1)
        ]
        if min(output) >= 1:
            break
    channels = groups * c_out
    call = _conv_call(
        (rng.randint(1, 3), groups * c_in, *size), (groups * c_in, c_out, *kernel),
        bias=rng.choice([None, channels]), stride=stride, padding=padding,
        output_padding=tuple(extra), dilation=dilation, groups=groups,
    )  # fmt: skip
    return _random_activation(rng, call, channels)
