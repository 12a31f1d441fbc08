"""The before/after picture of the demo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# All in pixels. A detail of the photograph at its own size, above it a label, below it a part of
# the detail magnified; both rows are equally wide.
DETAIL = (196, 52, 596, 362)  # left, top, right, bottom in the photograph
CLOSE_UP = (300, 66, 400, 146)
MAGNIFICATION = 4
MARGIN, GAP, LABEL = 20, 12, 62
BACKGROUND, TEXT, QUIET, MARK = (250, 250, 248), (24, 24, 24), (105, 105, 105), (255, 214, 10)


@dataclass(frozen=True)
class Result:
    """One image of the comparison with its figures against the clean one."""

    title: str
    pixels: np.ndarray  # (H, W, 3) uint8
    psnr: float
    ssim: float


def compose(results: list[Result], clean: np.ndarray) -> np.ndarray:
    """Results side by side with the clean image last, labelled with their PSNR and SSIM.

    Args:
        results: images (512, 768, 3) uint8 with titles and figures.
        clean: (512, 768, 3) uint8.

    Returns:
        (H, W, 3) uint8.
    """
    panels = [(r.title, f"PSNR {r.psnr:.2f} dB   SSIM {r.ssim:.3f}", r.pixels) for r in results]
    panels.append(("clean", "the original photograph", clean))
    width = DETAIL[2] - DETAIL[0]
    top_height, bottom_height = DETAIL[3] - DETAIL[1], (CLOSE_UP[3] - CLOSE_UP[1]) * MAGNIFICATION
    canvas = Image.new(
        "RGB",
        (
            2 * MARGIN + len(panels) * width + (len(panels) - 1) * GAP,
            2 * MARGIN + LABEL + top_height + GAP + bottom_height,
        ),
        BACKGROUND,
    )
    for index, panel in enumerate(panels):
        _draw_panel(canvas, MARGIN + index * (width + GAP), *panel)
    return np.array(canvas)


def _draw_panel(canvas: Image.Image, x: int, title: str, figures: str, pixels: np.ndarray) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.text((x, MARGIN - 6), title, fill=TEXT, font=ImageFont.load_default(size=26))
    draw.text((x, MARGIN + 27), figures, fill=QUIET, font=ImageFont.load_default(size=20))
    photograph = Image.fromarray(pixels)
    top = MARGIN + LABEL
    canvas.paste(photograph.crop(DETAIL), (x, top))
    left, upper, right, lower = CLOSE_UP
    frame = (x + left - DETAIL[0], top + upper - DETAIL[1])
    size = (right - left, lower - upper)
    draw.rectangle((*frame, frame[0] + size[0], frame[1] + size[1]), outline=MARK, width=2)
    close_up = photograph.crop(CLOSE_UP).resize(
        (size[0] * MAGNIFICATION, size[1] * MAGNIFICATION),
        Image.Resampling.NEAREST,  # the pixels as they are
    )
    canvas.paste(close_up, (x, top + DETAIL[3] - DETAIL[1] + GAP))
