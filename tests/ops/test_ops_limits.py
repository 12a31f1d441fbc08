"""Arguments at and beyond the operators' limits: refused by name, or computed at a bounded cost."""

from __future__ import annotations

import subprocess
import sys

import cuda_emulator
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import ops, reference

OPS = torch.ops.denoise_ext
# What once passed the checks: the products of these are small numbers modulo 2**64.
WRAPPING = {
    "padding": ((2**32 - 8) // 2, (2**30 - 71) // 2 + 1),
    "dilation": (2**32 - 8, 2**30 - 71),
}
HUGE = 2**63 - 1


def zeros(*shape: int, **options) -> Tensor:
    return torch.zeros(shape, **options)


def expanded(*shape: int) -> Tensor:
    """A tensor of any size in the memory of one element."""
    return torch.zeros(()).expand(shape)


CONV = {"input": zeros(1, 2, 8, 8), "weight": zeros(1, 2, 2, 2)}
TRANSPOSED = {"input": zeros(1, 2, 8, 8), "weight": zeros(2, 1, 2, 2)}
IMAGE = {"input": zeros(1, 3, 8, 8), "kernel_size": 3}
BILATERAL = {**IMAGE, "sigma_color": 0.1, "sigma_space": 1.0}
# (operator, arguments, the argument that the message names)
REFUSED = [
    ("conv2d", {**CONV, **WRAPPING}, "padding|dilation"),
    ("conv2d", {**CONV, "padding": HUGE}, "padding"),
    ("conv2d", {**CONV, "padding": 2**29}, "padding"),
    ("conv2d", {**CONV, "dilation": HUGE}, "dilation"),
    ("conv2d", {**CONV, "dilation": 2**30, "padding": 2**28}, "dilation"),
    ("conv2d", {**CONV, "stride": HUGE}, "stride"),
    ("conv2d", {**CONV, "weight": expanded(1, 2, 2**13, 2**13), "padding": 2**13}, "weight"),
    ("conv2d", {"input": expanded(1, 2, 2**31, 4), "weight": zeros(1, 2, 2, 2)}, "input"),
    (
        "conv2d",
        {"input": expanded(2**20, 2, 8, 8), "weight": zeros(1, 2, 2, 2), "padding": 2**20},
        "output",
    ),
    ("conv_transpose2d", {**TRANSPOSED, **WRAPPING}, "padding|dilation"),
    ("conv_transpose2d", {**TRANSPOSED, "stride": HUGE}, "stride"),
    ("conv_transpose2d", {**TRANSPOSED, "stride": 2**28}, "stride"),
    ("conv_transpose2d", {**TRANSPOSED, "dilation": 2**30}, "dilation"),
    ("conv_transpose2d", {**TRANSPOSED, "stride": 8, "output_padding": HUGE}, "output_padding"),
    ("gaussian_blur2d", {**IMAGE, "kernel_size": 100001, "sigma": 1.0}, "kernel_size"),
    ("gaussian_blur2d", {**IMAGE, "kernel_size": (3, HUGE), "sigma": 1.0}, "kernel_size.* 65535"),
    ("bilateral_blur", {**BILATERAL, "kernel_size": HUGE}, "kernel_size.* 1023"),
    ("bilateral_blur", {**BILATERAL, "kernel_size": 1025}, "kernel_size.* 1023"),
    (
        "joint_bilateral_blur",
        {**BILATERAL, "guidance": zeros(1, 1, 8, 8), "kernel_size": (HUGE, 3)},
        "kernel_size",
    ),
    (
        "joint_bilateral_blur",
        {**BILATERAL, "guidance": expanded(1, 2**31, 8, 8), "kernel_size": 3},
        "guidance.* 65536",
    ),
    (
        "bilateral_blur",
        {**BILATERAL, "input": expanded(1, 65537, 1, 1), "kernel_size": 3},
        "(?:input|guidance).* 65536",
    ),
]


def refused_id(case: object) -> str | None:
    if isinstance(case, dict):
        return " ".join(f"{k}={v}" for k, v in case.items() if not isinstance(v, Tensor))
    return None


def raw_call(name: str, arguments: dict[str, object], op=None):
    """The raw operator, or ``op`` in its place, for the same arguments."""
    op = op or getattr(OPS, name)

    def pair(key: str, default: int) -> list[int]:
        value = arguments.get(key, default)
        return list(value) if isinstance(value, tuple) else [value, value]

    x = arguments["input"]
    if name == "conv2d":
        geometry = (pair("stride", 1), pair("padding", 0), pair("dilation", 1), 1)
        return op(
            x, arguments["weight"], None, *geometry, "none", 0.0, None, None, "before", "default"
        )
    if name == "conv_transpose2d":
        geometry = (pair("stride", 1), pair("padding", 0), pair("output_padding", 0), 1)
        return op(
            x, arguments["weight"], None, *geometry, pair("dilation", 1), "none", 0.0, None,
            "default",
        )  # fmt: skip
    size, sigmas = pair("kernel_size", 3), (torch.tensor([0.1]), torch.ones(1, 2))
    if name == "gaussian_blur2d":
        return op(x, size, torch.ones(1, 2), "reflect")
    if name == "bilateral_blur":
        return op(x, size, *sigmas, "reflect", "l1", "square")
    return op(x, arguments["guidance"], size, *sigmas, "reflect", "l1", "square")


@pytest.mark.parametrize("name, arguments, argument", REFUSED, ids=refused_id)
def test_refused(name, arguments, argument):
    for module in (ops, reference):
        with pytest.raises(ValueError, match=rf"^({argument})\b.*\d"):
            getattr(module, name)(**arguments)
    with pytest.raises(RuntimeError, match=rf"\b({argument})\b.*\d"):
        raw_call(name, arguments)
    on_meta = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in arguments.items()}
    with pytest.raises(ValueError, match=rf"({argument})\b.*\d"):
        raw_call(name, on_meta)
    for device in ("cpu", "sm_90"):
        with pytest.raises(ValueError, match=rf"^({argument})\b.*\d"):
            ops.explain(getattr(ops, name), **arguments, device=device)


@pytest.mark.parametrize("groups", [-HUGE - 1, -1, 0, 3, HUGE])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("place", ["cpu", "meta"])
def test_groups_of_raw_operators(name, groups, place):
    x, weight = torch.zeros(1, 2, 8, 8, device=place), torch.zeros(2, 2, 2, 2, device=place)
    output_padding = [[0, 0]] if name == "conv_transpose2d" else []
    numbers = [[1, 1], [0, 0], *output_padding]
    numbers += [groups, [1, 1]] if output_padding else [[1, 1], groups]
    extra = [] if output_padding else [None, "before"]
    with pytest.raises((ValueError, RuntimeError), match="groups"):
        getattr(OPS, name)(x, weight, None, *numbers, "none", 0.0, None, *extra, "default")


needs_emulator = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)


@needs_emulator
@pytest.mark.parametrize("name, arguments, argument", REFUSED, ids=refused_id)
def test_refused_on_cuda(name, arguments, argument):
    op = cuda_emulator.emulator().operator(name)
    with pytest.raises(RuntimeError, match=rf"\b({argument})\b.*\d"):
        raw_call(name, arguments, op)


@needs_emulator
def test_gaussian_on_cuda_is_limited_by_its_area():
    arguments = {"input": zeros(1, 1, 8, 8), "kernel_size": (4097, 1025), "sigma": 1.0}
    with pytest.raises(RuntimeError, match="kernel_size"):
        raw_call("gaussian_blur2d", arguments, cuda_emulator.emulator().operator("gaussian_blur2d"))


@needs_emulator
def test_distant_taps_on_cuda():
    """The largest strides and dilations that pass the checks, on every kernel that takes them."""
    x, w = random(1, 3, 9, 9, seed=0), random(4, 3, 3, 3, seed=1)
    for options in (
        {"stride": 2**30},
        {"padding": 2**20, "dilation": 2**20, "stride": 2**19},
        {"padding": 2**29 - 8, "dilation": 2**29 - 8, "stride": 2**28},
    ):
        exact = F.conv2d(x.double(), w.double(), **options)
        with cuda_emulator.emulated_cuda():
            result = ops.conv2d(x, w, **options)
        assert float((result.double() - exact).abs().max()) <= 27 * 35 * 2.0**-23


@pytest.mark.parametrize("key", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [HUGE, 2**31, 2**30 + 1])
def test_the_other_raw_operators_refuse_too(key, value):
    geometry = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], key: [1, value]}
    stride, padding, dilation = geometry.values()
    x, w, grad = zeros(1, 2, 8, 8), zeros(2, 2, 2, 2), zeros(1, 2, 7, 7)
    calls = {
        "conv2d_out": (
            x, w, None, None, stride, padding, dilation, 1, "constant", "none", 0.0, None, None,
            "before", "auto", grad,
        ),
        "conv_transpose2d_out": (
            x, w, None, stride, padding, [0, 0], 1, dilation, "none", 0.0, None, None, "before",
            "default", zeros(1, 2, 9, 9),
        ),
        "conv2d_backward": (
            grad, x, w, None, None, stride, padding, dilation, 1, "none", 0.0, [True] * 5,
        ),
        "conv_transpose2d_backward": (
            zeros(1, 2, 9, 9), x, w, None, None, stride, padding, [0, 0], 1, dilation, "none", 0.0,
            [True] * 4,
        ),
    }  # fmt: skip
    for name, arguments in calls.items():
        with pytest.raises(RuntimeError, match=key):
            getattr(OPS, name)(*arguments)


def test_filters_backward_refuse_too():
    x, pair = zeros(1, 3, 8, 8), torch.ones(1, 2)
    with pytest.raises(RuntimeError, match="kernel_size"):
        OPS.gaussian_blur2d_backward(x, x, [3, HUGE], pair, "reflect", [True, True])
    with pytest.raises(RuntimeError, match="kernel_size"):
        OPS.joint_bilateral_blur_backward(
            x, x, x, x, [HUGE, HUGE], torch.ones(1), pair, "reflect", "l1", "square", [True] * 4
        )


def test_pack_refuses_a_weight_of_too_many_taps():
    with pytest.raises(RuntimeError, match="weight"):
        OPS.conv2d_pack(expanded(1, 1, 2**13, 2**13), "direct")


def test_an_output_that_no_memory_holds_is_an_error():
    with pytest.raises(RuntimeError):
        ops.conv2d(zeros(1, 1, 1, 1), zeros(1, 1, 1, 1), padding=2**22)


# ---- taps and outputs far apart

# (input, weight, options); some taps or outputs read zeros alone
DISTANT = {
    "dilation of the image's size": ((2, 3, 20, 20), (5, 3, 3, 3), {"padding": 20, "dilation": 20}),
    "dilation near the image's size": (
        (1, 3, 40, 37), (5, 3, 3, 3), {"padding": (33, 30), "dilation": (33, 30)},
    ),
    "dilation, one axis": ((1, 4, 30, 64), (6, 4, 3, 3), {"padding": (1, 25), "dilation": (1, 25)}),
    "dilation, stride": (
        (1, 4, 50, 61), (6, 4, 4, 3), {"padding": 30, "dilation": (9, 21), "stride": (3, 7)},
    ),
    "depthwise": ((1, 19, 40, 30), (19, 1, 3, 3), {"padding": 24, "dilation": 24, "groups": 19}),
    "multiplier": ((1, 4, 40, 30), (8, 1, 3, 3), {"padding": 24, "dilation": 24, "groups": 4}),
    "groups": ((1, 6, 40, 30), (4, 3, 3, 3), {"padding": 24, "dilation": 24, "groups": 2}),
    "few outputs": ((1, 40, 30, 33), (3, 40, 3, 3), {"padding": 19, "dilation": 19}),
    "one output": ((1, 3, 9, 9), (4, 3, 3, 3), {"stride": 2**30}),
    "padding, large stride": ((1, 3, 9, 9), (4, 3, 3, 3), {"padding": 4000, "stride": 1600}),
    "no tap inside": ((1, 3, 4, 4), (4, 3, 2, 2), {"padding": 50, "dilation": 100, "stride": 200}),
}  # fmt: skip
DISTANT_TRANSPOSED = {
    "stride": ((1, 3, 5, 4), (3, 6, 3, 3), {"stride": (29, 31)}),
    "stride 1x1": ((2, 3, 9, 8), (3, 17, 1, 1), {"stride": 2, "output_padding": 1}),
    "stride, padding": ((1, 3, 5, 4), (3, 6, 5, 3), {"stride": (7, 40), "padding": (9, 41)}),
    "stride, dilation": (
        (1, 4, 5, 6), (4, 5, 3, 3), {"stride": (6, 10), "dilation": (4, 15), "padding": (1, 7)},
    ),
    "stride, dilation without a common tap": (
        (1, 4, 5, 6), (4, 5, 2, 3), {"stride": 12, "dilation": 18, "output_padding": 11},
    ),
    "dilation": ((1, 3, 8, 8), (3, 5, 3, 3), {"dilation": 30, "padding": 22}),
    "depthwise": ((1, 9, 5, 4), (9, 1, 3, 3), {"stride": 17, "groups": 9}),
    "one pixel": ((1, 3, 1, 1), (3, 5, 3, 3), {"stride": 2**30, "dilation": 50}),
}  # fmt: skip


def random(*shape: int, seed: int, dtype=torch.float32) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * x - 1).to(dtype)


def check_distant(name: str, case: tuple, layout: torch.memory_format, dtype: torch.dtype) -> None:
    shape, weight_shape, options = case
    x, w = random(*shape, seed=0, dtype=dtype), random(*weight_shape, seed=1, dtype=dtype)
    x = x.contiguous(memory_format=layout).requires_grad_()
    w.requires_grad_()
    outputs = weight_shape[0]
    if name == "conv_transpose2d":
        outputs = weight_shape[1] * options.get("groups", 1)
    bias = random(outputs, seed=2, dtype=dtype).requires_grad_()
    exact_arguments = [t.detach().double().requires_grad_() for t in (x, w, bias)]
    exact = F.relu(getattr(F, name)(*exact_arguments, **options))
    result = getattr(ops, name)(x, w, bias, **options, activation="relu")
    grad = random(*exact.shape, seed=3, dtype=dtype)
    result.backward(grad)
    exact.backward(grad.double())
    eps = 2.0**-52 if dtype == torch.float64 else 2.0**-23
    half = 2.0**-8 if dtype == torch.bfloat16 else 0.0  # one rounding of the result

    def close(actual: Tensor, expected: Tensor, terms: int) -> None:
        # Every term is at most 1, so that a sum of n in any order is off by n^2 eps / 2 at most.
        error = (
            actual.detach().double() - expected.detach()
        ).abs() - half * expected.detach().abs()
        assert float(error.max()) <= terms * (terms + 8) * eps

    inner = weight_shape[1] if name == "conv2d" else weight_shape[0]
    close(result, exact, inner * w[0, 0].numel() + 1)
    close(x.grad, exact_arguments[0].grad, outputs * w[0, 0].numel())
    pixels = min(x[:, 0].numel(), grad[:, 0].numel())
    close(w.grad, exact_arguments[1].grad, pixels)
    if dtype == torch.float64:
        close(bias.grad, exact_arguments[2].grad, grad[:, 0].numel())


LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", DISTANT)
def test_distant_taps(case, layout, dtype, isa):
    check_distant("conv2d", DISTANT[case], LAYOUTS[layout], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", DISTANT_TRANSPOSED)
def test_distant_outputs(case, layout, dtype, isa):
    check_distant("conv_transpose2d", DISTANT_TRANSPOSED[case], LAYOUTS[layout], dtype)


@pytest.mark.parametrize("border", ["reflect", "replicate", "circular"])
def test_distant_taps_beyond_other_borders(border, isa):
    """Where the border repeats pixels, every tap reads some."""
    x, w, out = random(1, 3, 30, 26, seed=0), random(5, 3, 3, 3, seed=1), zeros(1, 5, 30, 26)
    OPS.conv2d_out(
        x, w, None, None, [1, 1], [25, 25], [25, 25], 1, border, "none", 0.0, None, None, "before",
        "direct", out,
    )  # fmt: skip
    exact = F.conv2d(F.pad(x.double(), [25] * 4, mode=border), w.double(), dilation=25)
    assert float((out - exact).abs().max()) <= 27 * 27 * 2.0**-23


@pytest.mark.parametrize("size", [(4, 3, 3, 3), (3, 40, 3, 3), (17, 5, 2, 3)])
def test_packed_weights_keep_every_tap(size, isa):
    """Weights are packed without an image, so that taps outside of it have their place too."""
    x, w = random(1, size[1], 20, 20, seed=0), random(*size, seed=1)
    shape = F.conv2d(x, w, padding=20, dilation=20).shape
    plain, packed = zeros(*shape), zeros(*shape)
    rest = ([1, 1], [20, 20], [20, 20], 1, "constant", "none", 0.0, None, None, "before", "direct")
    OPS.conv2d_out(x, w, None, None, *rest, plain)
    OPS.conv2d_out(x, w, OPS.conv2d_pack(w, "direct"), None, *rest, packed)
    assert torch.equal(plain, packed)


# ---- windows larger than the image

BORDERS = ("reflect", "replicate", "constant", "circular")


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 1, 9), (1, 3, 4, 7), (1, 2, 5, 80)])
def test_gaussian_larger_than_the_image(shape, dtype, layout, border, isa):
    x = random(*shape, seed=0, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
    sigma = torch.tensor([[9.0, 30.0]], dtype=dtype)
    grad = random(*shape, seed=1, dtype=dtype)
    results = []
    for module, kind in ((ops, dtype), (reference, torch.float64)):
        arguments = [t.detach().to(kind).requires_grad_() for t in (x, sigma)]
        y = module.gaussian_blur2d(arguments[0], (41, 201), arguments[1], border)
        y.backward(grad.to(kind))
        results.append((y.detach(), arguments[0].grad, arguments[1].grad))
    eps = 2.0**-52 if dtype == torch.float64 else 2.0**-23
    # Each direction sums up to 201 terms, whose absolute values add up to 1 at most (of the adjoint
    # to the number of pixels); sigma's gradient sums those over all pixels.
    bounds = (402 * eps, 402 * eps * max(shape[2:]), 402 * eps * x.numel())
    for ours, exact, bound in zip(*results, bounds, strict=True):
        assert float((ours.double() - exact).abs().max()) <= bound


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", [(1, 3, 4, 7), (1, 1, 5, 80), (1, 1, 90, 3)])
def test_gaussian_of_uint8_larger_than_the_image(shape, border, isa):
    x = (random(*shape, seed=0) * 127 + 128).to(torch.uint8)
    ours = ops.gaussian_blur2d(x, (41, 201), (9.0, 30.0), border)
    assert torch.equal(ours, reference.gaussian_blur2d(x, (41, 201), (9.0, 30.0), border))


# ---- cost

# What took minutes, hours or terabytes. None takes a second; the limit stands for "returns".
RETURNS = {
    "dilation": """
x = torch.rand(1, 8, 1200, 1200, requires_grad=True)
w = torch.rand(8, 8, 3, 3, requires_grad=True)
ops.conv2d(x, w, padding=1000, dilation=1000).sum().backward()
""",
    "stride": "ops.conv_transpose2d(torch.rand(1, 2, 2, 2), torch.rand(2, 2, 3, 3), stride=2000)",
    "long stride": """
ops.conv_transpose2d(torch.rand(1, 1, 1, 2), torch.rand(1, 1, 1, 1), stride=(1, 3 * 10**7))
""",
    "gaussian": """
x, sigma = torch.rand(1, 1, 16, 16, requires_grad=True), torch.full((1, 2), 3e4).requires_grad_()
ops.gaussian_blur2d(x, 65535, sigma).sum().backward()
""",
    "bilateral": """
x = torch.rand(1, 1, 6, 6, requires_grad=True)
ops.bilateral_blur(x, 1023, 0.1, (100.0, 100.0), "circular").sum().backward()
""",
}


def test_what_took_hours_returns():
    """In one process, which prints where it is: each takes seconds to start."""
    steps = "".join(f"print({name!r}, flush=True)\n{code}\n" for name, code in RETURNS.items())
    script = f"import torch\nfrom denoise_ext import ops\n{steps}"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "gaussian_blur2d"])
def test_a_mask_of_another_length_on_meta(name):
    x, w = (torch.zeros(shape, device="meta") for shape in ((1, 2, 8, 8), (2, 2, 3, 3)))
    one, none = [1, 1], [0, 0]
    calls = {
        "conv2d": (x, x, w, None, None, one, one, one, 1, "none", 0.0, [True]),
        "conv_transpose2d": (x, x, w, None, None, one, one, none, 1, one, "none", 0.0, [True]),
        "gaussian_blur2d": (x, x, [3, 3], torch.ones(1, 2, device="meta"), "reflect", [True]),
    }
    with pytest.raises(ValueError, match=r"output_mask.* 1$"):
        getattr(OPS, f"{name}_backward")(*calls[name])
