"""`explain`: everything that a report about one image states."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoise_ext import __version__
from denoise_ext.io import write_atomically
from denoise_ext.io.channels import colour_channels
from denoise_ext.report.filters import LocalFilter, feature_maps, first_filters, local_filter
from denoise_ext.report.found import Found
from denoise_ext.report.page import html_of
from denoise_ext.runtime.model_names import Model, member
from denoise_ext.runtime.options import RunOptions, Tile
from denoise_ext.runtime.session import Session
from denoise_ext.tasks import Denoiser
from denoise_ext.tasks.images import open_image
from denoise_ext.tasks.noise_analysis import SMALLEST, profile_of
from denoise_ext.tasks.processor import weights_sha256
from denoise_ext.tasks.result import Result
from denoise_ext.tasks.sessions import Sessions
from denoise_ext.tasks.treatment import treatment_of
from denoise_ext.tasks.value_range import Range, check_range, to_unit

MOST_PIXELS = 2_000_000
"""Pixels of an image in a report: its file has some 20 bytes for each."""
SAMPLE_SIDE = 192
"""Side of the middle of an image where samples are drawn, in pixels."""
_UNIT = (0.0, 1.0)
_LAGS = 6  # pixels on each side, of the residual's autocorrelation
_GRID = 2, 3  # rows and columns of the cells that get a point each
_EDGE = 4  # pixels that points stay away from the edge of their cell


class Report(Found):
    """What `explain` found, and a page of it.

    Example:
        >>> report = denoise_ext.report.explain("photo.png", sigma=20, probes=0, samples=0)
        >>> report.save("report.html")
    """

    def html(self) -> str:
        """One page that needs nothing else."""
        return html_of(self)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the page; `io.ImageError` for a file that exists or cannot be written."""
        write_atomically(path, self.html().encode(), overwrite)


def explain(
    image: Any,
    sigma: float | None = None,
    model: Model = None,
    *,
    title: str = "",
    value_range: Range | None = None,
    probes: int = 16,
    samples: int = 3,
    steps: int = 40,
    device: str | torch.device | None = "auto",
    precision: str = "default",
    backend: str = "native",
    tile: Tile = "auto",
    max_memory: int | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> Report:
    """Denoise an image, and find out what was done and how sure that is.

    Args:
        image: one image of any kind that `denoise` takes, at most 2 million pixels.
        sigma, model, value_range: as in `Denoiser`; without both the noise decides.
        title: of the page, such as the file's name.
        probes: for the uncertainty; 0: none.
        samples: images that could be the clean one, of at most 192 x 192 pixels; 0: none.
        steps: of each sample.
        device, precision, backend, tile, max_memory: as in `Denoiser`.
        progress: called with what is computed next.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
        RuntimeError: the device or the native library cannot be used.

    Example:
        >>> report = denoise_ext.report.explain("photo.png", sigma=20, probes=2, samples=0)
        >>> "<html" in report.html()
        True
    """
    if sigma is not None and not isinstance(sigma, (int, float)):
        raise TypeError(f"sigma must be a number or None, got {type(sigma).__name__}")
    for name, count in (("probes", probes), ("samples", samples)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"{name} must be an integer >= 0, got {count!r}")
    y = _pixels(image, value_range)
    options = RunOptions(device, precision, backend, tile, max_memory)
    how: dict[str, Any] = {
        "device": device, "precision": precision, "backend": backend, "tile": tile,
        "max_memory": max_memory, "uncertainty": probes,
    }  # fmt: skip
    noisy = _array(y)
    progress("denoising, uncertainty")
    denoiser = Denoiser(model, sigma=sigma, **how)
    result = denoiser.run(noisy, value_range=_UNIT)
    profile = profile_of(y[0], _UNIT) if min(y.shape[-2:]) >= SMALLEST else None
    used, reason = _network_of(noisy, model, sigma)
    session = Sessions(used, options).of(y.shape[1])
    level = None if result.sigma is None else float(result.sigma)
    place = _middle(*y.shape[-2:])
    filters: list[LocalFilter] = []
    maps: list[tuple[str, np.ndarray]] = []
    if not reason:
        progress("filters")
        points = points_of(noisy, result.uncertainty)
        filters = [local_filter(session, y, level, at) for at in points]
        maps = feature_maps(session, y[..., place[0], place[1]], level)
    drawn: list[np.ndarray] = []
    if samples and result.uncertainty is not None:
        progress("samples")
        part = np.ascontiguousarray(noisy[place])
        whole = slice(0, part.shape[0]), slice(0, part.shape[1])
        drawn = Denoiser(used, sigma=level, **how).run_part(
            part, whole, noise=profile, uncertainty=1, value_range=_UNIT
        ).samples(samples, steps=steps)  # fmt: skip
    correlation, bound = autocorrelation(noisy - result.image)
    return Report(
        noisy, result, profile, correlation, bound, filters, reason,
        first_filters(session.original), maps, drawn, place,
        _facts(title, noisy, result, used, session, options, probes, steps),
    )  # fmt: skip


def _pixels(image: Any, value_range: Range | None) -> Tensor:
    """(1, C, H, W) float32 with black 0 and white 1, without alpha."""
    opened = open_image(image)
    count, channels, height, width = opened.source.shape
    if count != 1:
        raise ValueError(f"image must be one image, got {count}")
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"image of {width} x {height} pixels: a report takes at most {MOST_PIXELS}; cut out a"
            " part"
        )
    value_range = opened.value_range if value_range is None else value_range
    checked = check_range(value_range, opened.source.dtype)
    source = opened.source[:, : colour_channels(channels)]
    return to_unit(source, torch.float32, None if value_range is None else checked).cpu()


def _array(y: Tensor) -> np.ndarray:
    array = y[0].permute(1, 2, 0).contiguous().numpy()
    return array[..., 0] if array.shape[2] == 1 else array


def _network_of(noisy: np.ndarray, model: Model, sigma: float | None) -> tuple[Model, str]:
    """The network that denoised, and why its filters are not shown; "" where they are."""
    if model is not None or sigma is not None:
        return model, ""
    _, treatment = treatment_of(noisy, _UNIT)
    if treatment.gray:
        return treatment.model, "a gray picture is stored as RGB"
    if treatment.variance is not None or treatment.impulses:
        return treatment.model, f"the image was not denoised at one level: {treatment.text}"
    return treatment.model, ""


def _middle(height: int, width: int) -> tuple[slice, slice]:
    starts = [max(0, (n - SAMPLE_SIDE) // 2) for n in (height, width)]
    rows, columns = (
        slice(a, min(n, a + SAMPLE_SIDE)) for a, n in zip(starts, (height, width), strict=True)
    )
    return rows, columns


def points_of(noisy: np.ndarray, uncertainty: np.ndarray | None) -> list[tuple[int, int]]:
    """A pixel of each cell of a grid: in turns the least and the most certain one.

    Without uncertainty the middles of the cells.
    """
    height, width = noisy.shape[:2]
    unsure = uncertainty
    if unsure is not None and unsure.ndim == 3:
        unsure = unsure.mean(axis=2)
    points = []
    for i in range(_GRID[0] * _GRID[1]):
        row, column = divmod(i, _GRID[1])
        rows = height * row // _GRID[0], height * (row + 1) // _GRID[0]
        columns = width * column // _GRID[1], width * (column + 1) // _GRID[1]
        cell = [slice(min(a + _EDGE, (a + b) // 2), max(b - _EDGE, (a + b) // 2 + 1))
                for a, b in (rows, columns)]  # fmt: skip
        if cell[0].stop > height or cell[1].stop > width:
            continue  # a tiny image has fewer
        if unsure is None:
            points.append((sum(rows) // 2, sum(columns) // 2))
            continue
        inside = unsure[cell[0], cell[1]]
        place = inside.argmin() if i % 2 else inside.argmax()
        down, right = np.unravel_index(place, inside.shape)
        points.append((cell[0].start + int(down), cell[1].start + int(right)))
    return list(dict.fromkeys(points))


def autocorrelation(removed: np.ndarray) -> tuple[np.ndarray, float]:
    """Of what was removed, for lags of up to 6 pixels: (13, 13), and its bound for white noise."""
    planes = removed[..., None] if removed.ndim == 2 else removed
    planes = planes.astype(np.float64) - planes.mean(axis=(0, 1))
    height, width, _ = planes.shape
    spectrum = np.fft.fft2(planes, (2 * height, 2 * width), axes=(0, 1))
    sums = np.fft.ifft2(abs(spectrum) ** 2, axes=(0, 1)).real.sum(axis=2)
    rows, columns = min(_LAGS, height - 1), min(_LAGS, width - 1)
    lags = np.roll(sums, (rows, columns), (0, 1))[: 2 * rows + 1, : 2 * columns + 1]
    down, right = np.indices(lags.shape)
    pairs = (height - abs(down - rows)) * (width - abs(right - columns))
    lags = lags / pairs
    zero = lags[rows, columns]
    found = lags / zero if zero > 0 else np.zeros_like(lags)
    return found, 3 / np.sqrt(planes.size)


def _facts(
    title: str, noisy: np.ndarray, result: Result, used: Model, session: Session,
    options: RunOptions, probes: int, steps: int,
) -> dict[str, str]:  # fmt: skip
    channels = 1 if noisy.ndim == 2 else noisy.shape[2]
    named = used is None or isinstance(used, (str, os.PathLike))
    name = member(used, channels) if named else type(session.original).__name__
    facts = {
        "Image": title or "an array",
        "Size": f"{noisy.shape[1]} x {noisy.shape[0]}, {'gray' if channels == 1 else 'colour'}",
        "Network": str(name),
        "Weights": f"{sum(p.numel() for p in session.original.parameters()):,}",
        "Level": "found by the network"
        if result.sigma is None
        else f"{float(result.sigma):.2f}"
        + (" (estimated)" if result.sigma_estimated else " (given)"),
        "Treatment": result.treatment or "model or level were given",
        "Precision": options.precision,
        "Probes": str(probes),
        "Steps of a sample": str(steps),
        "denoise_ext": __version__,
        "torch": torch.__version__,
    }
    if named:
        facts["Hash of the weights"] = weights_sha256(name)
    return facts
