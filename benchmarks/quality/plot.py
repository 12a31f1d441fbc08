"""Quality against time: a panel for gray images, one for colour."""

from __future__ import annotations

import io
from typing import Any

from quality.methods import CHECKPOINT, FILTER, NETWORK
from quality.table import (
    KINDS,
    main_set,
    middle_sigma,
    pareto_front,
    points_of,
    published,
    rows_of,
)

_COLOURS = {NETWORK: "#1b6ca8", CHECKPOINT: "#7b8794", FILTER: "#c8853d"}
_LEGEND = {
    NETWORK: "network of this package", CHECKPOINT: "published checkpoint, run by this package",
    FILTER: "filter",
}  # fmt: skip
_INK, _FAINT = "#1f2933", "#9aa5b1"
# Published figures that are drawn as lines, for orientation: classical, convolutional, attention.
_LINES = ("BM3D", "CBM3D", "DRUNet", "Restormer")


def draw(document: dict[str, Any]) -> bytes:
    """A PNG file.

    Raises ImportError where matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no window, no state shared with the caller's plots

    kinds = [channels for channels in KINDS if points_of(document, channels)]
    figure = Figure(figsize=(6.2 * max(len(kinds), 1), 5.0), layout="constrained")
    FigureCanvasAgg(figure)  # knows how large text is
    for place, channels in enumerate(kinds, 1):
        _panel(figure.add_subplot(1, len(kinds), place), document, channels)
    lines = {text: line for axes in figure.axes for line, text in _legend_of(axes)}
    if lines:
        figure.legend(
            lines.values(), lines.keys(), loc="outside lower center", ncols=len(kinds) + 1,
            fontsize=8, frameon=False,
        )  # fmt: skip
    for axes, channels in zip(figure.axes, kinds, strict=True):
        _name_points(axes, points_of(document, channels))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _legend_of(axes: Any) -> list[tuple[Any, str]]:
    return list(zip(*axes.get_legend_handles_labels(), strict=True))


def _panel(axes: Any, document: dict[str, Any], channels: int) -> None:
    points = points_of(document, channels)
    kind_of = {row["name"]: row["kind"] for row in rows_of(document, channels)}
    axes.set_xscale("log")
    for kind, colour in _COLOURS.items():
        shown = [points[name] for name in points if kind_of[name] == kind]
        if shown:
            axes.scatter(*zip(*shown, strict=True), color=colour, label=_LEGEND[kind], zorder=3)
    best = [points[name] for name in pareto_front(points)]
    axes.step(
        *zip(*best, strict=True), where="post", color=_INK, linewidth=1, alpha=0.6, zorder=2,
        label="Pareto front of what was measured",
    )  # fmt: skip
    _published_lines(axes, document, channels)
    axes.margins(x=0.16, y=0.1)
    judged, sigma = main_set(document, channels), middle_sigma(document)
    axes.set_title(f"{KINDS[channels]}: {judged}, sigma {sigma:g}", loc="left", fontsize=11)
    threads = document["machine"]["threads"]
    where = f"{document['machine']['processor']}, {threads} thread{'s' * (threads != 1)}"
    axes.set_xlabel(f"seconds per megapixel ({where})")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_ylabel("PSNR, dB")
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)


def _published_lines(axes: Any, document: dict[str, Any], channels: int) -> None:
    """Dotted, since there is no time: they were not measured here."""
    facts, sigma = published(), middle_sigma(document)
    entries = facts["sets"][main_set(document, channels)]
    label = "published, not measured here (no time)"
    for name in _LINES:
        if name in entries and sigma in facts["sigmas"]:
            decibels = entries[name]["psnr"][facts["sigmas"].index(sigma)]
            axes.axhline(decibels, color=_FAINT, linestyle=":", linewidth=1, label=label, zorder=1)
            above = "bottom" if name != "DRUNet" else "top"  # Restormer is right above
            axes.annotate(
                f"{name} {decibels:.2f}", (0.005, decibels), xycoords=("axes fraction", "data"),
                va=above, fontsize=7.5, color=_FAINT,
            )  # fmt: skip
            label = "_nolegend_"


def _name_points(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """A name beside each point, where it covers neither a name nor a point."""
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text

    figure = axes.figure
    figure.draw_without_rendering()  # lays the panel out: positions are known
    renderer = figure.canvas.get_renderer()
    inside, taken = axes.bbox.extents, []
    for point in points.values():
        x, y = axes.transData.transform(point)
        taken.append((x - 4, y - 4, x + 4, y + 4))
    for name, point in sorted(points.items(), key=lambda item: item[1]):
        for (dx, dy), ha in _PLACES:
            far = abs(dy) > _NEAR
            label = axes.annotate(
                name, point, (dx, dy), textcoords="offset points", ha=ha, va="center",
                fontsize=8, color=_INK, zorder=4,
                arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": _FAINT} if far else None,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer).extents  # without the line
            free = not any(_overlap(box, other) for other in taken)
            within = inside[0] < box[0] and box[2] < inside[2] and inside[1] < box[1]
            if free and within and box[3] < inside[3]:
                break
            if ((dx, dy), ha) != _PLACES[-1]:
                label.remove()
        taken.append(tuple(box))


_PLACES = [
    ((dx, dy), "left" if dx > 0 else "right" if dx < 0 else "center")
    for dx, dy in (
        # the Pareto front leaves a point to the right and comes from below
        (-7, 0), (0, 10), (-7, 9), (7, 0), (7, -9), (7, 9), (0, -10), (-7, -9), (0, 20), (0, -20),
        (-9, 17), (9, -17), (9, 17), (-9, -17),
        *((dx, sign * dy) for dy in range(30, 100, 10) for sign in (1, -1) for dx in (0, 25, -25)),
    )
]  # fmt: skip
_NEAR = 10  # points, beyond which a line leads from the name to its point


def _overlap(a: Any, b: Any) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
