"""The raw operators torch.ops.denoise_ext.*: nothing has looked at their arguments before."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import bounds
import torch
import winograd_bounds
from calls import Call
from cases import CASES, FLOATS, OpCase
from conv_images import POOLS, WINOGRAD_OUTPUTS, image_of, padded
from torch import Tensor

from denoise_ext import reference
from denoise_ext._loader import native
from fuzz import expected
from fuzz.operators import (
    ERRORS,
    are_moderate,
    check_refusal,
    compare,
    copies,
    describe,
    draw,
    is_affordable,
    noted,
    same_bits,
    with_isa,
)
from fuzz.target import REFUSED, RESULT, Target
from fuzz.tensors import disturb, draw_tensors, guarded, guards_hold, odd_view

OPS = torch.ops.denoise_ext
# Those whose numbers are drawn here; fuzz/raw_motion.py has the others.
_CASES = [case for name, case in CASES.items() if "conv" in name or "blur" in name]
BORDERS = ("constant", "reflect", "replicate", "circular")
# What the schemas call "str": another text now and then.
_OTHER_TEXTS = ("", "none", "mirror", "winograd4", "auto", "x" * 300)


def numbers(value: object) -> object:
    """A pair as the schemas take it."""
    return [value, value] if isinstance(value, int) else list(value)


def text(rng: random.Random, ordinary: bool, usual: str) -> str:
    return rng.choice(_OTHER_TEXTS) if not ordinary and rng.random() < 0.05 else usual


def _sigmas(rng: random.Random, call: Call, tensors: dict[str, Tensor], name: str) -> None:
    """A filter's sigma as the tensor that raw operators take."""
    if name in tensors:
        if name != "sigma_color" and tensors[name].dim() == 1:
            tensors[name] = tensors[name][:, None].expand(-1, 2).contiguous()
        return
    value = call.options[name]
    kind = torch.float64 if tensors["input"].dtype == torch.float64 else torch.float32
    rows = [value] if name == "sigma_color" else [list(expected.pair_of_numbers(value))]
    tensors[name] = torch.tensor(rows, dtype=kind)


def raw_call(rng: random.Random, case: OpCase) -> tuple[Call, dict[str, Tensor], bool]:
    """A call in the raw operators' terms: images of 4 dimensions, pairs, sigmas as tensors."""
    while True:
        call, ordinary = draw(rng, case)
        if isinstance(call.options.get("padding"), str):  # of the public functions alone
            continue
        tensors = draw_tensors(rng, call, rng.choice(case.dtypes))
        if tensors["input"].dim() == 3:
            for name in set(tensors) & {"input", "guidance", "residual"}:
                tensors[name] = tensors[name].unsqueeze(0)
        for name in ("sigma", "sigma_color", "sigma_space"):
            if name in call.options or name in tensors:
                _sigmas(rng, call, tensors, name)
        if rng.random() < 0.25:
            disturb(rng, tensors)
            ordinary = False
        options = {k: v for k, v in call.options.items() if not k.startswith("sigma")}
        call = Call({name: tuple(x.shape) for name, x in tensors.items()}, options)
        if is_affordable(case, call, tensors):
            return call, tensors, ordinary


def _conv_numbers(call: Call, transposed: bool) -> list[object]:
    """stride, padding, (output_padding, groups, dilation | dilation, groups)."""
    o = call.options
    stride, padding = numbers(o.get("stride", 1)), numbers(o.get("padding", 0))
    dilation, groups = numbers(o.get("dilation", 1)), o.get("groups", 1)
    if transposed:
        return [stride, padding, numbers(o.get("output_padding", 0)), groups, dilation]
    return [stride, padding, dilation, groups]


def functional(
    rng: random.Random, case: OpCase, call: Call, t: dict[str, Tensor], ordinary: bool
) -> Tensor:
    """The raw operator that returns its result."""
    o = call.options
    if case.name.startswith("conv"):
        transposed = case.name == "conv_transpose2d"
        activation = [o.get("activation", "none"), o.get("negative_slope", 0.01)]
        extra = [] if transposed else [t.get("residual"), o.get("residual_position", "before")]
        return getattr(OPS, case.name)(
            t["input"], t["weight"], t.get("bias"), *_conv_numbers(call, transposed), *activation,
            t.get("prelu_weight"), *extra, text(rng, ordinary, o.get("precision", "default")),
        )  # fmt: skip
    kernel, border = numbers(o["kernel_size"]), text(rng, ordinary, o.get("border_type", "reflect"))
    if case.name == "gaussian_blur2d":
        return OPS.gaussian_blur2d(t["input"], kernel, t["sigma"], border)
    images = [t["input"], t["guidance"]] if "guidance" in t else [t["input"]]
    return getattr(OPS, case.name)(
        *images, kernel, t["sigma_color"], t["sigma_space"], border,
        text(rng, ordinary, o.get("color_distance_type", "l1")),
        text(rng, ordinary, o.get("window", "square")),
    )  # fmt: skip


def functional_case(rng: random.Random) -> str:
    """One call of a raw operator that has a public function above it."""
    case = rng.choice(_CASES)
    call, tensors, ordinary = raw_call(rng, case)
    with noted(lambda: f"raw {case.name}: {describe(call, tensors)}"):
        try:
            result = functional(rng, case, call, tensors, ordinary)
        except ERRORS as error:
            return check_refusal(error, ordinary, describe(call, tensors))
        compare(case, call, tensors, result)
        return RESULT


MOST = 2**22  # elements of a gradient or a result that is made here: of float64 32 MiB


def backward_case(rng: random.Random) -> str:
    """One call of a gradient: of the right sizes and finite, or an exception."""
    case = rng.choice(_CASES)
    call, t, _ = raw_call(rng, case)
    o, x = call.options, t["input"]
    if case.name.startswith("conv"):
        transposed = case.name == "conv_transpose2d"
        if x.dim() != 4 or t["weight"].dim() != 4 or x.is_meta:
            return REFUSED
        filters = t["weight"].shape[1] * o.get("groups", 1) if transposed else t["weight"].shape[0]
        size = expected.conv_size(call, x.shape[2:], t["weight"].shape[2:], transposed)
        shape = (x.shape[0], filters, *(min(n, 3000) for n in size))
    else:
        shape = tuple(x.shape)
    if max(shape, default=0) > 5000 or min(shape, default=0) < 0:
        return REFUSED  # an image without memory, or no image: there is no gradient to give
    if math.prod(shape) > MOST:
        return REFUSED
    grads = {"grad": torch.rand(shape).to(x.dtype), "saved": torch.rand(shape).to(x.dtype)}
    grads = {name: odd_view(rng, g) for name, g in grads.items()}
    if rng.random() < 0.15:
        disturb(rng, grads)
    mask = [rng.random() < 0.7 for _ in range(_MASKS[case.name] if rng.random() < 0.98 else 1)]
    with noted(lambda: f"gradient of {case.name}: {mask}, {describe(call, t | grads)}"):
        try:
            results = _backward(rng, case, call, t, grads, mask)
        except ERRORS as error:
            return check_refusal(error, False, describe(call, t | grads))
        wanted = _MASKED[case.name](t)
        for name, gradient, asked in zip(wanted, results, mask, strict=False):
            if asked and name in t and not gradient.is_meta:
                assert gradient.shape == t[name].shape, f"{name}: {tuple(gradient.shape)}"
        return RESULT


_MASKS = {
    "conv2d": 5, "conv_transpose2d": 4, "gaussian_blur2d": 2, "bilateral_blur": 4,
    "joint_bilateral_blur": 4,
}  # fmt: skip
_MASKED: dict[str, Callable[[dict], tuple[str, ...]]] = {
    "conv2d": lambda t: ("input", "weight"),
    "conv_transpose2d": lambda t: ("input", "weight"),
    "gaussian_blur2d": lambda t: ("input", "sigma"),
    "bilateral_blur": lambda t: ("input", "input", "sigma_color", "sigma_space"),
    "joint_bilateral_blur": lambda t: ("input", "guidance", "sigma_color", "sigma_space"),
}


def _backward(
    rng: random.Random, case: OpCase, call: Call, t: dict, grads: dict, mask: list[bool]
) -> tuple[Tensor, ...]:
    o = call.options
    if case.name.startswith("conv"):
        transposed = case.name == "conv_transpose2d"
        activation = o.get("activation", "none")
        saved = grads["saved"] if activation != "none" or rng.random() < 0.05 else None
        return getattr(OPS, f"{case.name}_backward")(
            grads["grad"], t["input"], t["weight"], saved, t.get("prelu_weight"),
            *_conv_numbers(call, transposed), activation, o.get("negative_slope", 0.01), mask,
            o.get("precision", "default"),
        )  # fmt: skip
    kernel, border = numbers(o["kernel_size"]), o.get("border_type", "reflect")
    if case.name == "gaussian_blur2d":
        return OPS.gaussian_blur2d_backward(
            grads["grad"], t["input"], kernel, t["sigma"], border, mask
        )
    return OPS.joint_bilateral_blur_backward(
        grads["grad"], t["input"], t.get("guidance", t["input"]), grads["saved"], kernel,
        t["sigma_color"], t["sigma_space"], border, o.get("color_distance_type", "l1"),
        o.get("window", "square"), mask,
    )  # fmt: skip


def out_case(rng: random.Random) -> str:
    """A convolution into a given tensor, with packed weights, borders, named algorithms."""
    case = CASES[rng.choice(["conv2d", "conv2d", "conv_transpose2d"])]
    transposed = case.name == "conv_transpose2d"
    call, t, _ = raw_call(rng, case)
    if t["input"].dim() != 4 or t["weight"].dim() != 4 or not t["input"].dtype.is_floating_point:
        return REFUSED  # no output can be made for it; functional_case has these
    filters = t["weight"].shape[1] * call.options.get("groups", 1)
    filters = filters if transposed else t["weight"].shape[0]
    size = expected.conv_size(call, t["input"].shape[2:], t["weight"].shape[2:], transposed)
    shape = [t["input"].shape[0], filters, *size]
    if rng.random() < 0.05:
        shape[rng.randrange(4)] += rng.choice([-1, 1])
    if min(shape) < 0 or max(shape) > 100_000 or math.prod(shape) > MOST:
        shape = [1, max(1, min(filters, 100)), 1, 1]  # refused, or a defect
    out, buffer = guarded(rng, torch.empty(shape, dtype=t["input"].dtype))
    border = rng.choice(BORDERS) if not transposed and rng.random() < 0.5 else "constant"
    if border != "constant" and not _has_few_taps(call, t):
        border = "constant"
    named = [*WINOGRAD_OUTPUTS] if tuple(t["weight"].shape[2:]) == (3, 3) else []
    algorithm = rng.choice(["auto", "auto", "direct", *named, *named])
    x = t["input"]
    overlapping = rng.random() < 0.05 and 0 < out.numel() <= x.numel() and x.is_contiguous()
    overlapping = overlapping and not any(y.is_meta for y in t.values())  # nothing is computed
    if overlapping:  # the output and the input share memory
        out = x.view(-1)[: out.numel()].view(shape)
    return _run_out(rng, case, call, t, out, buffer, border, algorithm, overlapping)


def _has_few_taps(call: Call, t: dict[str, Tensor]) -> bool:
    """Whether a mirrored border can be computed again, tap by tap."""
    return expected.conv_work(call, t["input"].shape, t["weight"].shape, False) <= 2_000_000


def _run_out(
    rng: random.Random, case: OpCase, call: Call, t: dict[str, Tensor], out: Tensor,
    buffer: Tensor, border: str, algorithm: str, overlapping: bool,
) -> str:  # fmt: skip
    transposed, o = case.name == "conv_transpose2d", call.options
    residual = t.get("residual")
    if residual is None and rng.random() < 0.2:
        residual = torch.rand(out.shape).to(out.dtype)
        t["residual"] = residual
    position = o.get("residual_position", "before")
    call = call.with_options(residual_position=position)
    middle = [o.get("activation", "none"), o.get("negative_slope", 0.01), t.get("prelu_weight")]
    before = copies(t)
    with noted(lambda: f"{case.name}_out {border} {algorithm} {describe(call, t | {'out': out})}"):
        try:
            if transposed:
                OPS.conv_transpose2d_out(
                    t["input"], t["weight"], t.get("bias"), *_conv_numbers(call, True), *middle,
                    residual, position, o.get("precision", "default"), out,
                )  # fmt: skip
            else:
                packed, algorithm = _packed(rng, t["weight"], algorithm)
                precision = {"direct": "strict", "winograd6": "fast"}.get(algorithm, "default")
                call = call.with_options(precision=precision)
                OPS.conv2d_out(
                    t["input"], t["weight"], packed, t.get("bias"), *_conv_numbers(call, False),
                    text(rng, False, border), *middle, residual, position, algorithm, out,
                )  # fmt: skip
        except ERRORS as error:
            return check_refusal(error, False, describe(call, t))
        assert not overlapping, "an output that overlaps the input was accepted"
        assert guards_hold(out, buffer), "memory beside the output has changed"
        for name, x in before.items():
            assert same_bits(t[name], x), f"{name} has changed"
        if border != "constant" and algorithm not in WINOGRAD_OUTPUTS:
            _compare_border(call, t, out, border, algorithm)
        elif border == "constant":
            compare(case, call, t, out)
        return RESULT


def _packed(rng: random.Random, weight: Tensor, algorithm: str) -> tuple[Tensor | None, str]:
    """A packed weight for a named algorithm, sometimes one that does not belong there."""
    if rng.random() < 0.5:
        return None, algorithm
    chosen = rng.choice(["direct", *WINOGRAD_OUTPUTS]) if algorithm == "auto" else algorithm
    packed = OPS.conv2d_pack(weight, chosen)
    kind = rng.random()
    if kind < 0.05:
        packed = packed[: rng.randrange(packed.numel() + 1)]
    elif kind < 0.1:  # another weight's header, or none
        packed = packed.clone()
        packed[: rng.randint(1, 16)] = rng.choice([0.0, 1e30, 1.0])
        return packed, "auto"  # what comes of a damaged header is refused
    return packed, chosen


def _compare_border(
    call: Call, t: dict[str, Tensor], out: Tensor, border: str, algorithm: str
) -> None:
    """A border that is not of zeros, against a 1x1 convolution of what the taps read."""
    if not are_moderate(t):
        return
    exact = {name: x.double() for name, x in t.items()}
    winograd = algorithm == "auto" and tuple(t["weight"].shape[2:]) == (3, 3)
    if winograd or not expected.is_near(call):
        return  # its bound is that of test_conv2d_out.py, for padding 1
    plain, changed = expected.as_one_by_one(call, exact, False, border)
    case, dtype = CASES["conv2d"], out.dtype
    wanted = case.reference(**changed, **plain.options)
    allowed = case.bound(plain, changed, dtype) + bounds.output_rounding(wanted, dtype)
    error = (out.double() - wanted).abs()
    assert bool((error <= allowed).all()), f"{float((error / allowed).max()):.3g} times the bound"


def resampled_case(rng: random.Random) -> str:
    """A convolution between two levels of a U-Net."""
    n, k, c, f = (rng.randint(1, m) for m in (2, 40, 20, 20))
    h, w = rng.randint(1, 12), rng.randint(1, 12)
    dtype = rng.choice([*FLOATS, torch.float32])
    which = rng.choice(["both", "coarse", "fine"])
    odd = 0 if which != "fine" else rng.randint(0, 1)
    t: dict[str, Tensor] = {}
    if which != "fine":
        t["coarse"] = torch.rand(n, c, h, w).to(dtype)
    if which != "coarse":
        t["fine"] = torch.rand(n, f, 2 * h + odd, 2 * w + odd).to(dtype)
    channels = sum(x.shape[1] for x in t.values())
    t["weight"] = ((torch.rand(k, channels, 3, 3) - 0.5) / (3 * channels**0.5)).to(dtype)
    size = (2 * h + odd, 2 * w + odd)
    if rng.random() < 0.5:
        t["residual"] = torch.rand(n, k, *size).to(dtype)
    if rng.random() < 0.5:
        t["bias"] = torch.rand(k).to(dtype)
    t = {name: odd_view(rng, x) for name, x in t.items()}
    ordinary = dtype != torch.float64
    if rng.random() < 0.3:
        disturb(rng, t)
        ordinary = False
    algorithm, pooling = rng.choice(list(WINOGRAD_OUTPUTS)), rng.choice(list(POOLS))
    border = rng.choice(["constant", "replicate"])
    results = {"out": (n, k, *size), "pooled": (n, k, size[0] // 2, size[1] // 2)}
    if rng.random() < 0.5:
        del results[rng.choice(["out", "pooled"])]
    made = {name: guarded(rng, torch.empty(s, dtype=dtype)) for name, s in results.items()}
    given = {name: view for name, (view, _) in made.items()}
    with noted(lambda: f"resampled {algorithm} {pooling} {border} {describe(Call({}), t | given)}"):
        try:
            packed = OPS.conv2d_pack(t["weight"], algorithm)
            OPS.conv2d_resampled_out(
                t.get("coarse"), t.get("fine"), t["weight"], packed, t.get("bias"), border,
                "relu", 0.1, None, t.get("residual"), "before", pooling, given.get("out"),
                given.get("pooled"),
            )  # fmt: skip
        except ERRORS as error:
            return check_refusal(error, ordinary, describe(Call({}), t))
        for name, (view, buffer) in made.items():
            assert guards_hold(view, buffer), f"memory beside {name} has changed"
        if are_moderate(t):
            _compare_resampled(t, given, algorithm, pooling, border)
        return RESULT


def _compare_resampled(t: dict, given: dict, algorithm: str, pooling: str, border: str) -> None:
    image = padded(image_of(t.get("coarse"), t.get("fine")), 1, border)
    weight = t["weight"].double()
    extra = {name: t[name].double() for name in ("bias", "residual") if name in t}
    exact = reference.conv2d(image, weight, activation="relu", **extra)
    allowed = winograd_bounds.bound(image, weight, WINOGRAD_OUTPUTS[algorithm])
    allowed = allowed + 16 * winograd_bounds.EPS * (1 + exact.abs())
    pool = POOLS[pooling]
    pooled = torch.nn.functional.max_pool2d
    wanted = {
        "out": lambda: (exact, allowed),
        "pooled": lambda: (pool(exact, 2), pooled(allowed, 2) + 4 * winograd_bounds.EPS),
    }
    for name, result in given.items():
        if result.numel():
            value, bound = wanted[name]()
            bound = bound + bounds.output_rounding(value, result.dtype)
            error = (result.double() - value).abs()
            assert bool((error <= bound).all()), f"{name}: {float((error / bound).max()):.3g}"


def targets() -> list[Target]:
    """Four kinds of operators on every instruction set."""
    kinds = {
        "raw": functional_case, "backward": backward_case, "out": out_case,
        "resampled": resampled_case,
    }  # fmt: skip
    return [
        Target(f"operators-{kind}/{isa}", with_isa(isa, run))
        for kind, run in kinds.items()
        for isa in native().isa_available()
    ]
