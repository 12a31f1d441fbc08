"""Every operator against its float64 reference: dtypes, layouts, shapes, instruction sets."""

from __future__ import annotations

import os
import random

import pytest
import torch
from cases import CASES, LAYOUTS, Call, make_tensors, to_float64
from op_checks import check_forward, dtype_name
from torch.nn import functional as F

from denoise_ext.ops._layout import is_channels_last

FUZZ_SEED = int(os.environ.get("DENOISE_EXT_FUZZ_SEED", "20240607"))
FUZZ_CALLS = 60

CALLS = [
    pytest.param(case, name, id=f"{case.name}-{name}")
    for case in CASES.values()
    for name in case.calls
]

SMALL_CALLS = [
    pytest.param(case, name, id=f"{case.name}-{name}")
    for case in CASES.values()
    for name in case.small_calls
]


CALLS_AND_DTYPES = [
    pytest.param(case, name, dtype, id=f"{case.name}-{name}-{dtype_name(dtype)}")
    for case in CASES.values()
    for name in case.calls
    for dtype in case.dtypes
]


@pytest.mark.rotates(each=["case", "dtype", "device", "isa"], turns=8)
@pytest.mark.parametrize("case, name, dtype", CALLS_AND_DTYPES)
def test_matches_reference(case, name, dtype, device, isa):
    call = case.calls[name]
    result = check_forward(case, call, make_tensors(call, dtype, device), isa)
    assert result.is_contiguous()


@pytest.mark.rotates(each=["case", "layout", "device"], turns=8)
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("case, name", CALLS)
def test_layouts(case, name, layout, device):
    call = case.calls[name]
    for dtype in (torch.float32, torch.bfloat16):
        tensors = make_tensors(call, dtype, device, layout)
        result = check_forward(case, call, tensors, f"{layout} {dtype}")
        main = tensors.get("previous", tensors["input"])  # a state keeps its own layout
        images = [x for x in (main, tensors.get("weight", main)) if x.dim() == 4]
        if result.dim() == 3 or case.output_dtype is not None:
            continue  # one image has no layout of its own, and neither have vectors
        if result.numel() and any(map(is_channels_last, images)):
            assert result.is_contiguous(memory_format=torch.channels_last)
        else:
            assert result.is_contiguous()


@pytest.mark.rotates(each=["case", "device", "isa"], turns=8)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("index", range(FUZZ_CALLS))
def test_fuzz(case, index, device, isa):
    seed = FUZZ_SEED + index
    rng = random.Random(f"{case.name} {seed}")
    call, dtype, layout = case.fuzz(rng), rng.choice(case.dtypes), rng.choice(LAYOUTS)
    tensors = make_tensors(call, dtype, device, layout, seed)
    note = f"{dtype} {layout} {isa} DENOISE_EXT_FUZZ_SEED={FUZZ_SEED} index={index}"
    check_forward(case, call, tensors, note)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_mixed_layouts(case, device):
    """A channels_last image beside contiguous weights (or guidance), and the other way round."""
    call = next(iter(case.calls.values()))
    plain = make_tensors(call, torch.float32, device)
    last = make_tensors(call, torch.float32, device, "channels_last")
    for name in plain:
        check_forward(case, call, {**plain, name: last[name]}, f"{name} channels_last")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_expanded_batch(case, device):
    """One image seen as a batch: stride 0."""
    call = next(iter(case.calls.values()))
    tensors = make_tensors(call, torch.float32, device)
    tensors["input"] = tensors["input"][:1].expand(tensors["input"].shape)
    check_forward(case, call, tensors)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_threads_do_not_change_the_result(case):
    call = case.calls["several_tiles"]
    tensors = make_tensors(call, torch.float32)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(case.op(**tensors, **call.options))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_inputs_are_left_alone(case, device):
    call = next(iter(case.calls.values()))
    tensors = make_tensors(call, torch.float32, device)
    before = {name: x.clone() for name, x in tensors.items()}
    case.op(**tensors, **call.options)
    for name, x in tensors.items():
        assert torch.equal(x, before[name]), name


@pytest.mark.parametrize("case, name", SMALL_CALLS)
def test_nan_and_infinity_pass_through(case, name, device, isa):
    """A pixel that is not finite gives what PyTorch gives: no more, no fewer NaN."""
    call = case.small_calls[name]
    for value in (float("nan"), float("inf"), float("-inf")):
        tensors = make_tensors(call, torch.float32, device)
        tensors["input"].view(-1)[1] = value
        result = case.op(**tensors, **call.options).cpu()
        # In float64: PyTorch's float32 GELU (2.13, oneDNN) makes NaN of infinity.
        expected = case.reference(**to_float64(tensors), **call.options)
        assert torch.equal(result.isnan(), expected.isnan()), value
        assert torch.equal(result.isinf(), expected.isinf()), value


UNUSUAL = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "minus_infinity": float("-inf"),
    "huge": 1e30,
    "tiny": None,  # the whole image
    "black": None,
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bilateral_of_unusual_numbers(channels, kind, device, isa):
    """What the kernels of few channels leave to the general one, and what they must not."""
    case = CASES["bilateral_blur"]
    call = Call({"input": (1, channels, 40, 150)}, {"kernel_size": 5, "sigma_space": 1.5})
    tensors = make_tensors(call, torch.float32, device)
    x = tensors["input"]
    scale = {"tiny": 1e-30, "black": 0.0}.get(kind, 1.0)
    x *= scale
    if UNUSUAL[kind] is not None:
        x[0, -1, 20, 10] = UNUSUAL[kind]
    call = call.with_options(sigma_color=0.3 * (scale or 1.0))
    if kind in ("huge", "tiny", "black"):
        check_forward(case, call, tensors, isa)
        return
    result = case.op(**tensors, **call.options).cpu()
    expected = case.reference(x.cpu(), **call.options)
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.isinf(), expected.isinf())
    assert result.isfinite().any()


@pytest.mark.parametrize("sigma_color", [1e-39, 1e38])
@pytest.mark.parametrize("channels", [1, 3])
def test_bilateral_of_unusual_sigmas(channels, sigma_color, device, isa):
    """Sigmas whose inverse float32 does not have, or has without digits."""
    options = {"kernel_size": 5, "sigma_color": sigma_color, "sigma_space": 1.5}
    call = Call({"input": (1, channels, 9, 40)}, options)
    check_forward(CASES["bilateral_blur"], call, make_tensors(call, torch.float32, device), isa)


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_large_gaussian_equals_its_parts(layout, isa):
    """Results beyond the caches (16 MiB) are written past them: the same bits, at any alignment."""
    x = make_tensors(Call({"input": (1, 3, 1300, 1151)}), torch.float32, layout=layout)["input"]
    case = CASES["gaussian_blur2d"]
    whole = case.op(x, 7, 1.5)
    assert whole.nbytes > 16 << 20
    for first in (0, 500, 800):
        part = case.op(x[:, :, first : first + 500], 7, 1.5)
        rows = slice(3 if first else 0, 500 if first == 800 else 497)
        assert torch.equal(part[:, :, rows], whole[:, :, first : first + 500][:, :, rows])


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=dtype_name)
def test_gaussian_of_an_array_seen_as_an_image(channels, dtype, isa):
    """(H, W, C) memory as (1, C, H, W), which torch does not call channels_last."""
    call = Call({"input": (1, 30, 70, channels)}, {"kernel_size": 5, "sigma": 1.5})
    tensors = make_tensors(call, dtype)
    tensors["input"] = tensors["input"][0].permute(2, 0, 1)[None]
    assert not is_channels_last(tensors["input"])
    assert check_forward(CASES["gaussian_blur2d"], call, tensors, isa).is_contiguous()


@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (1, 1, 1, 1), (1, 8, 1, 5)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_rule_is_that_of_torch(shape, layout):
    """The oracle is the layout F.conv2d gives its own output."""
    x = make_tensors(Call({"input": shape}), torch.float32, layout=layout)["input"]
    weight = torch.ones(6, shape[1], 1, 1)
    result, theirs = CASES["conv2d"].op(x, weight), F.conv2d(x, weight)
    assert result.stride() == theirs.stride()
