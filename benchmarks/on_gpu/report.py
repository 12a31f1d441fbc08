"""From the worker's records to the JSON and Markdown that are kept."""

from __future__ import annotations

from dataclasses import asdict

from harness import report
from harness.report import Suites, Units, line
from on_gpu.sections import Section

UNITS = Units("us", lambda s: f"{1e6 * s:.1f}", "TFLOP/s", lambda x: f"{x / 1e3:.1f}", "arithmetic")


def summarise(
    facts: dict[str, object], sections: list[Section], records: list[dict]
) -> dict[str, object]:
    """Everything of one run."""
    gpu = next((record["facts"] for record in records if "facts" in record), {})
    ceilings = next((record["ceilings"] for record in records if "ceilings" in record), None)
    cases = [record for record in records if "case" in record]
    variants = {name for case in cases for name in case.get("variants", [])}
    timed = [case for case in cases if case["status"] == "timed"]
    chosen = {name for case in timed for name in case["kernel"].split(", ")}
    return {
        "provenance": facts | gpu,
        "sections": [asdict(section) for section in sections],
        "ceilings": ceilings,
        "cases": cases,
        "kernels_without_a_case": sorted(variants - chosen),
    }


def groups_of(summary: dict) -> Suites:
    """Group -> cases."""
    groups: Suites = {}
    for case in summary["cases"]:
        groups.setdefault(case["group"] or "stopped", []).append(case)
    return groups


def markdown(summary: dict) -> str:
    facts = summary["provenance"]
    lines = ["# Kernels on a GPU", ""]
    if facts.get("dry_run"):
        lines += ["**A dry run on the emulated kernels: it shows that the script works, and no "
                  "time.**", ""]  # fmt: skip
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    lines += ["", *section_table(summary["sections"])]
    top, groups = summary["ceilings"], groups_of(summary)
    if top and top["copy_gb_per_s"]:
        peaks = ", ".join(f"{name} {x / 1e3:.0f}" for name, x in top["gflop_per_s"].items())
        lines += [
            "",
            f"Ceilings measured in the same run: copying {top['copy_gb_per_s']:.0f} GB/s (read plus"
            f" written), matrix products in TFLOP/s: {peaks} (float32 without tensor cores).",
        ]
    tops = dict.fromkeys(groups, top)
    lines += ["", *report.target_table(report.verdicts(groups, tops)), *report.loss_table(groups)]
    for group, cases in groups.items():
        lines += [f"## {group}", "", *report.case_table(cases, top, UNITS)]
    if summary["kernels_without_a_case"]:
        lines += [f"Kernels no case ran: {', '.join(summary['kernels_without_a_case'])}."]
    return "\n".join(lines).rstrip() + "\n"


def section_table(sections: list[dict]) -> list[str]:
    lines = ["| step | outcome | | seconds |", "|---|---|---|---:|"]
    for section in sections:
        row = (section["name"], section["status"], section["note"], f"{section['seconds']:.0f}")
        lines.append(line(row))
    for section in sections:
        if section["details"]:
            lines += ["", f"{section['name']}:", "", "```text", *section["details"], "```"]
    return lines
