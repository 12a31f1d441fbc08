"""What nvcc makes of the CUDA kernels: no spills, within budget, with the instructions meant.

The budgets are rows of cuda_budgets.toml; ``make cuda-report`` prints them beside what is used.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from dataclasses import replace

import cuda_report
import machine_code
import pytest
from cuda_report import ARCHITECTURES, SOURCES, Kernel

from denoise_ext._loader import native

FILES = sorted(path.name for path in SOURCES.glob("*.cu"))
pytestmark = pytest.mark.xdist_group("cuda_compiled")
needs_tools = pytest.mark.skipif(
    cuda_report.missing() is not None, reason=cuda_report.missing() or ""
)


@pytest.fixture(scope="module")
def rows():
    return cuda_report.budgets()


@pytest.fixture(scope="module")
def kernels(request: pytest.FixtureRequest) -> list[Kernel]:
    """Those of the files and architectures that this run tests."""
    items = [item for item in request.session.items if item.path == request.path]
    rows = [item.callspec.params for item in items if hasattr(item, "callspec")]
    chosen = {(row["file"], row["architecture"]) for row in rows if "architecture" in row}
    return cuda_report.read(sorted((SOURCES / file, arch) for file, arch in chosen))


@pytest.mark.slow
@needs_tools
@pytest.mark.rotates(turns=16)  # nvcc, ptxas and a disassembler
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_kernels_are_compiled_as_meant(file, architecture, kernels, rows):
    found = [k for k in kernels if k.source == file and k.architecture == architecture]
    wrong = []
    for kernel in found:
        row = cuda_report.budget_of(kernel.name, rows)
        wrong += [f"{kernel.name}: {text}" for text in cuda_report.faults(kernel, row)]
        if row is None:
            alike = [k for k in kernels if k.name == kernel.name]
            wrong.append(f"{cuda_report.BUDGETS.name} lacks\n  {cuda_report.suggested_row(alike)}")
    message = f"sm_{architecture}, nvcc {cuda_report.toolkit_version()}"
    assert not wrong, "\n".join([message, *wrong])


@needs_tools
def test_every_row_is_somebodys(rows):
    """A row no kernel has, or that an earlier one hides, is a mistake in its name."""
    if not native().build_info()["cuda"]:
        pytest.skip("the library was built without CUDA")
    names = cuda_report.names_in(native().__file__)
    used = {row.pattern for name in names if (row := cuda_report.budget_of(name, rows))}
    assert [row.pattern for row in rows if row.pattern not in used] == []


def test_patterns_are_distinct_and_names_of_kernels(rows):
    patterns = [row.pattern for row in rows]
    assert len(set(patterns)) == len(patterns)
    assert [p for p in patterns if not fnmatch.fnmatchcase(p, "*_kernel*")] == []


def kernel(**changes) -> Kernel:
    opcodes = Counter({"LDG.E.128.CONSTANT": 2, "STG.E": 1, "HMMA.16816.F32": 4, "EXIT": 1})
    return replace(Kernel("x_kernel<float>", "x.cu", "90", 96, 1024, 0, 0, opcodes), **changes)


GOOD = cuda_report.Budget("x_kernel<*>", 96, 1024, ("HMMA", "LDG.128"))


def test_a_kernel_within_its_budget_passes():
    assert cuda_report.faults(kernel(), GOOD) == []
    assert cuda_report.budget_of("x_kernel<float>", [GOOD]) is GOOD
    assert cuda_report.budget_of("y_kernel<float>", [GOOD]) is None


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"registers": 97}, "97 registers, the budget is 96"),
        ({"shared": 1028}, "1028 bytes of static shared memory"),
        ({"stack": 8}, "stack frame of 8 bytes"),
        ({"spills": 4}, "4 bytes of spilled registers"),
        ({"opcodes": Counter({"LDG.E.128": 1})}, "no HMMA instruction"),
        ({"opcodes": Counter({"HMMA.1688": 1, "LDG.E.64": 1})}, "no LDG.128 instruction"),
        ({"opcodes": kernel().opcodes + Counter({"LDL.64": 1})}, "1 x LDL.64: local memory"),
        ({"opcodes": kernel().opcodes + Counter({"STL": 2})}, "2 x STL: local memory"),
        ({"opcodes": kernel().opcodes + Counter({"RED.E.ADD.F32.FTZ.RN": 1})}, "atomic"),
        ({"opcodes": kernel().opcodes + Counter({"ATOMG.E.ADD.F64.RN": 1})}, "atomic"),
    ],
)  # fmt: skip
def test_a_kernel_that_breaks_a_rule_is_named(changes, text):
    found = cuda_report.faults(kernel(**changes), GOOD)
    assert len(found) == 1
    assert text in found[0]


def test_the_loop_of_an_instruction():
    row = replace(GOOD, loop=("FFMA", 0.8))
    good = Counter({"FFMA": 80, "LDS.128": 10, "LDS.U.128": 2, "BRA": 1, "IADD3": 7})
    other = Counter({"FFMA": 1, "BRA": 1})
    assert cuda_report.faults(kernel(loops=(other, good)), row) == []
    few = good + Counter({"IMAD": 1})
    assert cuda_report.faults(kernel(loops=(few,)), row) == [
        "FFMA is 0.79 of its loop, the budget is 0.8"
    ]
    narrow = cuda_report.faults(kernel(loops=(good + Counter({"FFMA": 9, "LDS.64": 2}),)), row)
    assert len(narrow) == 1 and narrow[0].startswith("2 x LDS.64 in the loop of FFMA")
    assert len(cuda_report.faults(kernel(), row)) == 1  # no loop at all


def test_innermost_loops_are_found():
    code = (
        "        /*0000*/                   MOV R1, c[0x0][0x28] ;   /* 0x00 */\n"
        "        /*0010*/                   IADD3 R2, R2, 1, RZ ;    /* 0x00 */\n"
        "        /*0020*/                   FFMA R3, R4, R5, R3 ;    /* 0x00 */\n"
        "        /*0030*/              @!P0 BRA 0x20 ;               /* 0x00 */\n"
        "        /*0040*/               @P1 BRA `(.L_x_1) ;          /* 0x00 */\n"
        "        /*0050*/               @P2 BRA 0x10 ;               /* 0x00 */\n"
        "        /*0060*/                   BRA 0x60;                /* 0x00 */\n"
    )
    assert machine_code.inner_loops(code) == [["FFMA", "BRA"]]


_WAY = """
        /*0000*/                   HMMA.16816.F32 R4, R8, R12, R4 ;   /* 0x00 */
        /*0010*/               @P0 BRA 0x40 ;                         /* 0x00 */
        /*0020*/                   FADD R4, R4, R5 ;                  /* 0x00 */
        /*0030*/                   FSETP.GEU.AND P1, PT, R4, RZ, PT ; /* 0x00 */
        /*0040*/              @!P2 STG.E.128 desc[UR4][R2.64], R4 ;   /* 0x00 */
        /*0050*/                   IADD3 R2, R2, R3, RZ ;             /* 0x00 */
        /*0060*/               @P3 BRA 0x40 ;                         /* 0x00 */
        /*0070*/                   LDGSTS.E.BYPASS.128 [R5], desc[UR8][R6.64] ; /* 0x00 */
        /*0080*/                   LDGSTS.E.BYPASS.128 [R5], desc[UR8][R6.64], P4 ; /* 0x00 */
        /*0090*/                   EXIT ;                             /* 0x00 */
        /*00a0*/                   STG.E.128 desc[UR4][R2.64], R4 ;   /* 0x00 */
"""


@pytest.mark.parametrize(
    "needs, number",
    [
        ({"STG.128": 1}, 2),  # over the branch
        ({"STG.128": 2}, 5),  # a turn of the loop more
        ({"STG.128": 1, "FSETP": 1}, 4),  # not over the branch
        ({"LDGSTS": 1}, 5),
        ({"LDGSTS.IF": 1}, 6),  # the one with a predicate at its end
        ({"FSETP": 2}, None),  # nothing leads back
        ({"LDGSTS": 3}, None),  # behind EXIT
    ],
)
def test_the_fewest_instructions_of_a_way(needs, number):
    assert machine_code.fewest_instructions(_WAY, "HMMA", needs, 100) == number
    if number is not None:
        assert machine_code.fewest_instructions(_WAY, "HMMA", needs, number - 1) is None
    found = cuda_report.faults(kernel(body=_WAY), replace(GOOD, ways=(("HMMA", needs, 5),)))
    assert bool(found) == (number is None or number > 5)


def test_the_part_of_an_instruction_in_its_loop():
    loops = (Counter({"HMMA.16816.F32": 30, "LDSM.16.MT88.4": 10}), Counter({"LDSM.16.MT88.4": 9}))
    row = replace(GOOD, ratio=("LDSM", "HMMA", 0.34))
    assert cuda_report.faults(kernel(loops=loops), row) == []
    found = cuda_report.faults(kernel(loops=loops), replace(row, ratio=("LDSM", "HMMA", 0.33)))
    assert found == ["0.333 LDSM for each HMMA in its loop, the budget is 0.33"]
    assert len(cuda_report.faults(kernel(), row)) == 1  # no loop at all


def test_instructions_for_each_of_a_kind_in_two_loops():
    code = (
        "        /*0000*/                   MOV R1, R2 ;              /* 0x00 */\n"
        "        /*0010*/                   MUFU.EX2 R3, R3 ;         /* 0x00 */\n"
        "        /*0020*/                   MUFU.EX2 R3, R3 ;         /* 0x00 */\n"
        "        /*0030*/                   FADD R3, R3, R3 ;         /* 0x00 */\n"
        "        /*0040*/               @P0 BRA 0x20 ;                /* 0x00 */\n"
        "        /*0050*/               @P1 BRA 0x0 ;                 /* 0x00 */\n"
    )
    # 6 instructions and 2 EX2; another turn of the inner loop is 3 and 1.
    assert machine_code.instructions_each(code, "MUFU.EX2", 1) == 6 / 2
    assert machine_code.instructions_each(code, "MUFU.EX2", 3) == 12 / 4
    assert machine_code.instructions_each(code, "HMMA", 3) == float("inf")
    row = replace(GOOD, each=("MUFU.EX2", 3, 2.5))
    assert cuda_report.faults(kernel(body=code), row) == [
        "3.0 instructions for each MUFU.EX2, the budget is 2.5"
    ]


def test_loads_ahead_of_the_first_store():
    loops = [["LDG.E", "LDG.E.64", "STS", "LDG.E", "STS.64", "BRA"], ["LDG.E", "FFMA"], ["STS"]]
    assert machine_code.loads_ahead(loops) == (2, 0)
    row = replace(GOOD, loads_ahead=(2, 2))
    assert cuda_report.faults(kernel(loads_ahead=(2, 0, 4)), row) == []
    found = cuda_report.faults(kernel(loads_ahead=(2, 0, 1)), row)
    assert found == ["2 loads before the first STS in 1 loops, not in 2"]


def test_the_suggested_row_admits_its_kernel():
    one = kernel(registers=90)
    text = cuda_report.suggested_row([one, replace(one, architecture="80", registers=91)])
    assert text == (
        '{ name = "x_kernel<float>", registers = 96, shared = 1024, needs = ["HMMA", "LDG.128"] },'
    )
    assert cuda_report.faults(one, GOOD) == []


def test_ptxas_and_disassembly_are_understood():
    report = (
        "ptxas info    : 0 bytes gmem\n"
        "ptxas info    : Compiling entry function '_Z1fv' for 'sm_90'\n"
        "ptxas info    : Function properties for _Z1fv\n"
        "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, "
        "2048 bytes smem, 400 bytes cmem[0]\n"
        "ptxas info    : Compiling entry function '_Z1gv' for 'sm_90'\n"
        "ptxas info    : Function properties for _Z1gv\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 6 registers, used 0 barriers, 400 bytes cmem[0]\n"
    )
    assert machine_code.properties_of(report) == {
        "_Z1fv": {"registers": 40, "shared": 2048, "stack": 8, "spills": 16},
        "_Z1gv": {"registers": 6, "shared": 0, "stack": 0, "spills": 0},
    }
    code = (
        "\tcode for sm_90\n\t\tFunction : _Z1fv\n"
        "        /*0000*/                   LDC R1, c[0x0][0x28] ;   /* 0x00 */\n"
        "                                                            /* 0x00 */\n"
        "        /*0010*/              @!P0 LDG.E.128 R4, [R2] ;      /* 0x00 */\n"
        "        /*0020*/             @!UP1 UIADD3 UR4, UR4, 1 ;      /* 0x00 */\n"
    )
    assert machine_code.opcodes_of(code) == {"_Z1fv": Counter(["LDC", "LDG.E.128", "UIADD3"])}


@needs_tools
def test_names_are_readable():
    symbol = (
        "_ZN11denoise_ext4cuda44_GLOBAL__N__04d83d63_11_gaussian_cu_760a848520gaussian_ring_kernel"
        "IdLNS0_12GaussianModeE1EEEvNS0_12GaussianRingE"
    )
    names = cuda_report.readable_names([symbol])
    assert names == {symbol: "gaussian_ring_kernel<double, 1>"}
