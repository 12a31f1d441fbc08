"""Pictures of a report as PNG in data addresses."""

from __future__ import annotations

import base64
import io as streams

import numpy as np
from PIL import Image

# Share of the noise's level, red, green, blue, opacity: those of the page of `denoise-ext serve`.
_DOUBT = np.array(
    [[0, 255, 214, 80, 0], [0.35, 255, 150, 40, 153], [1, 208, 16, 128, 242]], np.float64
)
# Of signed numbers: negative, zero, positive.
_SIGNED = np.array([[-1, 33, 102, 172], [0, 247, 247, 247], [1, 178, 24, 43]], np.float64)


def address(pixels: np.ndarray) -> str:
    """A PNG (H, W), (H, W, 3) or (H, W, 4) uint8 as an address."""
    stream = streams.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def shown(image: np.ndarray) -> str:
    """Black 0 and white 1."""
    return address((255 * image).round().clip(0, 255).astype(np.uint8))


def removed(difference: np.ndarray, most: float) -> str:
    """Gray for nothing, black and white for -most and most."""
    return shown(0.5 + 0.5 * difference / most)


def doubts(deviation: np.ndarray, most: float) -> str:
    """Colours with opacity for deviations from 0 to `most`."""
    gray = deviation if deviation.ndim == 2 else np.sqrt(np.square(deviation).mean(axis=2))
    return address(_coloured((gray / most).clip(0, 1), _DOUBT))


def signed(numbers: np.ndarray, most: float | None = None) -> str:
    """Blue, white and red for numbers from -most to most; None: the largest amount."""
    most = float(abs(numbers).max()) if most is None else most
    return address(_coloured((numbers / (most or 1)).clip(-1, 1), _SIGNED))


def tiles(maps: np.ndarray, columns: int = 8) -> np.ndarray:
    """Maps (N, h, w), each divided by its largest amount, side by side with gaps of zeros."""
    count, height, width = maps.shape
    rows = -(-count // columns)
    columns = min(columns, count)
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1))
    for i, one in enumerate(maps):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = one / (abs(one).max() or 1)
    return sheet


def _coloured(numbers: np.ndarray, stops: np.ndarray) -> np.ndarray:
    channels = [np.interp(numbers, stops[:, 0], channel) for channel in stops[:, 1:].T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
