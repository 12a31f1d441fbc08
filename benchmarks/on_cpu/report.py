"""From what the processes found to the Markdown that is kept. Losses stand beside wins."""

from __future__ import annotations

from dataclasses import dataclass

from on_cpu.cases import OURS

METHOD = (
    "Contenders take turns within one process, in an order that rotates; times are medians with "
    'the 10th and 90th percentile over the rounds. "Times ours" is a contender\'s median over '
    "that of `denoise_ext`: above 1, this package is faster. GFLOP/s are *effective*: "
    "multiplications and additions of the direct algorithm over the time, so that Winograd's, "
    "which needs fewer, can be above 100 % of the multiply-add peak. GB/s count every input and "
    "output once (of a network: of every layer). Results are compared before anything is timed."
)
DRY = "**A dry run with tiny shapes: it shows that the benchmark works, and no time.**"


@dataclass(frozen=True)
class Verdict:
    """A target, and what was reached."""

    subject: str
    case: str
    ours: str
    rival: str
    least: float
    reached: float

    @property
    def name(self) -> str:
        """The case, and which of our contenders where it is not the ordinary one."""
        way = self.ours.removeprefix(OURS).strip()
        return f"{self.subject}: {self.case}" + (f" ({way})" if way else "")

    @property
    def met(self) -> bool:
        return self.reached >= self.least


def timed(case: dict) -> dict[str, dict]:
    """The contenders that have a time."""
    return {name: one for name, one in case["contenders"].items() if "median" in one}


def verdicts(summary: dict) -> list[Verdict]:
    found = []
    for subject, result in summary["subjects"].items():
        for case in result["cases"]:
            times = {name: one["median"] for name, one in timed(case).items()}
            for target in case["targets"]:
                rivals = [name for name in target["rivals"] if name in times]
                ours = target["ours"]
                if rivals and ours in times:
                    best = min(rivals, key=times.__getitem__)
                    ratio = times[best] / times[ours]
                    found.append(Verdict(subject, case["case"], ours, best, target["least"], ratio))
    return found


def losses(summary: dict) -> list[tuple[str, str, str, float]]:
    """(subject, case, rival, its time over ours) of every rival that was faster."""
    found = []
    for subject, result in summary["subjects"].items():
        for case in result["cases"]:
            times = {name: one["median"] for name, one in timed(case).items()}
            found += [
                (subject, case["case"], name, seconds / times[OURS])
                for name, seconds in times.items()
                if OURS in times and not name.startswith(OURS) and seconds < times[OURS]
            ]
    return sorted(found, key=lambda loss: loss[3])


def problems(result: dict) -> list[str]:
    """What went wrong; that something is not installed is none."""
    found = [result["problem"]] if result["problem"] else []
    for case in result["cases"]:
        if case["status"] == "failed":
            found.append(f"{case['case']}: {case['note']}")
        for name, one in case["contenders"].items():
            if "failed" in one:
                found.append(f"{case['case']}: {name}: {one['failed']}")
    return found


def is_complete(result: dict | None, commit: str) -> bool:
    """Whether there is nothing to measure again."""
    if result is None or result["problem"] or result["only_cases"]:
        return False
    return result["commit"] == commit


def outcome(subject: str, result: dict) -> str:
    """One line about a subject, and one for each thing to know."""
    lines = [f"{subject}: {len(result['cases'])} cases in {result['seconds']:.0f} s"]
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
    lines += target_table(summary) + loss_list(summary)
    for subject, result in summary["subjects"].items():
        lines += subject_tables(subject, result)
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


def target_table(summary: dict) -> list[str]:
    found = verdicts(summary)
    if not found:
        return []
    met = sum(verdict.met for verdict in found)
    lines = [f"## Targets: {met} of {len(found)} met", ""]
    lines += ["| | against | at least | reached | |", "|---|---|---:|---:|---|"]
    for v in found:
        word = "met" if v.met else "**missed**"
        cells = v.name, v.rival, f"{v.least:.1f}x", f"{v.reached:.2f}x", word
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


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
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def loss_list(summary: dict) -> list[str]:
    found = losses(summary)
    lines = ["## Where this package is slower", ""]
    if not found:
        any_time = any(timed(c) for r in summary["subjects"].values() for c in r["cases"])
        return [*lines, "Nowhere in these cases.", ""] if any_time else []
    lines += ["| | faster | its time is ours times |", "|---|---|---:|"]
    lines += [f"| {subject}: {case} | {name} | {x:.2f} |" for subject, case, name, x in found]
    return [*lines, ""]


def subject_tables(subject: str, result: dict) -> list[str]:
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
    if subject == "quality":
        return lines + quality_table(result)
    lines += [
        "| | ms | p10 - p90 | times ours | GFLOP/s | of FMA peak | GB/s | of copying | |",
        "|---|---:|---|---:|---:|---:|---:|---:|---|",
    ]
    for case in result["cases"]:
        lines += case_rows(case, top)
    return [*lines, ""]


def in_ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def case_rows(case: dict, top: dict | None) -> list[str]:
    loud = " ~" if case.get("quiet") is False else ""
    note = case.get("note", "")
    if loud:
        load = case["other_load"]
        note = "other load unknown" if load is None else f"others: {load:.2f} cores"
    rows = [f"| **{case['case']}**{loud} | | | | | | | | {note} |"]
    own = case["contenders"].get(OURS, {}).get("median")
    for name, one in case["contenders"].items():
        seconds = one.get("median")
        remark = one.get("failed") or one.get("absent") or ""
        if seconds is None:
            rows.append(f"| {name} | - | | | | | | | {remark} |")
            continue
        flops = one.get("operations", case["operations"]) / seconds / 1e9
        rate = one.get("moved_bytes", case["moved_bytes"]) / seconds / 1e9
        cells = (
            name,
            in_ms(seconds),
            f"{in_ms(one['low'])} - {in_ms(one['high'])}",
            f"{seconds / own:.2f}" if own else "-",
            f"{flops:.0f}",
            f"{100 * flops / top['gflop_per_s']:.0f} %" if top else "-",
            f"{rate:.1f}",
            f"{100 * rate / top['copy_gb_per_s']:.0f} %" if top else "-",
            f"{one['rounds']} rounds",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows
