"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from html import escape
from importlib import resources

import numpy as np

from denoise_ext.report import pictures
from denoise_ext.report.filters import LocalFilter, around
from denoise_ext.report.found import Found

# Correlation of neighbours that counts as none: a network keeps some of the noise of each pixel,
# and spreads it over neighbours, so what it removes is never quite white.
_WHITE = 0.1
_REACH = 12  # pixels on each side of a filter that are drawn
_KINDS = {
    "none": "little or no noise", "white": "white noise", "correlated": "correlated noise",
    "signal-dependent": "noise that grows with brightness", "impulse": "impulses",
    "mixed": "impulses and other noise",
}  # fmt: skip


def html_of(report: Found) -> str:
    """The page."""
    folder = resources.files("denoise_ext") / "report" / "page"
    text = {
        name: (folder / name).read_text() for name in ("report.html", "report.css", "report.js")
    }
    values = {
        "title": escape(report.facts["Image"]),
        "network": escape(report.facts["Network"]),
        "style": text["report.css"],
        "script": text["report.js"],
        "cards": _cards(report),
        "stage": _stage(report),
        "filters": _filters(report),
        "correlation": _correlation(report),
        "samples": _samples(report),
        "layers": _layers(report),
        "facts": "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
            for name, value in report.facts.items()
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], text["report.html"])


def _card(name: str, value: str, text: str, wide: bool = False) -> str:
    size = " long" if wide else ""
    return (
        f'<div class="card"><h2>{name}</h2><p class="value{size}">{escape(value)}</p>'
        f"<p>{escape(text)}</p></div>"
    )


def _cards(report: Found) -> str:
    result, profile = report.result, report.profile
    if result.expected_psnr is not None:
        quality = _card(
            "Expected PSNR", f"{result.expected_psnr:.2f} ± {result.expected_psnr_error:.2f} dB",
            "Found without the clean image. The error is one standard error.",
        )  # fmt: skip
    else:
        quality = _card(
            "Expected PSNR", "none", f"There is no number: {result.uncertainty_reason}.", wide=True
        )
    if profile is None:
        noise = _card("Noise", "not analysed", "The image is too small.", wide=True)
    else:
        noise = _card(
            "Noise", _KINDS[profile.kind],
            f"Level {profile.level:.1f} of 255 in the finest detail.", wide=True,
        )  # fmt: skip
    white = abs(report.structure) <= max(_WHITE, report.correlation_bound)
    removed = _card(
        "What was removed", "like white noise" if white else "not white",
        f"Neighbours have a correlation of {report.structure:+.3f}. Up to {_WHITE:g} is normal."
        " More is detail that was lost, or noise that was not white.", wide=True,
    )  # fmt: skip
    if not report.filters:
        return quality + noise + removed
    radius = np.median([one.radius for one in report.filters])
    looks = _card(
        "Where it looks", f"{radius:.0f} pixels",
        "Radius around a pixel with 90 % of its filter, the median of the points below.",
    )  # fmt: skip
    return quality + noise + removed + looks


def _stage(report: Found) -> str:
    result, noisy = report.result, report.noisy
    level = result.sigma if result.sigma is not None else 255 * float(np.std(noisy - result.image))
    most = max(3 * float(level), 1.0)
    views = [("compare", "Before and after", "Drag the slider: before on the left.")]
    layers = [
        f'<img class="before" src="{pictures.shown(noisy)}" alt="The noisy image">',
        f'<img class="after" src="{pictures.shown(result.image)}" alt="The denoised image">',
    ]
    difference = pictures.removed(noisy - result.image, most / 255)
    views.append(
        ("removed", "Removed", f"Gray is nothing; black and white are ± {most:.0f} of 255.")
    )
    layers.append(f'<img class="removed" src="{difference}" alt="What was removed" hidden>')
    if result.uncertainty is not None:
        strongest = float(result.sigma)
        factor = result.interval_90
        text = (
            f"The strongest colour: nine of ten such pixels are off by less than"
            f" {factor * strongest:.0f} of 255. Clear: the network is sure."
            if factor
            else f"The strongest colour: a standard deviation of {strongest:.0f} of 255."
        )
        views.append(("doubt", "Uncertainty", text))
        map_ = pictures.doubts(result.uncertainty, strongest)
        layers.append(f'<img class="doubt" src="{map_}" alt="Uncertainty" hidden>')
    height, width = noisy.shape[:2]
    markers = "".join(
        f'<button type="button" class="point" data-point="{i}"'
        f' style="left:{100 * (one.column + 0.5) / width:.3f}%;'
        f'top:{100 * (one.row + 0.5) / height:.3f}%"'
        f' aria-label="Point {i}: show its filter">{i}</button>'
        for i, one in enumerate(report.filters, 1)
    )
    tabs = "".join(
        f'<label><input type="radio" name="view" value="{name}" data-text="{escape(text)}"'
        f"{' checked' if name == 'compare' else ''}><span>{label}</span></label>"
        for name, label, text in views
    )
    return (
        f'<fieldset class="tabs"><legend>View</legend>{tabs}</fieldset>'
        f'<div class="stage" id="stage" style="aspect-ratio:{width}/{height};'
        f'max-width:{max(width, 480)}px">{"".join(layers)}{markers}</div>'
        '<label class="slide" id="slide">Border<input type="range" id="border" min="0" max="100"'
        ' value="50" aria-label="Border of before and after, in per cent"></label>'
        f'<p class="help" id="view-text" aria-live="polite">{escape(views[0][2])}</p>'
    )


def _filters(report: Found) -> str:
    if not report.filters:
        return f"<p>Not shown: {escape(report.filters_reason or 'the image is too small')}.</p>"
    figures = "".join(_filter(i, one) for i, one in enumerate(report.filters, 1))
    return f'<div class="figures">{figures}</div>'


def _filter(number: int, one: LocalFilter) -> str:
    padded = np.pad(one.kernel, _REACH)
    top, left = one.row - one.top, one.column - one.left
    near = padded[top : top + 2 * _REACH + 1, left : left + 2 * _REACH + 1]
    if one.from_level is None:
        parts = "The network finds the level itself."
    else:
        parts = f"{one.from_image:.3f} from the image, {one.from_level:+.3f} from the noise level."
    image = pictures.signed(near)
    return (
        f'<figure id="point-{number}" tabindex="-1"><img class="pixels" src="{image}"'
        f' alt="Filter of point {number}"><figcaption><b>{number}</b> column {one.column}, row'
        f" {one.row}: brightness {one.value:.3f}. {parts} The filter's sum is"
        f" {one.kernel.sum():.2f}, its radius {one.radius:.0f} pixels.</figcaption></figure>"
    )


def _correlation(report: Found) -> str:
    middle = np.array(report.correlation.shape) // 2
    others = report.correlation.copy()
    others[tuple(middle)] = 0
    most = max(float(abs(others).max()), report.correlation_bound)
    return (
        f'<figure><img class="pixels" src="{pictures.signed(others, most)}" alt="Autocorrelation of'
        f' what was removed"><figcaption>Lags of up to {middle[1]} pixels. The strongest colours'
        f" are ± {most:.3f}. The middle is 1 and left out.</figcaption></figure>"
    )


def _samples(report: Found) -> str:
    if not report.samples:
        reason = report.result.uncertainty_reason or "not asked for"
        return f"<p>None: {escape(reason)}.</p>"
    place = report.sample_place
    named = [("the noisy image", report.noisy[place]), ("the result", report.result.image[place])]
    named += [(f"sample {i}", one) for i, one in enumerate(report.samples, 1)]
    images = "".join(
        f'<img src="{pictures.shown(one)}" alt="{name}" data-name="{name}"'
        f"{'' if name == 'the result' else ' hidden'}>"
        for name, one in named
    )
    buttons = "".join(
        f'<button type="button" data-sample="{i}" aria-pressed="{str(i == 1).lower()}">'
        f"{escape(name.removeprefix('the ').capitalize())}</button>"
        for i, (name, _) in enumerate(named)
    )
    return (
        f'<div class="samples" id="samples"><div class="sheet">{images}</div>'
        f'<div class="buttons">{buttons}<button type="button" id="flicker" aria-pressed="false">'
        "Flicker</button></div></div>"
    )


def _layers(report: Found) -> str:
    figures = []
    if len(report.filters):
        field = around(report.filters, 2 * _REACH)
        seen = np.sqrt(field / (field.max() or 1))
        figures.append((pictures.signed(seen, 1.0), "pixels", "Effective receptive field: mean"
                        " amounts of the filters above, square root."))  # fmt: skip
    if len(report.first_filters):
        sheet = pictures.tiles(report.first_filters)
        figures.append((pictures.signed(sheet, 1.0), "pixels", "Filters of the first convolution,"
                        " means over its inputs."))  # fmt: skip
    for name, maps in report.feature_maps:
        sheet = pictures.tiles(maps, 4)
        figures.append((pictures.signed(sheet, 1.0), "", f"Feature maps after {name}, in the middle"
                        " of the image."))  # fmt: skip
    return '<div class="figures wide">' + "".join(
        f'<figure><img class="{kind}" src="{image}" alt="{escape(text)}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
        for image, kind, text in figures
    ) + "</div>"  # fmt: skip
