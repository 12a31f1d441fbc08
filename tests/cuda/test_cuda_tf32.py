"""float32 convolutions on tensor cores: tf32 factors, rounded once or divided into two.

``precision="fast"`` allows them, and by default PyTorch's setting for its own convolutions does.

Sums are in float32 as ever.
"""

from __future__ import annotations

import subprocess
import sys

import bounds
import cuda_emulator
import pytest
import torch
from cases import CASES, Call, make_tensors, to_float64
from torch.backends import cudnn

from denoise_ext import ops, reference

pytestmark = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
CONV = CASES["conv2d"]
LAYOUTS = ("contiguous", "channels_last", "strided")


def _call(input: tuple[int, ...], weight: tuple[int, ...], **options: object) -> Call:
    return Call({"input": input, "weight": weight, "bias": (weight[0],)}, options)


# 32 input channels are a chunk, 64 outputs a block; the tiles are 64 x 4 and 32 x 2 pixels.
CALLS = {
    "several_chunks": _call((1, 72, 13, 70), (72, 72, 3, 3), padding=1, activation="relu"),
    "odd_channels": _call((2, 13, 9, 35), (21, 13, 3, 3), padding=1, activation="leaky_relu"),
    "residual_before": _call((1, 32, 9, 66), (40, 32, 3, 3), padding=1, activation="relu")
    .with_shapes(residual=(1, 40, 9, 66)),
    "residual_after": _call((1, 16, 9, 34), (6, 16, 3, 3), padding=1, activation="tanh")
    .with_shapes(residual=(1, 6, 9, 34)).with_options(residual_position="after"),
    "1x1": _call((2, 36, 9, 35), (20, 36, 1, 1)),
    "5x5": _call((1, 40, 9, 35), (20, 40, 5, 5), padding=2),
    "no_padding": _call((1, 8, 7, 9), (8, 8, 3, 3)),
    "wide_padding": _call((1, 8, 3, 2), (8, 8, 3, 3), padding=4),
    "1x1_image": _call((3, 4, 1, 1), (5, 4, 3, 3), padding=1),
    "empty_batch": _call((0, 8, 5, 5), (8, 8, 3, 3), padding=1),
}  # fmt: skip


def tf32_bound(call: Call, t: dict[str, torch.Tensor]) -> torch.Tensor:
    """What rounding the factors adds to float32's bound; no activation here amplifies it."""
    products = torch.nn.functional.conv2d(
        t["input"].abs(), t["weight"].abs(), padding=call.options.get("padding", 0)
    )
    return bounds.TF32_PRODUCT_ERROR * products


@pytest.mark.rotates(each=["layout", "capability"], turns=8)
@pytest.mark.parametrize("capability", (80, 86, 90))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_within_the_rounding_of_the_factors(call, layout, capability):
    tensors = make_tensors(call, torch.float32, layout=layout)
    with cuda_emulator.emulated_cuda(compute_capability=capability, variant="conv_rowring"):
        got = ops.conv2d(**tensors, **call.options, precision="fast")
    exact = to_float64(tensors)
    expected = reference.conv2d(**exact, **call.options)
    limit = bounds.conv2d(call, exact, torch.float32) + tf32_bound(call, exact)
    limit = limit + bounds.output_rounding(expected, torch.float32)
    assert ((got.double() - expected).abs() <= limit).all()


# Each form of PyTorch's setting: module, attribute, value, and whether it allows tf32.
SETTINGS = {
    "allow_tf32": (cudnn, "allow_tf32", True, True),
    "allow_tf32_not": (cudnn, "allow_tf32", False, False),
    "conv": (cudnn.conv, "fp32_precision", "tf32", True),
    "conv_not": (cudnn.conv, "fp32_precision", "ieee", False),
    "cudnn": (cudnn, "fp32_precision", "tf32", True),
    "everything": (torch.backends, "fp32_precision", "tf32", True),
    "everything_not": (torch.backends, "fp32_precision", "ieee", False),
}


@pytest.fixture
def setting(request):
    """Makes the setting, yields whether it allows tf32, and gives back what conftest.py set."""
    place, name, value, allows = SETTINGS[request.param]
    setattr(place, name, value)
    yield allows
    torch.backends.fp32_precision = cudnn.fp32_precision = cudnn.conv.fp32_precision = "none"
    cudnn.allow_tf32 = False


def _results(precision: str) -> dict[str, torch.Tensor]:
    """What every operator of convolution gives, on sm_80, wherever it can on tensor cores."""
    tensors = make_tensors(CALLS["no_padding"], torch.float32, layout="channels_last")
    x, w, bias = tensors["input"], tensors["weight"], tensors["bias"]
    grad = torch.linspace(-1, 1, x.numel()).view(x.shape)
    pairs, raw = ([1, 1], [1, 1], [1, 1]), torch.ops.denoise_ext
    outs = {name: torch.empty_like(x) for name in ("conv2d_out", "conv_transpose2d_out")}
    with cuda_emulator.emulated_cuda(compute_capability=80, variant="conv_rowring"):
        leaves = [t.clone().requires_grad_() for t in (x, w)]
        transposed = [t.clone().requires_grad_() for t in (x, w)]
        results = {
            "conv2d": ops.conv2d(*leaves, bias, padding=1, precision=precision),
            "conv_transpose2d": ops.conv_transpose2d(*transposed, padding=1, precision=precision),
        }
        results["gradient"] = torch.autograd.grad(results["conv2d"], leaves[0], grad)[0]
        results["transposed gradient"] = torch.autograd.grad(
            results["conv_transpose2d"], transposed[0], grad
        )[0]
        raw.conv2d_out(
            x, w, None, bias, *pairs, 1, "constant", "none", 0.0, None, None, "before", "auto",
            outs["conv2d_out"], precision,
        )  # fmt: skip
        raw.conv_transpose2d_out(
            x, w, None, [1, 1], [1, 1], [0, 0], 1, [1, 1], "none", 0.0, None, None, "before",
            precision, outs["conv_transpose2d_out"],
        )  # fmt: skip
    return results | outs


@pytest.mark.parametrize("setting", SETTINGS, indirect=True)
def test_the_default_is_pytorchs_at_each_call(setting):
    default, strict, fast = (_results(precision) for precision in ("default", "strict", "fast"))
    for name, result in default.items():
        # Where tf32 is not allowed the default divides factors, which strict never does.
        assert torch.equal(result, fast[name]) == setting, name
        assert not torch.equal(result, strict[name]), name
        assert not torch.equal(fast[name], strict[name]), name


@pytest.mark.parametrize("setting", SETTINGS, indirect=True)
def test_explain_has_the_setting_too(setting):
    x, w = torch.empty(1, 64, 32, 32), torch.empty(64, 64, 3, 3)
    first = ops.explain(ops.conv2d, x, w, padding=1, device="sm_90").splitlines()[0]
    fast = ops.explain(ops.conv2d, x, w, padding=1, precision="fast", device="sm_90").splitlines()
    assert first.startswith("conv_rowring") and (first == fast[0]) == setting
    strict = ops.explain(ops.conv2d, x, w, padding=1, precision="strict", device="sm_90")
    assert "precision='strict'" in strict and not strict.startswith("conv_rowring")


def test_pytorchs_own_default():
    """In a process that has set nothing."""
    script = "import torch; from denoise_ext import ops; " \
        "print(torch.backends.cudnn.conv.fp32_precision); " \
        "print(ops.explain(ops.conv2d, torch.empty(1, 64, 99, 99), torch.empty(64, 64, 3, 3), " \
        "device='sm_80'))"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], text=True, capture_output=True, check=True
    )
    torchs, kernel, *_ = done.stdout.splitlines()
    assert torchs == "tf32" and kernel.startswith("conv_rowring")


def _run(call: Call, tensors: dict, variant: str, precision: str, capability: int = 80):
    with cuda_emulator.emulated_cuda(compute_capability=capability, variant=variant):
        return ops.conv2d(**tensors, **call.options, precision=precision)


def test_strict_never_divides_or_rounds_factors():
    """The kernel for any case runs, and gives what it gives when it is named."""
    call = CALLS["odd_channels"]
    tensors = make_tensors(call, torch.float32, layout="channels_last")
    exact = _run(call, tensors, "conv_direct", "strict")
    assert torch.equal(_run(call, tensors, "conv_rowring", "strict"), exact)
    for precision in ("default", "fast"):
        assert not torch.equal(_run(call, tensors, "conv_rowring", precision), exact)


# --- 3xTF32 ----------------------------------------------------------------------------------
# A factor x is high + low + rest with |rest| <= 2^-22 |x|, for rounding leaves 2^-11 of what is
# rounded; and |low| <= 2^-11 |x|.  high high + high low + low high therefore lacks the two rests
# and low low: at most 3 * 2^-22 (and terms of 2^-33) of a product.
SPLIT_ERROR = 3 * 2.0**-22 + 4 * 2.0**-33


def split_bound(call: Call, t: dict[str, torch.Tensor]) -> torch.Tensor:
    """Without activation: float32's bound for the products, and what dividing the factors adds."""
    sizes = torch.nn.functional.conv2d(
        t["input"].abs(), t["weight"].abs(), padding=call.options.get("padding", 0)
    )
    length = t["weight"][0].numel()
    # Three products for one, each added with half an eps of the sum.
    return (3 * length * torch.finfo(torch.float32).eps / 2 + SPLIT_ERROR) * sizes


@pytest.mark.rotates(each=["layout", "capability"])
@pytest.mark.parametrize("capability", (80, 86, 90))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_divided_factors_are_as_good_as_float32(name, layout, capability):
    call = CALLS[name]
    tensors = make_tensors(call, torch.float32, layout=layout)
    got = _run(call, tensors, "conv_rowring", "default", capability)
    exact = to_float64(tensors)
    expected = reference.conv2d(**exact, **call.options)
    limit = bounds.conv2d(call.with_options(precision="strict"), exact, torch.float32)
    limit = limit + bounds.output_rounding(expected, torch.float32)
    assert ((got.double() - expected).abs() <= limit).all()


@pytest.mark.parametrize("kernel", (1, 3, 5))
def test_the_error_of_divided_factors(kernel):
    """Sums of 40 channels without bias: within the derived bound, and far below tf32's error."""
    call = Call(
        {"input": (1, 40, 7, 35), "weight": (20, 40, kernel, kernel)}, {"padding": kernel // 2}
    )
    tensors = make_tensors(call, torch.float32, layout="channels_last")
    exact = to_float64(tensors)
    expected = reference.conv2d(**exact, **call.options)
    errors = {
        precision: (_run(call, tensors, "conv_rowring", precision).double() - expected).abs()
        for precision in ("default", "fast")
    }
    assert (errors["default"] <= split_bound(call, exact)).all()
    assert errors["default"].max() * 50 < errors["fast"].max()


def test_divided_factors_of_every_size():
    """Large, small and exact factors: what is left of them after tf32 counts."""
    call = Call({"input": (1, 8, 4, 20), "weight": (8, 8, 1, 1)}, {})
    tensors = make_tensors(call, torch.float32, layout="channels_last")
    tensors["input"] *= torch.logspace(-20, 20, 20)
    got = _run(call, tensors, "conv_rowring", "default").double()
    exact = to_float64(tensors)
    expected = reference.conv2d(**exact)
    assert ((got - expected).abs() <= split_bound(call, exact)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout):
    call = _call((1, 40, 9, 35), (24, 40, 3, 3), padding=1)
    tensors = make_tensors(call, torch.float32, layout=layout)
    leaves = {name: x.requires_grad_() for name, x in tensors.items()}
    with cuda_emulator.emulated_cuda(compute_capability=80, variant="conv_rowring"):
        output = ops.conv2d(**leaves, **call.options, precision="fast")
        grad = torch.linspace(-1, 1, output.numel()).view(output.shape)
        got = torch.autograd.grad(output, list(leaves.values()), grad)
    exact = {n: x.detach().requires_grad_() for n, x in to_float64(leaves).items()}
    expected = torch.autograd.grad(
        reference.conv2d(**exact, **call.options), list(exact.values()), grad.double()
    )
    allowed = CONV.gradient_bound(call, to_float64(leaves), grad.double(), torch.float32)
    # The gradients of input and weight are products of two rounded factors; the bias' is a sum.
    sizes = {n: exact[n].detach().abs().requires_grad_() for n in ("input", "weight")}
    carried = torch.autograd.grad(
        torch.nn.functional.conv2d(*sizes.values(), padding=1),
        list(sizes.values()),
        grad.double().abs(),
    )
    for name, products in zip(sizes, carried, strict=True):
        allowed[name] = allowed[name] + bounds.TF32_PRODUCT_ERROR * products
    for name, ours, theirs in zip(leaves, got, expected, strict=True):
        limit = allowed[name] + bounds.output_rounding(theirs, torch.float32)
        assert ((ours.double() - theirs).abs() <= limit).all(), name


def test_turing_has_no_tf32():
    """There the call falls to the kernel that is exact in float32."""
    call = CALLS["odd_channels"]
    tensors = make_tensors(call, torch.float32, layout="channels_last")
    with cuda_emulator.emulated_cuda(compute_capability=75, variant="conv_rowring"):
        fast = ops.conv2d(**tensors, **call.options, precision="fast")
        strict = ops.conv2d(**tensors, **call.options, precision="strict")
    assert torch.equal(fast, strict)
