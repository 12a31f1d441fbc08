"""Invalid arguments: each one gets an error that names the argument, on operator and reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import CASES
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import ops, reference


def conv_arguments() -> dict[str, object]:
    return {"input": torch.zeros(2, 4, 6, 5), "weight": torch.zeros(6, 2, 3, 3), "groups": 2}


def transpose_arguments() -> dict[str, object]:
    return {"input": torch.zeros(2, 4, 6, 5), "weight": torch.zeros(4, 3, 3, 3), "groups": 2}


def gaussian_arguments() -> dict[str, object]:
    return {"input": torch.zeros(2, 3, 6, 5), "kernel_size": 3, "sigma": 1.0}


def bilateral_arguments() -> dict[str, object]:
    return {
        "input": torch.zeros(2, 3, 6, 5), "kernel_size": 3, "sigma_color": 0.1, "sigma_space": 1.0,
    }  # fmt: skip


def joint_arguments() -> dict[str, object]:
    return {**bilateral_arguments(), "guidance": torch.zeros(2, 1, 6, 5)}


def match_arguments() -> dict[str, object]:
    return {"input": torch.zeros(2, 1, 9, 20), "previous": torch.zeros(2, 1, 9, 20), "sigma": 5.0}


def warp_arguments() -> dict[str, object]:
    motion = torch.zeros(2, 2, 3, 2, dtype=torch.int16)
    return {"input": torch.zeros(2, 3, 9, 20), "motion": motion}


def fuse_arguments() -> dict[str, object]:
    return {
        "input": torch.zeros(2, 1, 8, 12), "previous": torch.zeros(2, 3, 8, 12),
        "gate": torch.zeros(2, 16, 2, 3), "level": 0.1,
    }  # fmt: skip


VALID = {
    "conv2d": conv_arguments,
    "conv_transpose2d": transpose_arguments,
    "gaussian_blur2d": gaussian_arguments,
    "bilateral_blur": bilateral_arguments,
    "joint_bilateral_blur": joint_arguments,
    "block_match": match_arguments,
    "block_warp": warp_arguments,
    "recurrent_fuse": fuse_arguments,
}

# (changed arguments, error, the argument its message starts with)
CONV_INVALID = [
    ({"input": [[1.0]]}, TypeError, "input"),
    ({"input": torch.zeros(6, 5)}, ValueError, "input"),
    ({"input": torch.zeros(1, 2, 4, 6, 5)}, ValueError, "input"),
    ({"input": torch.zeros(2, 5, 6, 5)}, ValueError, "input"),
    ({"input": torch.zeros(2, 4, 0, 5)}, ValueError, "input"),
    ({"input": torch.zeros(2, 4, 6, 5, dtype=torch.int64)}, TypeError, "input"),
    ({"input": torch.zeros(2, 4, 6, 5, dtype=torch.uint8)}, TypeError, "input"),
    ({"input": torch.zeros(2, 4, 6, 5, dtype=torch.complex64)}, TypeError, "input"),
    ({"input": torch.zeros(2, 4, 6, 5, dtype=torch.float64)}, TypeError, "weight"),
    ({"weight": 3.0}, TypeError, "weight"),
    ({"weight": torch.zeros(6, 2, 3)}, ValueError, "weight"),
    ({"weight": torch.zeros(0, 2, 3, 3)}, ValueError, "weight"),
    ({"weight": torch.zeros(4, 2, 0, 3)}, ValueError, "weight"),
    ({"weight": torch.zeros(4, 2, 3, 3, device="meta")}, ValueError, "weight"),
    ({"bias": 0.0}, TypeError, "bias"),
    ({"bias": torch.zeros(5)}, ValueError, "bias"),
    ({"bias": torch.zeros(6, 1)}, ValueError, "bias"),
    ({"bias": torch.zeros(6, dtype=torch.float16)}, TypeError, "bias"),
    ({"groups": 0}, ValueError, "groups"),
    ({"groups": -1}, ValueError, "groups"),
    ({"groups": 4.0}, ValueError, "groups"),
    ({"groups": 5}, ValueError, "groups"),
    ({"stride": 0}, ValueError, "stride"),
    ({"stride": (1, -1)}, ValueError, "stride"),
    ({"stride": (1, 1, 1)}, TypeError, "stride"),
    ({"stride": 1.0}, TypeError, "stride"),
    ({"stride": (1, 1.5)}, TypeError, "stride"),
    ({"stride": None}, TypeError, "stride"),
    ({"dilation": 0}, ValueError, "dilation"),
    ({"dilation": ()}, TypeError, "dilation"),
    ({"padding": -1}, ValueError, "padding"),
    ({"activation": "mish"}, ValueError, "activation"),
    ({"activation": None}, ValueError, "activation"),
    ({"activation": "leaky_relu", "negative_slope": -0.1}, ValueError, "negative_slope"),
    ({"activation": "leaky_relu", "negative_slope": math.nan}, ValueError, "negative_slope"),
    ({"activation": "prelu"}, ValueError, "prelu_weight"),
    ({"prelu_weight": torch.zeros(1)}, ValueError, "prelu_weight"),
    ({"activation": "prelu", "prelu_weight": torch.zeros(2)}, ValueError, "prelu_weight"),
    ({"activation": "prelu", "prelu_weight": torch.zeros(1, 1)}, ValueError, "prelu_weight"),
    ({"activation": "prelu", "prelu_weight": torch.zeros(1).double()}, TypeError, "prelu_weight"),
    ({"precision": "half"}, ValueError, "precision"),
]
CONV2D_INVALID = [
    ({"padding": "full"}, ValueError, "padding"),
    ({"padding": "same", "stride": 2}, ValueError, "stride"),
    ({"weight": torch.zeros(6, 2, 7, 3)}, ValueError, "weight"),
    ({"dilation": 4}, ValueError, "weight"),
    ({"residual": torch.zeros(2, 6, 4, 4)}, ValueError, "residual"),
    ({"residual": torch.zeros(6, 4, 3)}, ValueError, "residual"),
    ({"residual": torch.zeros(2, 6, 4, 3).double()}, TypeError, "residual"),
    ({"residual": 1.0}, TypeError, "residual"),
    (
        {"residual": torch.zeros(2, 6, 4, 3), "residual_position": "middle"},
        ValueError, "residual_position",
    ),
]  # fmt: skip
TRANSPOSE_INVALID = [
    ({"output_padding": 1}, ValueError, "output_padding"),
    ({"output_padding": (0, 2), "stride": 2}, ValueError, "output_padding"),
    ({"output_padding": -1}, ValueError, "output_padding"),
    ({"padding": 5}, ValueError, "padding"),
]
MATCH_INVALID = [
    ({"input": 1.0}, TypeError, "input"),
    ({"input": torch.zeros(1, 9, 20)}, ValueError, "input"),
    ({"input": torch.zeros(2, 3, 9, 20)}, ValueError, "input"),
    ({"input": torch.zeros(2, 1, 9, 20, dtype=torch.int16)}, TypeError, "input"),
    ({"previous": None}, TypeError, "previous"),
    ({"previous": torch.zeros(2, 1, 9, 21)}, ValueError, "previous"),
    ({"previous": torch.zeros(1, 1, 9, 20)}, ValueError, "previous"),
    ({"previous": torch.zeros(2, 1, 9, 20).double()}, TypeError, "previous"),
    ({"previous": torch.zeros(2, 1, 9, 20, device="meta")}, ValueError, "previous"),
    ({"sigma": None}, TypeError, "sigma"),
    ({"sigma": True}, TypeError, "sigma"),
    ({"sigma": -1.0}, ValueError, "sigma"),
    ({"sigma": math.nan}, ValueError, "sigma"),
    ({"sigma": math.inf}, ValueError, "sigma"),
    ({"sigma": torch.zeros(2)}, ValueError, "sigma"),
    ({"sigma": torch.zeros(2, 1, 3, 3)}, ValueError, "sigma"),
    ({"sigma": torch.zeros(2, 1, 2, 3, dtype=torch.uint8)}, TypeError, "sigma"),
    ({"sigma": torch.zeros(2, 1, 2, 3, device="meta")}, ValueError, "sigma"),
]
WARP_INVALID = [
    ({"input": 1.0}, TypeError, "input"),
    ({"input": torch.zeros(3, 9, 20)}, ValueError, "input"),
    ({"input": torch.zeros(2, 3, 9, 20, dtype=torch.int32)}, TypeError, "input"),
    ({"motion": None}, TypeError, "motion"),
    ({"motion": torch.zeros(2, 2, 3, 2)}, TypeError, "motion"),
    ({"motion": torch.zeros(2, 2, 3, 2, dtype=torch.int32)}, TypeError, "motion"),
    ({"motion": torch.zeros(1, 2, 3, 2, dtype=torch.int16)}, ValueError, "motion"),
    ({"motion": torch.zeros(2, 2, 2, 2, dtype=torch.int16)}, ValueError, "motion"),
    ({"motion": torch.zeros(2, 2, 3, 2, dtype=torch.int16, device="meta")}, ValueError, "motion"),
]
FUSE_INVALID = [
    ({"input": 1.0}, TypeError, "input"),
    ({"input": torch.zeros(1, 8, 12)}, ValueError, "input"),
    ({"input": torch.zeros(2, 1, 8, 12, dtype=torch.uint8)}, TypeError, "input"),
    ({"previous": torch.zeros(2, 2, 8, 12)}, ValueError, "previous"),
    ({"previous": torch.zeros(2, 3, 8, 12).half()}, TypeError, "previous"),
    ({"previous": 0}, TypeError, "previous"),
    ({"gate": torch.zeros(2, 4, 2, 3)}, ValueError, "gate"),
    ({"gate": torch.zeros(2, 16, 3, 3)}, ValueError, "gate"),
    ({"gate": torch.zeros(2, 16, 2, 0)}, ValueError, "gate"),
    ({"gate": torch.zeros(2, 1, 8, 24)}, ValueError, "gate"),
    ({"gate": torch.zeros(2, 25, 1, 2)}, ValueError, "gate"),
    ({"gate": torch.zeros(2, 16, 2, 3).double()}, TypeError, "gate"),
    ({"level": "x"}, TypeError, "level"),
    ({"level": -0.5}, ValueError, "level"),
    ({"level": torch.zeros(2, 1, 8, 11)}, ValueError, "level"),
    ({"level": torch.zeros(2, 3, 8, 12)}, ValueError, "level"),
    ({"level": torch.zeros(2, 1, 8, 12, dtype=torch.int16)}, TypeError, "level"),
]
IMAGE_INVALID = [
    ({"input": 1.0}, TypeError, "input"),
    ({"input": torch.zeros(6, 5)}, ValueError, "input"),
    ({"input": torch.zeros(2, 3, 6, 5, dtype=torch.int16)}, TypeError, "input"),
    ({"input": torch.zeros(2, 3, 6, 5, dtype=torch.bool)}, TypeError, "input"),
    # channels last, as decoders and OpenCV give it
    ({"input": torch.zeros(48, 64, 3, dtype=torch.uint8)}, ValueError, "input"),
    ({"input": torch.zeros(1, 48, 64, 3, dtype=torch.uint8)}, ValueError, "input"),
    ({"input": torch.zeros(48, 64, 1, dtype=torch.uint8)}, ValueError, "input"),
    ({"kernel_size": 4}, ValueError, "kernel_size"),
    ({"kernel_size": (3, 2)}, ValueError, "kernel_size"),
    ({"kernel_size": 0}, ValueError, "kernel_size"),
    ({"kernel_size": -3}, ValueError, "kernel_size"),
    ({"kernel_size": 3.0}, TypeError, "kernel_size"),
    ({"kernel_size": (3, 3, 3)}, TypeError, "kernel_size"),
    ({"border_type": "wrap"}, ValueError, "border_type"),
    ({"border_type": 4}, ValueError, "border_type"),
]


def sigma_invalid(name: str, pairs: bool) -> list[tuple[dict[str, object], type, str]]:
    values: list[tuple[object, type]] = [
        (0.0, ValueError), (-1.0, ValueError), (math.nan, ValueError), (math.inf, ValueError),
        ("wide", TypeError), (None, TypeError), (torch.ones(3), ValueError),
        (torch.ones(1, 2, 2), ValueError), (torch.ones(2, 3), ValueError),
        (torch.ones(2, dtype=torch.complex64), TypeError),
        (torch.ones(2, device="meta"), ValueError),
    ]  # fmt: skip
    if pairs:
        values += [((1.0, 0.0), ValueError), ((1.0, 1.0, 1.0), ValueError)]
        values += [(("a", 1.0), TypeError), (torch.ones(3, 2), ValueError)]
    else:
        values += [((1.0, 1.0), TypeError), (torch.ones(2, 2), ValueError)]
    return [({name: value}, error, name) for value, error in values]


BILATERAL_INVALID = [
    *IMAGE_INVALID,
    *sigma_invalid("sigma_color", pairs=False),
    *sigma_invalid("sigma_space", pairs=True),
    ({"color_distance_type": "l3"}, ValueError, "color_distance_type"),
    ({"window": "disk"}, ValueError, "window"),
    ({"window": "circle", "kernel_size": (3, 5)}, ValueError, "kernel_size"),
]
JOINT_INVALID = [
    ({"guidance": None}, TypeError, "guidance"),
    ({"guidance": torch.zeros(1, 6, 5)}, ValueError, "guidance"),
    ({"guidance": torch.zeros(1, 1, 6, 5)}, ValueError, "guidance"),
    ({"guidance": torch.zeros(2, 1, 6, 6)}, ValueError, "guidance"),
    ({"guidance": torch.zeros(2, 1, 6, 5).double()}, TypeError, "guidance"),
    ({"guidance": torch.zeros(2, 1, 6, 5, device="meta")}, ValueError, "guidance"),
]
INVALID = {
    "conv2d": CONV_INVALID + CONV2D_INVALID,
    "conv_transpose2d": CONV_INVALID + TRANSPOSE_INVALID,
    "gaussian_blur2d": IMAGE_INVALID + sigma_invalid("sigma", pairs=True),
    "bilateral_blur": BILATERAL_INVALID,
    "joint_bilateral_blur": BILATERAL_INVALID + JOINT_INVALID,
    "block_match": MATCH_INVALID,
    "block_warp": WARP_INVALID,
    "recurrent_fuse": FUSE_INVALID,
}
NOT_CONVOLUTIONS = [name for name in INVALID if not name.startswith("conv")]


def describe(changes: dict[str, object]) -> str:
    def text(value: object) -> str:
        if isinstance(value, Tensor):
            kind = str(value.dtype).removeprefix("torch.")
            return f"{kind}{tuple(value.shape)}" + ("-meta" if value.is_meta else "")
        return str(value)

    return " ".join(f"{name}={text(value)}" for name, value in changes.items())


def invalid_parameters(names: list[str]) -> list:
    return [
        pytest.param(name, changes, error, argument, id=f"{name} {describe(changes)}")
        for name in names
        for changes, error, argument in INVALID[name]
    ]


def call(module, name: str, changes: dict[str, object]) -> Tensor:
    return getattr(module, name)(**{**VALID[name](), **changes})


@pytest.mark.parametrize("name, changes, error, argument", invalid_parameters(list(INVALID)))
def test_operator(name, changes, error, argument):
    with pytest.raises(error, match=rf"^{argument}\b"):
        call(ops, name, changes)


@pytest.mark.parametrize("name, changes, error, argument", invalid_parameters(NOT_CONVOLUTIONS))
def test_reference(name, changes, error, argument):
    with pytest.raises(error, match=rf"^{argument}\b"):
        call(reference, name, changes)


@pytest.mark.parametrize("name", VALID)
def test_the_unchanged_arguments_are_valid(name):
    ours, theirs = call(ops, name, {}), call(reference, name, {})
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "shape", [(3, 48, 64), (48, 64, 5), (20, 48, 3), (48, 20, 3), (0, 3, 9, 9)]
)
def test_uint8_images_with_channels_first_pass(shape):
    """Only what is plainly (H, W, C) is refused."""
    image = torch.zeros(shape, dtype=torch.uint8)
    assert ops.gaussian_blur2d(image, 3, 1.0).shape == shape


SIGMA_NAMES = [
    ("gaussian_blur2d", "sigma", (2,)), ("gaussian_blur2d", "sigma", (1, 2)),
    ("bilateral_blur", "sigma_color", (1,)), ("bilateral_blur", "sigma_space", (2, 2)),
    ("joint_bilateral_blur", "sigma_color", (2,)), ("joint_bilateral_blur", "sigma_space", (1,)),
]  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name, argument, shape", SIGMA_NAMES)
def test_sigma_tensor_values(name, argument, shape, value):
    """One bad value among good ones; the operator looks at the values when it runs."""
    sigma = torch.ones(shape)
    sigma.view(-1)[-1] = value
    with pytest.raises(RuntimeError, match=rf"\b{argument}\b.*> 0"):
        call(ops, name, {argument: sigma})
    with pytest.raises(ValueError, match=rf"^{argument}\b.*> 0"):
        call(reference, name, {argument: sigma})


@pytest.mark.parametrize("name", VALID)
def test_a_device_without_kernels_names_the_way_out(name, monkeypatch):
    """As on a CUDA tensor where the build has no CUDA kernels."""
    import importlib

    module = importlib.import_module(getattr(ops, name).__module__)
    shared = {  # modules of several operators
        "joint_bilateral_blur": "_joint_devices", "block_match": "_match_devices",
        "block_warp": "_warp_devices", "recurrent_fuse": "_fuse_devices",
    }  # fmt: skip
    devices = shared.get(name, "_devices")
    monkeypatch.setattr(module, devices, frozenset({"cuda", "meta"}))
    with pytest.raises(ValueError, match=rf"^input is on cpu.*denoise_ext\.reference\.{name}"):
        call(ops, name, {})


PLAIN = {"input", "weight", "bias", "groups", "stride", "padding", "dilation", "output_padding"}
# What torch computes and the operators refuse: convolutions of nothing, meta tensors among others.
STRICTER = ("weight=float32(0, 2, 3, 3)", "weight=float32(4, 2, 0, 3)", "-meta")


@pytest.mark.parametrize(
    "name, changes, error, argument",
    [
        parameters
        for parameters in invalid_parameters(["conv2d", "conv_transpose2d"])
        if set(parameters.values[1]) <= PLAIN and not parameters.id.endswith(STRICTER)
    ],
)
def test_torch_refuses_the_same(name, changes, error, argument):
    """Each of these is an error of ``torch.nn.functional`` too: nothing valid is refused."""
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        getattr(F, name)(**{**VALID[name](), **changes})


@pytest.mark.parametrize(
    "case", [case for name, case in CASES.items() if "conv" in name or "blur" in name]
)
def test_lists_and_single_elements_are_pairs(case):
    """torch takes ``[2]``, ``[2, 2]`` and NumPy's 2 for 2 wherever it takes a pair."""
    if "conv" in case.name:
        expected = call(ops, case.name, {"stride": 2})
        for stride in ([2], [2, 2], (2,), torch.Size([2, 2]), np.int64(2)):
            assert torch.equal(call(ops, case.name, {"stride": stride}), expected)
    else:
        expected = call(ops, case.name, {"kernel_size": 5})
        assert torch.equal(call(ops, case.name, {"kernel_size": [5, 5]}), expected)
