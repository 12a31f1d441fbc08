"""The quality table as Markdown, from the figures that are kept as JSON."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from quality.methods import NOTHING
from quality.test_sets import TRAINING_IMAGES, TRAINING_LIST, TRAINING_SIDE

Row = dict[str, Any]  # a method of the document
# What must be known to read the figures of a set.
NOTES = {
    "Set12": "Set12's 04.png (the starfish) is a part of BSDS500's 12003.jpg, which is among the"
    " training images of this package's networks and in Train400, DnCNN's: what was trained on"
    " them has seen one image of twelve.",
    "Set14": "Set14's one gray image has three equal channels here.",
    "photographs": "photographs: the 40 of `recipes/photos_half_held_out.txt`.",
}
KINDS = {1: "Gray images", 3: "Colour images"}
# The set a method is judged by where one figure must do: the first of these that was measured.
MAIN_SETS = {1: ("BSD68", "Set12"), 3: ("CBSD68", "Kodak24")}


@cache
def published() -> dict[str, Any]:
    """published.toml: sigmas, sources, sets."""
    return tomllib.loads(Path(__file__).with_name("published.toml").read_text("utf-8"))


def middle_sigma(document: dict[str, Any]) -> float:
    """The noise level a method is judged by where one figure must do."""
    sigmas = sorted(document["sigmas"])
    return sigmas[len(sigmas) // 2]


def main_set(document: dict[str, Any], channels: int) -> str | None:
    """The set a method is judged by; None where there is none of this kind."""
    return next((name for name in MAIN_SETS[channels] if name in document["sets"]), None)


def figure(row: Row, set_name: str, sigma: float, what: str) -> float | None:
    """A method's "psnr" or "ssim"; None where it was not measured."""
    for found in row["figures"].get(set_name, []):
        if found["sigma"] == sigma:
            return found[what]
    return None


def rows_of(document: dict[str, Any], channels: int) -> list[Row]:
    """The methods for images of so many channels, the worst first."""
    rows = [row for row in document["methods"] if row["channels"] == channels]
    judged = main_set(document, channels)
    if judged is None:
        return rows
    sigma = middle_sigma(document)
    return sorted(rows, key=lambda row: figure(row, judged, sigma, "psnr") or 0.0)


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names of the Pareto front of name -> (seconds, dB), the fastest first."""
    best: list[str] = []
    for name, (_, decibels) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if not best or decibels > points[best[-1]][1]:
            best.append(name)
    return best


def points_of(document: dict[str, Any], channels: int) -> dict[str, tuple[float, float]]:
    """Name -> (seconds per megapixel, PSNR in dB) of what has both."""
    judged, sigma = main_set(document, channels), middle_sigma(document)
    found = {}
    for row in rows_of(document, channels):
        decibels = judged and figure(row, judged, sigma, "psnr")
        if decibels is not None and row["seconds_per_megapixel"] is not None:
            found[row["name"]] = (row["seconds_per_megapixel"]["median"], decibels)
    return found


def markdown(document: dict[str, Any], picture: str | None) -> str:
    """The whole report; `picture`: the file name of the picture beside it, if there is one."""
    lines = ["# Quality", "", *_provenance(document), ""]
    if picture is not None:
        lines += [f"![quality against time]({picture})", ""]
    for channels, heading in KINDS.items():
        sets = [name for name, facts in document["sets"].items() if facts["channels"] == channels]
        if sets:
            lines += [f"## {heading}", "", *_measured(document, channels, sets), ""]
    lines += [*_filters(document), *_skipped(document), *_published(document)]
    return "\n".join(lines).rstrip() + "\n"


def _provenance(document: dict[str, Any]) -> list[str]:
    machine, timing = document["machine"], document["timing"]
    load = [x for x in timing["other_load"].values() if x is None or x > timing["quiet_below"]]
    lines = [
        "Measured here, by `python benchmarks/quality.py`: mean PSNR in dB over the images of a set"
        " (and mean SSIM).",
        "",
        *(f"- {fact}" for fact in document["protocol"]["in_words"]),
        f"- seconds per megapixel: {timing['how']}; median",
        f"- {machine['processor']}, {machine['instruction_set']}, {machine['threads']} threads;"
        f" denoise_ext {document['denoise_ext']}, torch {document['torch']}; {document['written']}",
    ]
    if load:
        lines.append("- **The machine was not quiet while times were taken**: they are too long.")
    return lines


def _measured(document: dict[str, Any], channels: int, names: Sequence[str]) -> list[str]:
    """PSNR, time and size; PSNR on the sets that no published table has; SSIM."""
    sets = [name for name in names if name in published()["sets"]]
    others = [name for name in names if name not in sets]
    rows, sigmas = rows_of(document, channels), document["sigmas"]
    levels = " / ".join(f"{sigma:g}" for sigma in sigmas)
    best = pareto_front(points_of(document, channels))
    head = ["", "", "parameters", "file", "s/MP", *(f"{name} {levels}" for name in sets)]
    lines = [_line(head), _line(["---", "---", *["---:"] * (len(head) - 2)])]
    for row in rows:
        name = f"**{row['name']}**" if row["name"] in best else row["name"]
        kind = "" if row["kind"] == NOTHING else row["kind"]
        cells = [name, kind, _count(row["parameters"]), _megabytes(row["bytes"]), _seconds(row)]
        lines.append(_line(cells + [_series(row, name, sigmas, "psnr", 2) for name in sets]))
    judged = main_set(document, channels)
    lines += [
        "",
        f"Bold: the Pareto front of time and PSNR on {judged} at sigma"
        f" {middle_sigma(document):g}. –: a blind network trained for another noise level.",
        *(NOTES[name] for name in names if name in NOTES),
        "",
    ]
    if others:
        lines += [*_figures(rows, others, sigmas, "psnr"), ""]
    return lines + _figures(rows, names, sigmas, "ssim")


def _figures(
    rows: Sequence[Row], sets: Sequence[str], sigmas: Sequence[float], what: str
) -> list[str]:
    """A table of one measure: a line for each method, a column for each set."""
    levels, digits = " / ".join(f"{sigma:g}" for sigma in sigmas), {"psnr": 2, "ssim": 4}[what]
    lines = [
        _line([what.upper(), *(f"{name} {levels}" for name in sets)]),
        _line(["---", *["---:"] * len(sets)]),
    ]
    for row in rows:
        series = [_series(row, name, sigmas, what, digits) for name in sets]
        lines.append(_line([row["name"], *series]))
    return lines


def _filters(document: dict[str, Any]) -> list[str]:
    if not document["filters"]:
        return []
    lines = [
        "## Parameters of the filters",
        "",
        f"The best on the middle {TRAINING_SIDE} x {TRAINING_SIDE} pixels of {TRAINING_IMAGES}"
        f" training images, spread evenly over `{TRAINING_LIST}` (none of a test set), by the same"
        " protocol, from a grid. pixels: standard deviation in space; times sigma: that of the"
        " colours (bilateral) or the strength h (non-local means), in units of the noise's sigma.",
        "",
    ]
    for chosen in document["filters"]:
        kind = KINDS[chosen["channels"]].lower()
        values = "; ".join(
            f"sigma {sigma}: " + ", ".join(f"{key} {value:g}" for key, value in found.items())
            for sigma, found in chosen["by_sigma"].items()
        )
        lines.append(f"- {chosen['name']}, {kind} ({chosen['fixed']}): {values}")
    return [*lines, ""]


def _skipped(document: dict[str, Any]) -> list[str]:
    if not document["skipped"]:
        return []
    named = [f"- {skipped['name']}: {skipped['reason']}" for skipped in document["skipped"]]
    return ["## Left out", "", *named, ""]


def _published(document: dict[str, Any]) -> list[str]:
    """What others have published, under a heading that says so."""
    facts = published()
    lines = [
        "## Published by others, NOT measured here",
        "",
        "PSNR in dB as printed in the sources below. Their noise is another draw (of one draw the"
        " mean moves by some 0.02 dB), and some round the output.",
        "",
    ]
    used = []
    levels = [f"{sigma:g}" for sigma in facts["sigmas"]]
    for name in (name for name in document["sets"] if name in facts["sets"]):
        lines += [_line([name, *levels, "read in"]), _line(["---", *["---:"] * 3, "---"])]
        for method, entry in facts["sets"][name].items():
            values = [f"{decibels:.2f}" for decibels in entry["psnr"]]
            lines.append(_line([method, *values, entry["source"]]))
            used.append(entry["source"])
        lines.append("")
    lines += [f"- {key}: {facts['sources'][key]}" for key in dict.fromkeys(used)]
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _series(row: Row, set_name: str, sigmas: Sequence[float], what: str, digits: int) -> str:
    values = [figure(row, set_name, sigma, what) for sigma in sigmas]
    return " / ".join("–" if value is None else f"{value:.{digits}f}" for value in values)


def _count(parameters: int | None) -> str:
    return "" if parameters is None else f"{parameters:,}"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.2f} MB"


def _seconds(row: Row) -> str:
    found = row["seconds_per_megapixel"]
    return "" if found is None else f"{found['median']:.2g}"
