"""Pictures of a run: times of the networks, ratios of all cases, a roofline."""

from __future__ import annotations

import math
from pathlib import Path

from harness.cases import OURS
from harness.report import Verdict, timed
from on_cpu.report import verdicts

INK, OURS_COLOUR, RIVAL_COLOUR, LOSS_COLOUR = "#1f2933", "#1b6ca8", "#b8c4ce", "#c8553d"
DPI = 120


def draw(summary: dict, target: Path) -> tuple[dict[str, str], str | None]:
    """(what each picture shows -> its file name, why there is none)."""
    try:
        import matplotlib
    except ImportError as error:
        return {}, str(error)
    matplotlib.use("Agg")
    matplotlib.rcParams |= {
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.edgecolor": "#d5dce2", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False,
    }  # fmt: skip
    drawn = {}
    for what, picture in (
        ("Networks: time of one image", networks),
        ("Every case: times faster than the rival of its target", ratios),
        ("Roofline", roofline),
    ):
        figure = picture(summary)
        if figure is not None:
            file = target.with_name(f"{target.stem}_{picture.__name__}.png")
            figure.savefig(file, dpi=DPI, bbox_inches="tight")
            drawn[what] = file.name
            matplotlib.pyplot.close(figure)
    return drawn, None


def networks(summary: dict):
    """A row of bars for each contender, a panel for each network."""
    from matplotlib import pyplot as plt

    cases = [
        (case["case"] + (", stock allocator" if suite == "stock" else ""), timed(case))
        for suite in ("nets", "stock")
        for case in summary["subjects"].get(suite, {"cases": []})["cases"]
        if OURS in timed(case)
    ]
    if not cases:
        return None
    heights = [len(times) for _, times in cases]
    figure, panels = plt.subplots(
        len(cases), 1, figsize=(7.5, 0.27 * sum(heights) + 0.6 * len(cases)),
        gridspec_kw={"height_ratios": heights}, squeeze=False, layout="constrained",
    )  # fmt: skip
    for panel, (title, times) in zip(panels[:, 0], cases, strict=True):
        bars(panel, title, times)
    panels[-1, 0].set_xlabel("ms for one image (median; lines: 10th to 90th percentile)")
    return figure


def bars(panel, title: str, times: dict[str, dict]) -> None:
    names = sorted(times, key=lambda name: times[name]["median"], reverse=True)
    own = times[OURS]["median"]
    for row, name in enumerate(names):
        one = times[name]
        ms, low, high = (1e3 * one[key] for key in ("median", "low", "high"))
        colour = OURS_COLOUR if name.startswith(OURS) else RIVAL_COLOUR
        spread = [[max(ms - low, 0)], [max(high - ms, 0)]]
        panel.barh(row, ms, color=colour, xerr=spread, error_kw={"ecolor": INK, "lw": 0.8})
        ratio = "" if name == OURS else f"  ({one['median'] / own:.2f}x)"
        panel.text(max(ms, high), row, f"  {ms:.0f} ms{ratio}", va="center", fontsize=8)
    panel.set_yticks(range(len(names)), names)
    panel.set_xlim(0, 1.25 * max(1e3 * one["high"] for one in times.values()))
    panel.set_title(title, loc="left", fontsize=10, fontweight="bold")


def ratios(summary: dict):
    """How many times faster than the target's rival; a tick where the target is."""
    from matplotlib import pyplot as plt

    found = verdicts(summary)
    if not found:
        return None
    figure, panel = plt.subplots(figsize=(8.5, 0.21 * len(found) + 1.0), layout="constrained")
    for row, verdict in enumerate(reversed(found)):
        colour = OURS_COLOUR if verdict.reached >= 1 else LOSS_COLOUR
        panel.barh(row, verdict.reached, color=colour, height=0.75)
        panel.plot([verdict.least] * 2, [row - 0.42, row + 0.42], color=INK, lw=1.5)
        beside = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}
        end = max(verdict.reached, 1.01)
        panel.text(end, row, f" {verdict.reached:.2f}", va="center", fontsize=7, bbox=beside)
    panel.axvline(1, color=INK, lw=0.8, ls=":")
    labels = [label(verdict) for verdict in reversed(found)]
    panel.set_yticks(range(len(found)), labels, fontsize=7)
    panel.set_ylim(-0.6, len(found) - 0.4)
    panel.set_xlabel("times faster than the rival in [ ] (line: target; dotted: equally fast)")
    return figure


def label(verdict: Verdict) -> str:
    return f"{verdict.name} [{verdict.rival}]"


def roofline(summary: dict):
    """Effective GFLOP/s over operations per byte, float32; ours, and the fastest other one."""
    import numpy as np
    from matplotlib import pyplot as plt

    suites = {
        name: [point(case) for case in result["cases"] if in_roofline(case)]
        for name, result in summary["subjects"].items()
        if name in ("nets", "kernels", "edges", "transposed", "filters")
        and any(in_roofline(case) for case in result["cases"])
    }
    tops = [result["ceilings"] for result in summary["subjects"].values() if result["ceilings"]]
    if not tops or not suites:
        return None
    peak, copy = (max(top[key] for top in tops) for key in ("gflop_per_s", "copy_gb_per_s"))
    figure, panel = plt.subplots(figsize=(8, 5.2), layout="constrained")
    panel.set(xscale="log", yscale="log", xlabel="operations of the direct algorithm per byte "
              "(every tensor once)", ylabel="effective GFLOP/s")  # fmt: skip
    x = np.geomspace(0.5, 600, 200)
    panel.plot(x, np.minimum(peak, copy * x), color=INK, lw=1.5)
    panel.plot(x, np.minimum(4 * peak, copy * x), color=INK, lw=0.8, ls="--")
    slope = math.degrees(math.atan(copy))  # of the line in these axes' units
    for height, text in ((peak, f"multiply-add peak, {peak:.0f} GFLOP/s"),
                         (4 * peak, "F(4x4,3x3): 4 times fewer multiplications")):  # fmt: skip
        panel.text(600, height, f"{text} ", va="bottom", ha="right", fontsize=8)
    panel.text(0.9, 1.1 * 0.9 * copy, f"copying, {copy:.0f} GB/s", rotation=slope, fontsize=8,
               rotation_mode="anchor", transform_rotates_text=True)  # fmt: skip
    for marker, (suite, points) in zip("o^sDv", suites.items(), strict=False):
        scatter(panel, marker, suite, points)
    panel.legend(fontsize=7, ncols=2, frameon=False, loc="lower right")
    return figure


def scatter(panel, marker: str, suite: str, points: list[tuple[float, float, float]]) -> None:
    for across, own, other in points:
        panel.plot([across] * 2, [own, other], color="#d5dce2", lw=0.8, zorder=1)
    for which, colour in ((2, RIVAL_COLOUR), (1, OURS_COLOUR)):
        panel.scatter(
            [p[0] for p in points], [p[which] for p in points], s=26, marker=marker, color=colour,
            edgecolor="white", lw=0.5, zorder=2 + (which == 1),
            label=f"{suite}, {'denoise_ext' if which == 1 else 'fastest other'}",
        )  # fmt: skip


def in_roofline(case: dict) -> bool:
    """Measured, and in float32: other types have another peak."""
    return OURS in timed(case) and not any(t in case["case"] for t in ("float16", "uint8"))


def point(case: dict) -> tuple[float, float, float]:
    """(operations per byte, our GFLOP/s, the fastest other's or NaN)."""
    times = {name: one["median"] for name, one in timed(case).items()}
    others = [seconds for name, seconds in times.items() if not name.startswith(OURS)]
    work = case["operations"] / 1e9
    fastest = work / min(others) if others else float("nan")
    return case["operations"] / case["moved_bytes"], work / times[OURS], fastest
