"""Bilateral filters for few channels: more than a tile, guidance of other channels than the image.

The calls are large enough for several tiles of the CUDA kernels, cut off at the right and below,
and small enough to be emulated.
"""

from __future__ import annotations

import pytest
import torch
from calls import Call
from cases import CASES, LAYOUTS, make_tensors
from op_checks import check_forward, check_gradients, dtype_name

from denoise_ext import ops, reference
from denoise_ext._loader import native

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.uint8)
SIZE = (33, 37)


def _joint(channels: int, guides: int, kernel: int = 5, **options: object) -> Call:
    shapes = {"input": (2, channels, *SIZE), "guidance": (2, guides, *SIZE)}
    sigmas = {"sigma_color": (2,), "sigma_space": (2, 2)}
    return Call({**shapes, **sigmas}, {"kernel_size": kernel, **options})


def _alone(channels: int, kernel: int = 5, **options: object) -> Call:
    shapes = {"input": (1, channels, *SIZE), "sigma_color": (1,), "sigma_space": (1, 2)}
    return Call(shapes, {"kernel_size": kernel, **options})


CALLS = {
    "1_by_1": _joint(1, 1, border_type="replicate"),
    "1_by_3": _joint(1, 3, color_distance_type="l2"),
    "3_by_1": _joint(3, 1, window="circle"),
    "3_by_3": _joint(3, 3, border_type="circular", window="circle"),
    "2_by_2": _joint(2, 2, border_type="constant"),
    "1": _alone(1, 7),
    "2": _alone(2, color_distance_type="l2"),
    "3_radius_7": _alone(3, 15, window="circle"),
}
# Those that the gradients' tile kernel leaves to the general one.
MANY = {"5_by_3": _joint(5, 3), "4": _alone(4, window="circle"), "7_by_1": _joint(7, 1)}


def _case(call: Call):
    return CASES["joint_bilateral_blur" if "guidance" in call.shapes else "bilateral_blur"]


def _table(calls: dict[str, Call]) -> list:
    return [pytest.param(_case(call), call, id=name) for name, call in calls.items()]


@pytest.mark.parametrize("case, call", _table({**CALLS, **MANY}))
def test_matches_reference(case, call, device):
    for dtype in DTYPES:
        for layout in LAYOUTS[:2] if dtype == torch.float32 else LAYOUTS[:1]:
            tensors = make_tensors(call, dtype, device, layout)
            check_forward(case, call, tensors, f"{dtype_name(dtype)} {layout}")


@pytest.mark.parametrize("distance", ("l1", "l2"))
@pytest.mark.parametrize("unit", (1e-25, 1e25))
def test_numbers_whose_squares_float32_has_not(unit, distance, device):
    """Weights depend on differences in units of sigma alone; the squares would be 0 or infinite."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(1, 3, *SIZE, generator=generator)
    blur = lambda library, x, sigma: library.bilateral_blur(  # noqa: E731
        x, 5, sigma, 1.5, color_distance_type=distance
    )
    got = blur(ops, (x * unit).to(device), 0.2 * unit).cpu().double() / unit
    exact = blur(reference, x.double(), 0.2)
    # The exponents, up to 3 / (2 * 0.2 ** 2) = 38, or 113 of L1's sums, have a dozen roundings, of
    # which the weights' relative errors come; a mean of values up to 1 is off by that at most.
    tolerance = 12 * 2**-24 * (113 if distance == "l1" else 38)
    assert float((got - exact).abs().max()) < tolerance


@pytest.mark.rotates(each=["case", "dtype", "device"])
@pytest.mark.parametrize("dtype", FLOATS, ids=dtype_name)
@pytest.mark.parametrize("case, call", _table(CALLS))
def test_gradients_match_reference(case, call, dtype, device):
    check_gradients(case, call, make_tensors(call, dtype, device), dtype_name(dtype))


@pytest.mark.skipif(not native().build_info()["cuda"], reason="the build has no CUDA kernels")
@pytest.mark.parametrize("case, call", _table({**CALLS, **MANY}))
def test_kernel_is_chosen(case, call):
    tensors = make_tensors(call, torch.float32)
    text = ops.explain(case.op, device="sm_90", **tensors, **call.options)
    assert text.startswith("bilateral_tile: chosen"), text
