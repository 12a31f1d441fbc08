"""Calls of the filters: chosen ones, small ones for gradcheck, random ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from calls import Call

BORDERS = ("reflect", "replicate", "constant", "circular")


def gaussian_calls() -> dict[str, Call]:
    def call(input: tuple[int, ...], kernel: int | tuple[int, int], **options: object) -> Call:
        return Call({"input": input}, {"kernel_size": kernel, "sigma": 1.5, **options})

    def per_image(sigma: tuple[int, ...]) -> Call:
        return Call({"input": (3, 2, 9, 10), "sigma": sigma}, {"kernel_size": (5, 7)})

    return {
        **{border: call((2, 3, 9, 10), (5, 7), border_type=border) for border in BORDERS},
        **{
            f"{border}_kernel_larger_than_image": call((1, 2, 3, 2), (13, 9), border_type=border)
            for border in BORDERS
        },
        **{f"{border}_1x1_image": call((2, 3, 1, 1), 5, border_type=border) for border in BORDERS},
        # Rows of 64 elements and more take kernels of their own.
        **{
            f"{border}_wide": call((2, 3, 21, 90), (7, 9), border_type=border) for border in BORDERS
        },
        **{
            f"{border}_wide_kernel_larger_than_image": call(
                (1, 1, 5, 70), (13, 151), border_type=border, sigma=(3.0, 40.0)
            )
            for border in BORDERS
        },
        "wide_one_tap": call((1, 4, 3, 75), 1),
        "wide_vertical": call((1, 1, 6, 67), (3, 1)),
        "wide_several_tiles": call((1, 3, 37, 1500), (3, 15), border_type="replicate"),
        "one_tap": call((1, 3, 5, 6), 1),
        "vertical": call((1, 3, 6, 5), (3, 1), sigma=(0.7, 2.0)),
        "sigma_20": call((1, 1, 70, 81), 121, sigma=20.0),
        "tiny_sigma": call((1, 1, 5, 6), 5, sigma=1e-3),
        "64_channels": call((1, 64, 11, 13), 7),
        "several_tiles": call((1, 2, 150, 1100), (31, 9), sigma=5.0),
        "sigma_pair": call((1, 2, 9, 10), (5, 7), sigma=(0.6, 3.0)),
        "sigma_tensor": per_image((3, 2)),
        "sigma_tensor_shared": per_image((1, 2)),
        "sigma_tensor_isotropic": per_image((3,)),
        "empty_batch": call((0, 3, 9, 10), 5),
        "unbatched": call((3, 9, 10), 5),
    }


def gaussian_small_calls() -> dict[str, Call]:
    base = Call({"input": (2, 2, 4, 3), "sigma": (2, 2)}, {"kernel_size": (3, 5)})
    return {
        **{border: base.with_options(border_type=border) for border in BORDERS},
        "shared": base.with_shapes(sigma=(1, 2)),
        "isotropic": base.with_shapes(sigma=(2,)),
        "unbatched": base.with_shapes(input=(2, 4, 3), sigma=(1,)),
    }


def _odd(rng: random.Random, largest: int) -> int:
    return rng.randrange(1, largest + 1, 2)


def fuzz_gaussian(rng: random.Random) -> Call:
    batch = rng.randint(1, 3)
    width = rng.randint(1, rng.choice([40, 200]))
    shapes = {"input": (batch, rng.randint(1, 20), rng.randint(1, 40), width)}
    options = {"kernel_size": (_odd(rng, 15), _odd(rng, 15)), "border_type": rng.choice(BORDERS)}
    if rng.random() < 0.5:
        shapes["sigma"] = rng.choice([(batch, 2), (1, 2), (batch,), (1,)])
    else:
        options["sigma"] = rng.choice([0.3, 1.0, (0.5, 2.0), 25.0])
    return Call(shapes, options)


_SIGMAS = {"sigma_color": (2,), "sigma_space": (2, 2)}


def bilateral_calls(joint: bool) -> dict[str, Call]:
    def call(input: tuple[int, ...], kernel: int | tuple[int, int], **options: object) -> Call:
        shapes = {"input": input}
        if joint:  # another number of channels than the input's
            shapes["guidance"] = (*input[:-3], input[-3] % 3 + 1, *input[-2:])
        defaults = {"kernel_size": kernel, "sigma_color": 0.3, "sigma_space": 1.5}
        return Call(shapes, {**defaults, **options})

    def joint_call(channels: int, guides: int, **options: object) -> Call:
        image, guidance = (2, channels, 9, 40), (2, guides, 9, 40)
        return call(image, 5, **options).with_shapes(guidance=guidance)

    # Few channels take a kernel of their own; `call` has others.
    fused = {
        f"{channels}_of_{guides}_{distance}": joint_call(
            channels, guides, color_distance_type=distance
        )
        for channels, guides in [(1, 1), (3, 1), (1, 3), (3, 3)]
        for distance in ("l1", "l2")
    }

    def by_tensors(input: tuple[int, ...], kernel: tuple[int, int]) -> Call:
        return replace(call(input, kernel).with_shapes(**_SIGMAS), options={"kernel_size": kernel})

    tensors = by_tensors((2, 3, 9, 10), (5, 3))
    return {
        **{border: call((2, 3, 9, 10), (5, 7), border_type=border) for border in BORDERS},
        **{
            f"{border}_kernel_larger_than_image": call((1, 2, 3, 2), (9, 7), border_type=border)
            for border in BORDERS
        },
        **{f"{border}_1x1_image": call((2, 1, 1, 1), 5, border_type=border) for border in BORDERS},
        "kernel_larger_than_image_l2": call((1, 3, 3, 7), 19, color_distance_type="l2"),
        "kernel_larger_than_image_circle": call((2, 2, 4, 3), 15, window="circle"),
        "kernel_larger_than_image_sigma_tensors": by_tensors((2, 3, 5, 4), (13, 21)),
        "l2": call((2, 3, 9, 10), 5, color_distance_type="l2"),
        "gray": call((1, 1, 9, 21), 5),
        "circle": call((1, 3, 9, 10), 7, window="circle"),
        "circle_l2_gray": call((1, 1, 9, 10), 5, window="circle", color_distance_type="l2"),
        "4_channels": call((1, 4, 9, 10), 5),
        "4_channels_l2": call((1, 4, 9, 10), 5, color_distance_type="l2"),
        "5_channels": call((1, 5, 9, 10), 5),
        "gray_several_tiles": call((1, 1, 70, 140), 5),
        "several_tiles": call((1, 3, 40, 140), 9),
        "one_tap": call((1, 3, 5, 6), 1),
        "small_sigma_color": call((1, 3, 7, 8), 5, sigma_color=1e-3),
        "large_sigmas": call((1, 3, 7, 8), 5, sigma_color=50.0, sigma_space=20.0),
        **(fused if joint else {}),
        "sigma_pair": call((1, 2, 9, 10), (5, 7), sigma_space=(0.6, 3.0)),
        "sigma_tensors": tensors,
        "sigma_tensors_shared": tensors.with_shapes(sigma_color=(1,), sigma_space=(1, 2)),
        "sigma_tensors_isotropic": tensors.with_shapes(sigma_space=(2,)),
        "empty_batch": call((0, 3, 9, 10), 5),
        "unbatched": call((3, 9, 10), 5),
    }


def bilateral_small_calls(joint: bool) -> dict[str, Call]:
    guidance = {"guidance": (2, 1, 4, 3)} if joint else {}
    base = Call({"input": (2, 2, 4, 3), **guidance, **_SIGMAS}, {"kernel_size": (3, 5)})
    square = base.with_options(kernel_size=5)
    return {
        **{border: base.with_options(border_type=border) for border in BORDERS},
        "l2": base.with_options(color_distance_type="l2"),
        "circle": square.with_options(window="circle"),
        "circle_l2": square.with_options(window="circle", color_distance_type="l2"),
        "shared": base.with_shapes(sigma_color=(1,), sigma_space=(1, 2)),
        "isotropic": base.with_shapes(sigma_space=(2,)),
    }


def fuzz_bilateral(joint: bool) -> Callable[[random.Random], Call]:
    def fuzz(rng: random.Random) -> Call:
        batch, size = rng.randint(1, 3), (rng.randint(1, 30), rng.randint(1, 30))
        shapes = {"input": (batch, rng.randint(1, 5), *size)}
        if joint:
            shapes["guidance"] = (batch, rng.randint(1, 5), *size)
        kernel = (_odd(rng, 9), _odd(rng, 9))
        options: dict[str, object] = {
            "border_type": rng.choice(BORDERS),
            "color_distance_type": rng.choice(["l1", "l2"]),
            "window": rng.choice(["square", "circle"]),
        }
        options["kernel_size"] = kernel if options["window"] == "square" else kernel[0]
        if rng.random() < 0.5:
            shapes["sigma_color"] = rng.choice([(batch,), (1,)])
            shapes["sigma_space"] = rng.choice([(batch, 2), (1, 2), (batch,)])
        else:
            options["sigma_color"] = rng.choice([0.05, 0.3, 5.0])
            options["sigma_space"] = rng.choice([0.5, 2.0, (1.0, 4.0)])
        return Call(shapes, options)

    return fuzz
