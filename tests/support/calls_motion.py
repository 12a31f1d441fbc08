"""Calls of block matching, motion compensation and recurrent fusion."""

from __future__ import annotations

import random

from calls import Call

BLOCK = 8


def _blocks(shape: tuple[int, ...]) -> tuple[int, int]:
    return -(-shape[2] // BLOCK), -(-shape[3] // BLOCK)


def _match(*shape: int, **options: object) -> Call:
    return Call({"input": shape, "previous": shape}, options)


def _with_block_sigma(call: Call) -> Call:
    shape = call.shapes["input"]
    return call.with_shapes(sigma=(shape[0], 1, *_blocks(shape)))


def resized_match(call: Call, height: int, width: int) -> Call:
    """The call for frames of another size."""
    shape = (*call.shapes["input"][:2], height, width)
    return call.with_shapes(input=shape, previous=shape)


def block_match_calls() -> dict[str, Call]:
    return {
        "one_sigma": _match(2, 1, 16, 24, sigma=25.0),
        "no_sigma": _match(1, 1, 32, 40),
        "sigma_of_blocks": _with_block_sigma(_match(2, 1, 24, 40)),
        "part_of_a_block": _match(1, 1, 13, 27, sigma=5.0),
        "smaller_than_a_block": _match(1, 1, 3, 5),
        "1x1_image": _match(2, 1, 1, 1),
        "several_tiles": _match(1, 1, 50, 610, sigma=10.0),
        "huge_sigma": _match(1, 1, 16, 16, sigma=1e30),
        "empty_batch": _match(0, 1, 16, 16),
    }


def block_match_small_calls() -> dict[str, Call]:
    return {
        "one_sigma": _match(2, 1, 9, 10, sigma=25.0),
        "sigma_of_blocks": _with_block_sigma(_match(1, 1, 8, 16)),
    }


def fuzz_block_match(rng: random.Random) -> Call:
    shape = (rng.randint(1, 2), 1, rng.randint(1, 40), rng.randint(1, rng.choice([40, 150])))
    call = _match(*shape)
    if rng.random() < 0.5:
        return _with_block_sigma(call)
    return call.with_options(sigma=rng.choice([0.0, 3, 25.0, 1e9]))


def _warp(*shape: int) -> Call:
    return Call({"input": shape, "motion": (shape[0], *_blocks(shape), 2)})


def resized_warp(call: Call, height: int, width: int) -> Call:
    """The call for an image of another size."""
    return _warp(*call.shapes["input"][:2], height, width)


def block_warp_calls() -> dict[str, Call]:
    return {
        "gray": _warp(2, 1, 16, 24),
        "three_channels": _warp(2, 3, 24, 40),
        "part_of_a_block": _warp(1, 2, 13, 27),
        "smaller_than_a_block": _warp(2, 3, 3, 5),
        "1x1_image": _warp(2, 3, 1, 1),
        "several_tiles": _warp(1, 3, 50, 300),
        "empty_batch": _warp(0, 3, 16, 16),
    }


def block_warp_small_calls() -> dict[str, Call]:
    return {"one_block": _warp(2, 2, 4, 3), "two_blocks": _warp(1, 1, 2, 9)}


def fuzz_block_warp(rng: random.Random) -> Call:
    width = rng.randint(1, rng.choice([40, 150]))
    return _warp(rng.randint(1, 3), rng.randint(1, 8), rng.randint(1, 40), width)


def _fuse(
    batch: int, channels: int, rows: int, columns: int, factor: int, level: str = "pixel"
) -> Call:
    """A frame of ``factor`` * (rows, columns); level: of the pixel, the image, or one number."""
    height, width = factor * rows, factor * columns
    shapes = {
        "input": (batch, channels, height, width),
        "previous": (batch, 2 * channels + 1, height, width),
        "gate": (batch, factor * factor, rows, columns),
    }
    levels = {"pixel": (batch, 1, height, width), "image": (batch, 1, 1, 1)}
    if level == "number":
        return Call(shapes, {"level": 0.125})  # exact in every dtype
    return Call({**shapes, "level": levels[level]})


def resized_fuse(call: Call, height: int, width: int) -> Call:
    """The call for a frame of another size."""
    batch, channels = call.shapes["input"][:2]
    return _fuse(batch, channels, height, width, 1)


def recurrent_fuse_calls() -> dict[str, Call]:
    return {
        "gate_of_pixels": _fuse(2, 1, 9, 10, 1),
        "gray": _fuse(2, 1, 3, 5, 4),
        "colour": _fuse(2, 3, 4, 4, 4),
        "level_of_image": _fuse(3, 2, 3, 5, 2, "image"),
        "level_number": _fuse(1, 3, 3, 5, 2, "number"),
        "several_tiles": _fuse(1, 2, 5, 300, 4),
        "gate_of_3x3": _fuse(1, 1, 2, 200, 3),
        "1x1_image": _fuse(2, 3, 1, 1, 1),
        "empty_batch": _fuse(0, 3, 4, 4, 4),
    }


def recurrent_fuse_small_calls() -> dict[str, Call]:
    return {
        "gray": _fuse(2, 1, 2, 2, 2),
        "colour": _fuse(1, 3, 1, 2, 2),
        "level_of_image": _fuse(2, 1, 1, 2, 2, "image"),
    }


def fuzz_recurrent_fuse(rng: random.Random) -> Call:
    factor = rng.randint(1, 5)
    columns = rng.randint(1, rng.choice([12, 200 // factor]))
    return _fuse(
        rng.randint(1, 3), rng.randint(1, 4), rng.randint(1, 8), columns, factor,
        rng.choice(["pixel", "image", "number"]),
    )  # fmt: skip
