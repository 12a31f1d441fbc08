"""Fixtures: every device the build serves, every instruction set the processor has.

The CUDA kernels run here without a GPU too: device "cuda-emulated" is CPU tensors on which
``torch.ops.denoise_ext`` runs them emulated (cuda_emulator/README.md).  DENOISE_EXT_CUDA_EMULATION
chooses the build, shadow (default) or asan, or ``off``.
"""

from __future__ import annotations

import gc
import os
import zlib
from importlib.util import find_spec

import cuda_emulator
import pytest
import torch
from cases import CASES, OpCase
from training_tools import workplace  # noqa: F401  (a fixture)

from denoise_ext._loader import native, native_error
from denoise_ext.ops._library import kernel_devices

# Tests on a machine with a GPU need no Pillow, and no service.
pytest_plugins = ["rotation", *(["live_service"] if find_spec("PIL") else [])]
# Comparisons that fail there show both sides, too.
pytest.register_assert_rewrite("op_checks", "picture_files")

# The processes of pytest-xdist share the cores, and so do the programs that they start.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    torch.set_num_threads(max(torch.get_num_threads() // WORKERS, 1))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


# On a GPU float32 means float32, in PyTorch and by default in the operators under test;
# tests/cuda/test_cuda_tf32.py has the setting in each of its forms.
torch.backends.cudnn.allow_tf32 = False

# What one test decided must not reach another; test_decisions.py has folders of its own.
os.environ["DENOISE_EXT_CACHE"] = "off"


def _devices() -> list[str]:
    emulated = ["cuda-emulated"] if cuda_emulator.missing() is None else []
    if cuda_emulator.is_forced():
        return emulated
    served = torch.cuda.is_available() and "cuda" in kernel_devices("conv2d")
    return ["cpu", "cuda", *emulated] if served else ["cpu", *emulated]


def _instruction_sets() -> list[str]:
    # Without the library the tests run and fail with the loader's reason, rather than vanish.
    return ["missing"] if native_error() else list(native().isa_available())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every device; on the CPU every instruction set, elsewhere the one in use."""
    wanted = [name for name in ("device", "isa") if name in metafunc.fixturenames]
    isas = _instruction_sets() if "isa" in wanted else [None]
    devices = _devices() if "device" in wanted else ["cpu"]
    pairs = [{"device": d, "isa": i} for d in devices for i in isas if d == "cpu" or i == isas[0]]
    if wanted:
        rows = [[pair[name] for name in wanted] for pair in pairs]
        ids = ["-".join(row if row[0] == "cpu" else row[:1]) for row in rows]
        metafunc.parametrize(wanted, rows, ids=ids, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Share the slow tests out first: none is left for one process at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Garbage is looked for in what the tests make, not in all that was imported and collected."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One process more than cores: a test that waits for a clock leaves its core to another."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else None


def pytest_report_header() -> str:
    """The seed of the random order, for repeating a run."""
    return f"emulated CUDA: {cuda_emulator.missing() or cuda_emulator.seeds_text()}"


def pytest_configure(config: pytest.Config) -> None:
    """torch tells of its own copy for an uneven ``padding="same"``: the oracle's, not ours."""
    config.addinivalue_line("filterwarnings", "ignore:Using padding='same' with even kernel")


@pytest.fixture
def device(request: pytest.FixtureRequest):
    """A device that is present and has kernels for the operator under test in this build."""
    parameters = request.node.callspec.params
    case = parameters.get("case") or CASES.get(parameters.get("name"))
    has_case = isinstance(case, OpCase)
    if request.param == "cuda-emulated":
        if has_case and case.name not in cuda_emulator.emulator().operator_names():
            pytest.skip(f"{case.name} has no CUDA kernel")
        # The tests share out the orders of threads; test_cuda_orders.py has every call in all.
        seeds = list(cuda_emulator.SEEDS.values())
        with cuda_emulator.emulated_cuda(seeds[zlib.crc32(request.node.nodeid.encode()) % 3]):
            yield "cpu"
        return
    if request.param == "cuda" and has_case and "cuda" not in kernel_devices(case.name):
        pytest.skip(f"{case.name} has no cuda kernel in this build")
    yield request.param


@pytest.fixture
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
