"""Targets, losses, problems and tables of timed cases. Losses stand beside wins.

A case is a record of a worker: "case", "status", "targets", "operations", "moved_bytes",
"contenders" (name -> "median", "low", "high" in seconds and "rounds", or "absent" or "failed").
Ceilings are {"copy_gb_per_s", "gflop_per_s"}; the latter is a number, or one for each "arithmetic"
of a case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.cases import OURS

Suites = dict[str, list[dict]]  # name -> cases


@dataclass(frozen=True)
class Units:
    """How times and rates are printed."""

    time: str
    seconds: Callable[[float], str]  # in that unit
    rate: str
    gflops: Callable[[float], str]
    peak: str  # the name of the arithmetic's ceiling


@dataclass(frozen=True)
class Verdict:
    """A target, and what was reached."""

    suite: str
    case: str
    ours: str
    rival: str  # a contender, or the time or the bandwidth that is aimed at
    least: float
    reached: float

    @property
    def name(self) -> str:
        """The case, and which of our contenders where it is not the ordinary one."""
        way = self.ours.removeprefix(OURS).strip()
        return f"{self.suite}: {self.case}" + (f" ({way})" if way else "")

    @property
    def met(self) -> bool:
        return self.reached >= self.least


def line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def timed(case: dict) -> dict[str, dict]:
    """The contenders that have a time."""
    return {name: one for name, one in case["contenders"].items() if one.get("median")}


def verdicts(suites: Suites, ceilings: dict[str, dict | None]) -> list[Verdict]:
    """`ceilings`: of every suite."""
    found = []
    for suite, cases in suites.items():
        for case in cases:
            times = {name: one["median"] for name, one in timed(case).items()}
            for target in case["targets"]:
                ours, least = target["ours"], target["least"]
                aim = _aim(target, case, times, ceilings.get(suite))
                if aim is not None and ours in times:
                    reached = aim[1] / times[ours]
                    found.append(Verdict(suite, case["case"], ours, aim[0], least, reached))
    return found


def _aim(
    target: dict, case: dict, times: dict[str, float], top: dict | None
) -> tuple[str, float] | None:
    """(what a target compares with, its seconds); None where that was not measured."""
    if target.get("seconds"):  # the first published documents have "rivals" alone
        return f"{1e6 * target['seconds']:g} us", target["seconds"]
    if target.get("copying"):
        copying = top and top["copy_gb_per_s"]
        return ("copying", case["moved_bytes"] / copying / 1e9) if copying else None
    rivals = [name for name in target["rivals"] if name in times]
    best = min(rivals, key=times.__getitem__, default=None)
    return best and (best, times[best])


def losses(suites: Suites) -> list[tuple[str, str, str, float]]:
    """(suite, case, rival, its time over ours) of every rival that was faster."""
    found = []
    for suite, cases in suites.items():
        for case in cases:
            times = {name: one["median"] for name, one in timed(case).items()}
            found += [
                (suite, case["case"], name, seconds / times[OURS])
                for name, seconds in times.items()
                if OURS in times and not name.startswith(OURS) and seconds < times[OURS]
            ]
    return sorted(found, key=lambda loss: loss[3])


def problems(cases: list[dict]) -> list[str]:
    """What went wrong; that something is not installed is none."""
    found = []
    for case in cases:
        if case["status"] == "failed":
            found.append(f"{case['case']}: {case['note']}")
        for name, one in case["contenders"].items():
            if "failed" in one:
                found.append(f"{case['case']}: {name}: {one['failed']}")
    return found


def target_table(found: list[Verdict]) -> list[str]:
    if not found:
        return []
    met = sum(verdict.met for verdict in found)
    lines = [f"## Targets: {met} of {len(found)} met", ""]
    lines += ["| | against | at least | reached | |", "|---|---|---:|---:|---|"]
    for v in found:
        word = "met" if v.met else "**missed**"
        digits = 1 if v.least >= 1 else 2
        lines.append(line((v.name, v.rival, f"{v.least:.{digits}f}x", f"{v.reached:.2f}x", word)))
    return [*lines, ""]


def loss_table(suites: Suites) -> list[str]:
    found = losses(suites)
    lines = ["## Where this package is slower", ""]
    if not found:
        any_time = any(timed(case) for cases in suites.values() for case in cases)
        return [*lines, "Nowhere in these cases.", ""] if any_time else []
    lines += ["| | faster | its time is ours times |", "|---|---|---:|"]
    lines += [line((f"{suite}: {case}", name, f"{x:.2f}")) for suite, case, name, x in found]
    return [*lines, ""]


def case_table(cases: list[dict], top: dict | None, units: Units) -> list[str]:
    """`top`: the ceilings. "times ours" above 1: this package is faster."""
    head = ("", units.time, "p10 - p90", "times ours", units.rate, f"of {units.peak}", "GB/s",
            "of copying", "")  # fmt: skip
    lines = [line(head), "|---|---:|---|---:|---:|---:|---:|---:|---|"]
    for case in cases:
        lines += _case_rows(case, top, units)
    return [*lines, ""]


def _case_rows(case: dict, top: dict | None, units: Units) -> list[str]:
    loud = " ~" if case.get("quiet") is False else ""
    kernel = f" `{case['kernel']}`" if case.get("kernel") else ""
    note = case.get("note", "")
    if loud:
        load = case["other_load"]
        note = "other load unknown" if load is None else f"others: {load:.2f} cores"
    if case["status"] in ("skipped", "failed"):
        note = f"**{case['status']}** {note}".strip()
    rows = [f"| **{case['case']}**{loud}{kernel} | | | | | | | | {note} |"]
    own = case["contenders"].get(OURS, {}).get("median")
    for name, one in case["contenders"].items():
        seconds = one.get("median")
        if seconds is None:
            remark = one.get("failed") or one.get("absent") or ""
            rows.append(f"| {name} | - | | | | | | | {remark} |")
            continue
        gflops = one.get("operations", case["operations"]) / seconds / 1e9
        rate = one.get("moved_bytes", case["moved_bytes"]) / seconds / 1e9
        cells = (
            name,
            units.seconds(seconds),
            f"{units.seconds(one['low'])} - {units.seconds(one['high'])}",
            f"{seconds / own:.2f}" if own else "-",
            units.gflops(gflops),
            f"{100 * gflops / _peak(case, top):.0f} %" if top else "-",
            f"{rate:.1f}",
            f"{100 * rate / top['copy_gb_per_s']:.0f} %" if top else "-",
            ", ".join(filter(None, (f"{one['rounds']} rounds", one.get("note")))),
        )
        rows.append(line(cells))
    return rows


def _peak(case: dict, top: dict) -> float:
    """GFLOP/s at best, of the case's arithmetic."""
    peak = top["gflop_per_s"]
    return peak[case["arithmetic"]] if isinstance(peak, dict) else peak
