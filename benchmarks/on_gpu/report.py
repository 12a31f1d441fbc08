"""From the worker's records to the JSON and Markdown that are kept."""

from __future__ import annotations

from dataclasses import asdict

from on_gpu.sections import Section

OWN = "denoise_ext"


def summarise(
    facts: dict[str, object], sections: list[Section], records: list[dict]
) -> dict[str, object]:
    """Everything of one run."""
    gpu = next((record["facts"] for record in records if "facts" in record), {})
    ceilings = next((record["ceilings"] for record in records if "ceilings" in record), None)
    cases = [rated(record, ceilings) for record in records if "case" in record]
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


def rated(case: dict, ceilings: dict | None) -> dict:
    """The case with rates, parts of the ceilings, and whether its targets are met."""
    results = {name: dict(result) for name, result in case.get("results", {}).items()}
    for result in results.values():
        micros = result.get("median")
        if not micros:
            continue
        result["gb_per_s"] = case["bytes"] / micros / 1e3
        result["tflop_per_s"] = case["operations"] / micros / 1e6
        if ceilings and ceilings["copy_gb_per_s"]:
            top = ceilings[f"{case['arithmetic']}_tflop_per_s"]
            result["of_copy"] = result["gb_per_s"] / ceilings["copy_gb_per_s"]
            result["of_arithmetic"] = result["tflop_per_s"] / top
    return case | {"results": results, "met": met(case.get("targets"), results)}


def met(targets: dict | None, results: dict[str, dict]) -> dict[str, bool]:
    """target in words -> reached; only those that could be judged."""
    own = results.get(OWN, {})
    if not targets or not own.get("median"):
        return {}
    judged = {}
    if targets["microseconds"]:
        judged[f"<= {targets['microseconds']:g} us"] = own["median"] <= targets["microseconds"]
    if targets["ratio"]:
        name, least = targets["ratio"]
        theirs = results.get(name, {}).get("median")
        if theirs:
            judged[f">= {least:g} x {name}"] = theirs / own["median"] >= least
    if targets["copy_fraction"] and "of_copy" in own:
        least = targets["copy_fraction"]
        judged[f">= {100 * least:g} % of copy"] = own["of_copy"] >= least
    return judged


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def markdown(summary: dict) -> str:
    facts = summary["provenance"]
    lines = ["# Kernels on a GPU", ""]
    if facts.get("dry_run"):
        lines += ["**A dry run on the emulated kernels: it shows that the script works, and no "
                  "time.**", ""]  # fmt: skip
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    lines += ["", *section_table(summary["sections"])]
    if summary["ceilings"]:
        c = summary["ceilings"]
        lines += [
            "",
            f"Ceilings measured in the same run: copy {number(c['copy_gb_per_s'])} GB/s (read plus "
            f"written), bf16 matrix product {number(c['bf16_tflop_per_s'])} TFLOP/s, tf32 "
            f"{number(c['tf32_tflop_per_s'])} TFLOP/s, float32 "
            f"without tensor cores {number(c['float32_tflop_per_s'], 1)} TFLOP/s.",
        ]
    for group in dict.fromkeys(case["group"] for case in summary["cases"]):
        lines += ["", f"## {group or 'stopped'}", ""]
        lines += case_table([case for case in summary["cases"] if case["group"] == group])
    if summary["kernels_without_a_case"]:
        lines += ["", f"Kernels no case ran: {', '.join(summary['kernels_without_a_case'])}."]
    return "\n".join(lines) + "\n"


def section_table(sections: list[dict]) -> list[str]:
    lines = ["| step | outcome | | seconds |", "|---|---|---|---:|"]
    for section in sections:
        row = (section["name"], section["status"], section["note"], f"{section['seconds']:.0f}")
        lines.append(f"| {' | '.join(row)} |")
    for section in sections:
        if section["details"]:
            lines += ["", f"{section['name']}:", "", "```text", *section["details"], "```"]
    return lines


def case_table(cases: list[dict]) -> list[str]:
    """Median with quartiles; "times ours" above 1: this package is faster."""
    lines = [
        "| | us | quartiles | times ours | GB/s | of copy | TFLOP/s | of arithmetic | |",
        "|---|---:|---|---:|---:|---:|---:|---:|---|",
    ]
    for case in cases:
        targets = ", ".join(f"{'met' if ok else 'MISSED'}: {t}" for t, ok in case["met"].items())
        kernel = f" `{case['kernel']}`" if case.get("kernel") else ""
        state = "" if case["status"] == "timed" else f"**{case['status']}** {case.get('note', '')}"
        lines.append(f"| **{case['case']}**{kernel} | | | | | | | | {state}{targets} |")
        own = case["results"].get(OWN, {}).get("median")
        for name, result in case["results"].items():
            micros = result.get("median")
            spread = ""
            if micros:
                spread = f"{result['quartile_low']:.1f} - {result['quartile_high']:.1f}"
            ratio = number(micros / own, 2) if micros and own else "-"
            cells = (
                name, number(micros, 1), spread, ratio, number(result.get("gb_per_s")),
                percent(result.get("of_copy")), number(result.get("tflop_per_s"), 1),
                percent(result.get("of_arithmetic")), result["note"],
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines
