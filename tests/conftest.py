"""Fixtures: every device the build serves, every instruction set the processor has."""

from __future__ import annotations

import pytest
import torch
from cases import CASES

from denoise_ext._loader import native, native_error
from denoise_ext.ops._library import kernel_devices


def _devices() -> list[str]:
    served = torch.cuda.is_available() and "cuda" in kernel_devices("conv2d")
    return ["cpu", "cuda"] if served else ["cpu"]


def _instruction_sets() -> list[str]:
    # Without the library the tests run and fail with the loader's reason, rather than vanish.
    return ["missing"] if native_error() else list(native().isa_available())


def pytest_configure(config: pytest.Config) -> None:
    """torch tells of its own copy for an uneven ``padding="same"``: the oracle's, not ours."""
    config.addinivalue_line("filterwarnings", "ignore:Using padding='same' with even kernel")


@pytest.fixture(params=_devices())
def device(request: pytest.FixtureRequest) -> str:
    """A device that is present and has kernels for the operator under test in this build."""
    parameters = request.node.callspec.params
    name = getattr(parameters.get("case"), "name", parameters.get("name"))
    if request.param != "cpu" and name in CASES and request.param not in kernel_devices(name):
        pytest.skip(f"{name} has no {request.param} kernel in this build")
    return request.param


@pytest.fixture(params=_instruction_sets())
def isa(request: pytest.FixtureRequest):
    """Force one instruction set for the test, then give back the one that was in use."""
    module = native()
    before = module.isa_in_use()
    module.force_isa(request.param)
    try:
        assert module.isa_in_use() == request.param
        yield request.param
    finally:
        module.force_isa(before)
