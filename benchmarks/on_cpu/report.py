"""From what the processes found to the Markdown that is kept.

Documents call a suite a "subject", as those published before the suites had that name.
"""

from __future__ import annotations

from harness import report
from harness.report import Suites, Units, Verdict, line

METHOD = (
    "Contenders are interleaved in one process, in an order that rotates; times are medians with "
    'the 10th and 90th percentile over the rounds. "Times ours" is a contender\'s median over '
    "that of `denoise_ext`: above 1, this package is faster. GFLOP/s are *effective*: "
    "multiplications and additions of the direct algorithm over the time, so that Winograd's, "
    "which needs fewer, can be above 100 % of the multiply-add peak. GB/s count every input and "
    "output once (of a network: of every layer). Results are compared before anything is timed."
)
DRY = "**A dry run with tiny shapes: it shows that the benchmark works, and no time.**"


def in_ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


UNITS = Units("ms", in_ms, "GFLOP/s", "{:.0f}".format, "FMA peak")


def suites_of(summary: dict) -> Suites:
    return {name: result["cases"] for name, result in summary["subjects"].items()}


def verdicts(summary: dict) -> list[Verdict]:
    tops = {name: result.get("ceilings") for name, result in summary["subjects"].items()}
    return report.verdicts(suites_of(summary), tops)


def problems(result: dict) -> list[str]:
    """What went wrong; that something is not installed is none."""
    return [*filter(None, [result["problem"]]), *report.problems(result["cases"])]


def is_complete(result: dict | None, commit: str) -> bool:
    """Whether there is nothing to measure again."""
    if result is None or result["problem"] or result["only_cases"]:
        return False
    return result["commit"] == commit


def outcome(suite: str, result: dict) -> str:
    """One line about a suite, and one for each thing to know."""
    lines = [f"{suite}: {len(result['cases'])} cases in {result['seconds']:.0f} s"]
    lines += [f"  PROBLEM {problem}" for problem in problems(result)]
    absent = {
        f"{name}: {one['absent']}"
        for case in result["cases"]
        for name, one in case["contenders"].items()
        if "absent" in one
    }
    lines += [f"  left out: {reason}" for reason in sorted(absent)]
    if loud := not_quiet(result):
        lines.append(f"  the machine was not quiet during {len(loud)} cases")
    return "\n".join(lines)


def not_quiet(result: dict) -> list[str]:
    return [case["case"] for case in result["cases"] if case.get("quiet") is False]


def markdown(summary: dict, pictures: dict[str, str]) -> str:
    """``pictures``: what is shown -> file name."""
    lines = ["# Benchmarks on the CPU", ""]
    if summary.get("dry_run"):
        lines += [DRY, ""]
    lines += [*provenance(summary), "", METHOD, ""]
    for what, file in pictures.items():
        lines += [f"![{what}]({file})", ""]
    lines += report.target_table(verdicts(summary)) + report.loss_table(suites_of(summary))
    for suite, result in summary["subjects"].items():
        lines += suite_tables(suite, result)
    return "\n".join(lines).rstrip() + "\n"


def provenance(summary: dict) -> list[str]:
    results = summary["subjects"].values()
    facts = next((result["facts"] for result in results if "facts" in result), None)
    if facts is None:
        return ["Nothing was measured."]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    commits = ", ".join(dict.fromkeys(result["commit"] for result in results))
    started = sorted(result["started"] for result in results)
    lines = [
        f"- processor: {facts['processor']}, {facts['threads']} threads",
        f"- instruction set of `denoise_ext`: {facts['instruction_set']}",
        f"- versions: {versions}",
        f"- commit: {commits}; {started[0]} to {started[-1]}",
    ]
    loud = {name for result in results for name in not_quiet(result)}
    if loud:
        lines.append(f"- **The machine was not quiet** during {len(loud)} cases (marked ~): other "
                     "processes took time from everyone there.")  # fmt: skip
    return lines


def quality_table(result: dict) -> list[str]:
    """PSNR beside its largest change on an image."""
    lines = []
    for case in result["cases"]:
        lines += [f"{case['case']} {case.get('note', '')}".strip(), ""]
        lines += ["| | PSNR, dB | largest change on an image, dB | |", "|---|---:|---:|---|"]
        for name, one in case["contenders"].items():
            word = ""
            if "allowed" in one:
                kept = one["largest_change"] <= one["allowed"]
                word = f"at most {one['allowed']:g}: {'met' if kept else '**missed**'}"
            cells = f"{one['psnr']:.3f}", f"{one['largest_change']:.5f}", word
            lines.append(line((name, *cells)))
    return [*lines, ""]


def suite_tables(suite: str, result: dict) -> list[str]:
    lines = [f"## {result['title']}", ""]
    if result["problem"]:
        lines += [f"**{result['problem']}**", ""]
    top = result.get("ceilings")
    if top:
        lines += [
            f"{result['facts']['instruction_set']}, {result['allocator']} allocator"
            + "".join(f", `{k}={v}`" for k, v in result["settings"].items())
            + f". Ceilings, measured first: {top['gflop_per_s']:.0f} GFLOP/s"
            f" ({top['gflop_measured_by']}), copying {top['copy_gb_per_s']:.0f} GB/s.",
            "",
        ]
    if suite == "quality":
        return lines + quality_table(result)
    return lines + report.case_table(result["cases"], top, UNITS)
