"""The primitives under the CUDA kernels do what their comments say, emulated and on a GPU.

The emulator is only as good as its idea of ``ldmatrix`` or ``mma``; one set of tests for it and
for the hardware keeps the two the same.  The expected values are computed here from the fragment
layouts of the PTX manual (and csrc/cuda/primitives.cuh), not by either.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
import torch
from cuda_emulator.build import HERE, OUTPUT, build_test_library, locked

SOURCE = HERE / "primitives_check.cu"
LANES = np.arange(32)
GROUP, THREAD = LANES // 4, LANES % 4
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")


def nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def has_gpu() -> bool:
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False


def compile_with_nvcc(architecture: str, *flags: str, target: str) -> Path:
    output = OUTPUT / "nvcc" / target
    command = [nvcc(), "-std=c++17", f"-arch={architecture}", *flags, SOURCE, "-o", output]
    with locked(output.parent):
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return output


MACHINES = ["emulated", "cuda"] if nvcc() and has_gpu() else ["emulated"]


@pytest.fixture(scope="module", params=MACHINES)
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    if request.param == "emulated":
        if cuda_emulator.missing() is not None:
            pytest.skip(cuda_emulator.missing())
        path = build_test_library(SOURCE, cuda_emulator.mode())
    else:
        path = compile_with_nvcc("native", "-shared", "-Xcompiler=-fPIC", target="primitives.so")
    loaded = ctypes.CDLL(str(path))
    loaded.last_error.restype = ctypes.c_char_p
    return loaded


@pytest.fixture(params=[0, 1, 2])
def seed(request: pytest.FixtureRequest, library: ctypes.CDLL) -> int:
    library.set_seed(request.param)
    return request.param


def call(library: ctypes.CDLL, name: str, *arguments: int | np.ndarray) -> None:
    values = [
        a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in arguments
    ]
    assert getattr(library, name)(*values) == 0, library.last_error().decode()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(library, seed, count, transposed):
    memory = np.random.default_rng(seed).integers(0, 2**16, (count, 8, 8), dtype=np.uint16)
    registers = np.zeros((32, count), np.uint32)
    call(library, "check_ldmatrix", count, int(transposed), memory, registers)
    for m in range(count):
        matrix = memory[m].T if transposed else memory[m]
        low, high = matrix[GROUP, 2 * THREAD], matrix[GROUP, 2 * THREAD + 1]
        np.testing.assert_array_equal(registers[:, m], low | high.astype(np.uint32) << 16)


def bf16_bits(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)  # exact for our values


def pack(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low.astype(np.uint32) | high.astype(np.uint32) << 16


def fragments(a: np.ndarray, b: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Registers (32, 4) of a (16, K) and (32, 2) of b (K, 8)."""
    ra, rb = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
    if kind == "tf32":
        a, b = a.astype(np.float32).view(np.uint32), b.astype(np.float32).view(np.uint32)
        for i in range(4):
            ra[:, i] = a[GROUP + i % 2 * 8, THREAD + i // 2 * 4]
        for i in range(2):
            rb[:, i] = b[THREAD + 4 * i, GROUP]
        return ra, rb
    bits = bf16_bits if kind == "bf16" else lambda x: x.astype(np.float16).view(np.uint16)
    a, b = bits(a), bits(b)
    for i in range(4):
        row, column = GROUP + i % 2 * 8, 2 * THREAD + i // 2 * 8
        ra[:, i] = pack(a[row, column], a[row, column + 1])
    for i in range(2):
        row = 2 * THREAD + 8 * i
        rb[:, i] = pack(b[row, GROUP], b[row + 1, GROUP])
    return ra, rb


@pytest.mark.parametrize("kind, bits", [("f16", 11), ("bf16", 8), ("tf32", 11)])
def test_mma(library, seed, kind, bits):
    """Exact products (values of few bits), and sums within the hardware's truncation."""
    depth = 8 if kind == "tf32" else 16
    rng = np.random.default_rng(seed)
    whole = 2 ** (bits - 1)
    a = rng.integers(-whole, whole, (16, depth)) / whole
    b = rng.integers(-whole, whole, (depth, 8)) / whole
    c = rng.uniform(-1, 1, (16, 8)).astype(np.float32)
    ra, rb = fragments(a, b, kind)
    rows = np.stack([GROUP, GROUP, GROUP + 8, GROUP + 8], 1)
    columns = np.stack([2 * THREAD, 2 * THREAD + 1] * 2, 1)
    rc = np.ascontiguousarray(c[rows, columns])
    call(library, "check_mma", ["f16", "bf16", "tf32"].index(kind), ra, rb, rc)
    result = np.zeros((16, 8))
    result[rows, columns] = rc
    magnitude = np.abs(a) @ np.abs(b) + np.abs(c)
    # Every addend may lose what lies below the last bit of the largest: 2^-23 of it, K + 1 times.
    assert (np.abs(result - (a @ b + c)) <= (depth + 1) * 2.0**-23 * magnitude).all()


def test_asynchronous_copy_with_zero_fill(library, seed):
    rng = np.random.default_rng(seed)
    source = rng.integers(1, 256, (96, 16), dtype=np.uint8)
    valid = rng.integers(0, 2, 96, dtype=np.uint8)
    result = np.full((96, 16), 255, np.uint8)
    call(library, "check_copy", source, valid, result)
    np.testing.assert_array_equal(result, source * valid[:, None])


@pytest.mark.parametrize("mode", ["index", "up", "down", "xor"])
def test_shuffle(library, mode):
    values = np.random.default_rng(0).random(32).astype(np.float32)
    for argument, width in itertools.product((0, 1, 3, 16), (32, 16, 4)):
        result = np.zeros_like(values)
        number = ["index", "up", "down", "xor"].index(mode)
        call(library, "check_shuffle", number, argument, width, values, result)
        first = LANES // width * width
        source = {
            "index": first + argument % width,
            "up": np.where(LANES - argument < first, LANES, LANES - argument),
            "down": np.where(LANES + argument >= first + width, LANES, LANES + argument),
            # Towards a later segment a lane keeps its value; an earlier one it may read.
            "xor": np.where((LANES ^ argument) >= first + width, LANES, LANES ^ argument),
        }[mode]
        np.testing.assert_array_equal(result, values[source], f"{argument} {width}")


def test_votes(library, seed):
    for predicates in (
        np.zeros(64, np.int32),
        np.ones(64, np.int32),
        np.arange(64, dtype=np.int32) % 3,
    ):
        result = np.zeros((4, 64), np.uint32)
        call(library, "check_vote", predicates, result)
        for warp in (slice(0, 32), slice(32, 64)):
            is_set = predicates[warp] != 0
            assert (result[0, warp] == sum(1 << i for i in range(32) if is_set[i])).all()
            assert (result[1, warp] == is_set.any()).all()
            assert (result[2, warp] == is_set.all()).all()
        assert (result[3] == np.count_nonzero(predicates)).all()


def test_exp2(library):
    x = np.concatenate([np.linspace(-150, 128, 4001), [-np.inf, np.inf, np.nan, 0, 1e-40, 127.9]])
    x = x.astype(np.float32)
    y = np.zeros_like(x)
    call(library, "check_exp2", len(x), x, y)
    with np.errstate(over="ignore"):
        exact = np.exp2(x.astype(np.float64))
        expected = np.where(exact < 2.0**-126, 0, np.where(exact >= 2.0**128, np.inf, exact))
    normal = np.isfinite(expected) & (expected > 0)
    # PTX manual, ex2: maximum relative error 2^-22.5 for ex2.approx.ftz.f32.
    assert (np.abs(y[normal] / expected[normal] - 1) <= 2.0**-22).all()
    np.testing.assert_array_equal(y[~normal], expected[~normal])


def test_tf32_rounds_to_nearest_and_ties_away(library):
    bits = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32)
    ties = np.array([0x3F801000, 0x3F803000, 0xBF801000, 0x3F800FFF, 0x7F7FFFFF], np.uint32)
    special = np.array([np.inf, -np.inf, 0.0, -0.0], np.float32).view(np.uint32)
    x = np.concatenate([bits, ties, special]).view(np.float32)
    x = x[~np.isnan(x)]
    y = np.zeros(len(x), np.uint32)
    call(library, "check_tf32", len(x), x, y)
    exact = x.view(np.uint32)
    expected = np.where(np.isinf(x), exact, (exact + np.uint32(0x1000)) & np.uint32(0xFFFFE000))
    np.testing.assert_array_equal(y & np.uint32(0xFFFFE000), expected)  # the low bits do not count


def numbers_between_16_bit_ones() -> np.ndarray:
    """Any floats, all that float16 has, the ties between neighbours and what lies beside a tie."""
    any_float = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32)
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    brains = np.arange(2**16, dtype=np.uint32) << 16
    ties = np.concatenate([halves + (1 << 12), brains + (1 << 15)])
    bits = np.concatenate([any_float, halves, brains, ties, ties + 1, ties - 1])
    return np.resize(bits, len(bits) // 2 * 2).view(np.float32)


def test_16_bit_elements_are_rounded_to_nearest_even(library):
    """Against NumPy's float16 and torch's bfloat16; a NaN is any NaN."""
    x = numbers_between_16_bit_ones()
    with np.errstate(over="ignore", invalid="ignore"):
        half = x.astype(np.float16)
        value = half.astype(np.float32)
    brain = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
    number = ~np.isnan(x)

    y = np.zeros((3, len(x)), np.uint32)
    call(library, "check_sixteen_bits", len(x), x, y)
    np.testing.assert_array_equal(y[0][number], half.view(np.uint16)[number])
    np.testing.assert_array_equal(y[1][number], brain[number])
    np.testing.assert_array_equal(y[2].view(np.float32), value)
    assert np.isnan(y[0][~number].astype(np.uint16).view(np.float16)).all()
    assert np.isnan((y[1][~number] << 16).view(np.float32)).all()

    pairs = np.zeros((4, len(x) // 2), np.uint32)
    call(library, "check_pairs", len(x) // 2, x, pairs)
    first, second = np.split(y, 2, axis=1)
    np.testing.assert_array_equal(pairs[0], first[0] | second[0] << 16)
    np.testing.assert_array_equal(pairs[1], first[1] | second[1] << 16)
    np.testing.assert_array_equal(pairs[2:].view(np.float32), value.reshape(2, -1))


def test_large_shared_memory(library):
    """More than the 48 KiB that need no opt-in; 64 KiB is what the oldest architecture has."""
    n, total = 64 * 1024 // 4, np.zeros(1, np.uint32)
    call(library, "check_large_shared", n, total)
    assert total[0] == n * (n - 1) // 2 % 2**32


@pytest.mark.rotates()
@pytest.mark.slow
@pytest.mark.skipif(nvcc() is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_compiles_them(architecture):
    compile_with_nvcc(f"sm_{architecture}", "-cubin", target=f"primitives-{architecture}.cubin")
