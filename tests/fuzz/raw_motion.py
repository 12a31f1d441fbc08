"""The raw operators of motion: nothing has looked at their arguments before."""

from __future__ import annotations

import random

import torch
from calls import Call
from cases import CASES
from torch import Tensor

from denoise_ext._loader import native
from fuzz.operators import (
    ERRORS,
    MOTION,
    check_refusal,
    compare,
    copies,
    describe,
    is_affordable,
    noted,
    with_isa,
)
from fuzz.target import RESULT, Target
from fuzz.tensors import disturb, draw_tensors

OPS = torch.ops.denoise_ext
_BLOCK = 8


def _drawn(rng: random.Random, name: str) -> tuple[dict[str, Tensor], bool]:
    """Tensors of a call in the raw operator's terms, and whether they must be taken."""
    case = CASES[name]
    while True:
        call = case.fuzz(rng)
        tensors = draw_tensors(rng, call, rng.choice(case.dtypes))
        n, _, height, width = call.shapes["input"]
        if name == "block_match":
            blocks = (n, 1, -(-height // _BLOCK), -(-width // _BLOCK))
            level = torch.rand(blocks) * rng.choice([1.0, 50.0, 1e9])
            tensors["sigma"] = tensors.get("sigma", level)
        if name == "recurrent_fuse":
            level = tensors.get("level", torch.rand(1, 1, 1, 1).to(tensors["input"].dtype))
            tensors["level"] = level.expand(n, 1, height, width)
        ordinary = rng.random() < 0.5
        if not ordinary:
            disturb(rng, tensors)
        if is_affordable(case, call, tensors):
            return tensors, ordinary


def motion_case(rng: random.Random) -> str:
    """One call of a raw operator: the right result, or an exception."""
    name = rng.choice(MOTION)
    tensors, ordinary = _drawn(rng, name)
    case, call = CASES[name], Call({key: tuple(x.shape) for key, x in tensors.items()})
    before = copies(tensors)
    with noted(lambda: f"raw {name}: {describe(call, tensors)}"):
        try:
            result = getattr(OPS, name)(*tensors.values())
        except ERRORS as error:
            return check_refusal(error, ordinary, describe(call, tensors))
        compare(case, call, tensors, result)
        for key, x in before.items():
            assert torch.equal(tensors[key].nan_to_num(), x.nan_to_num()), f"{key} has changed"
        return RESULT


def backward_case(rng: random.Random) -> str:
    """One call of a gradient: of the right sizes, or an exception."""
    name = rng.choice(("block_warp", "recurrent_fuse"))
    tensors, _ = _drawn(rng, name)
    like = tensors["previous"] if name == "recurrent_fuse" else tensors["input"]
    grads = {"grad": torch.rand(tuple(min(n, 500) for n in like.shape)).to(like.dtype)}
    if rng.random() < 0.2:
        disturb(rng, grads)
    text = describe(Call({}), {**tensors, **grads})
    with noted(lambda: f"gradient of {name}: {text}"):
        try:
            if name == "block_warp":
                results = [OPS.block_warp_backward(grads["grad"], tensors["motion"])]
            else:
                mask = [rng.random() < 0.7 for _ in range(4)]
                results = OPS.recurrent_fuse_backward(grads["grad"], *tensors.values(), mask)
                results = [x for x, wanted in zip(results, mask, strict=True) if wanted]
                asked = [x for x, wanted in zip(tensors.values(), mask, strict=True) if wanted]
                assert [x.shape for x in results] == [x.shape for x in asked]
        except ERRORS as error:
            return check_refusal(error, False, text)
        return RESULT


def targets() -> list[Target]:
    """Two targets for every instruction set."""
    return [
        Target(f"operators-motion{kind}/{isa}", with_isa(isa, case))
        for kind, case in (("", motion_case), ("-backward", backward_case))
        for isa in native().isa_available()
    ]
