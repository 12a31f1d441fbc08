"""Calls of the normalisations: chosen ones, small ones for gradcheck, random ones."""

from __future__ import annotations

import random

from calls import Call

from denoise_ext._arguments import ACTIVATIONS

_ACTIVATIONS = [name for name in ACTIVATIONS if name not in ("none", "prelu")]


def _call(shape: tuple[int, ...], **options: object) -> Call:
    channels = (shape[-3],)
    return Call({"input": shape, "weight": channels, "bias": channels}, options)


def _sizes(**options: object) -> dict[str, Call]:
    """Sizes whose channels every number of groups here divides."""
    return {
        "no_weight": Call({"input": (2, 6, 9, 8)}, options),
        "1x1_image": _call((3, 36, 1, 1), **options),
        "64_channels": _call((1, 66, 9, 33), **options),
        "several_tiles": _call((2, 18, 19, 131), **options),
        "many_channels": _call((1, 300, 3, 13), **options),
        "wide": _call((1, 6, 2, 700), **options),
        "no_epsilon": _call((1, 6, 5, 7), eps=0.0, **options),
        "empty_batch": _call((0, 6, 9, 8), **options),
        "unbatched": _call((6, 9, 8), **options),
    }


def layer_norm2d_calls() -> dict[str, Call]:
    base = _call((2, 6, 9, 8))
    activated = {name: base.with_options(activation=name) for name in _ACTIVATIONS}
    activated["leaky_relu"] = base.with_options(activation="leaky_relu", negative_slope=0.2)
    # As many channels as one, two and four vectors of 16, and some more; rows of odd lengths.
    vectors = {f"{n}_channels": _call((2, n, 5, 37)) for n in (8, 16, 17, 31, 32, 60)}
    return {"none": base, **activated, **_sizes(), **vectors, "one_channel": _call((2, 1, 5, 6))}


def group_norm_calls() -> dict[str, Call]:
    base = _call((2, 6, 9, 8), num_groups=3)
    activated = {name: base.with_options(activation=name) for name in _ACTIVATIONS}
    activated["leaky_relu"] = base.with_options(activation="leaky_relu", negative_slope=0.2)
    sizes = _sizes(num_groups=3)
    # A group of one value has the variance 0, which no eps would divide by.
    return {
        "none": base,
        **activated,
        **sizes,
        "instance": _call((2, 6, 9, 8), num_groups=6),
        "one_group": _call((2, 6, 9, 8), num_groups=1),
        "one_channel": _call((2, 1, 5, 6), num_groups=1),
    }


def layer_norm2d_small_calls() -> dict[str, Call]:
    base = _call((2, 4, 3, 2))
    return {
        "none": base,
        "no_weight": Call({"input": (2, 4, 3, 2)}),
        "gelu": base.with_options(activation="gelu"),
        "leaky_relu": base.with_options(activation="leaky_relu", negative_slope=0.2),
        "sigmoid": base.with_options(activation="sigmoid"),
        "unbatched": _call((4, 3, 2)),
    }


def group_norm_small_calls() -> dict[str, Call]:
    base = _call((2, 4, 3, 2), num_groups=2)
    return {
        "none": base,
        "instance": _call((2, 4, 3, 2), num_groups=4),
        "no_weight": Call({"input": (2, 4, 3, 2)}, {"num_groups": 2}),
        "silu": base.with_options(activation="silu"),
        "relu": base.with_options(activation="relu"),
        "tanh": base.with_options(activation="tanh"),
        "unbatched": _call((4, 3, 2), num_groups=1),
    }


def fuzz_layer_norm2d(rng: random.Random) -> Call:
    shape = (rng.randint(1, 3), rng.randint(1, 70), rng.randint(1, 12), rng.randint(1, 80))
    return _random(rng, shape, {})


def fuzz_group_norm(rng: random.Random) -> Call:
    groups = rng.randint(1, 6)
    shape = (
        rng.randint(1, 3),
        groups * rng.randint(1, 15),
        rng.randint(1, 12),
        rng.randint(1, 80),
    )
    return _random(rng, shape, {"num_groups": groups})


def _random(rng: random.Random, shape: tuple[int, ...], options: dict[str, object]) -> Call:
    shapes = {"input": shape}
    for name in ("weight", "bias"):
        if rng.random() < 0.7:
            shapes[name] = (shape[1],)
    activation = rng.choice(["none", *_ACTIVATIONS])
    eps = rng.choice([1e-5, 1e-6, 1e-2])
    return Call(shapes, {**options, "activation": activation, "eps": eps})
