"""Four pictures side by side, two to a row, each below its name and its figures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP, LABEL = 16, 10, 56  # pixels
BACKGROUND, TEXT, QUIET, MARK = (250, 250, 248), (24, 24, 24), (105, 105, 105), (255, 214, 10)


def side_by_side(panels: Sequence[tuple[str, Image.Image, str]]) -> Image.Image:
    """Name, picture and figures of each; the pictures have one size."""
    width, height = panels[0][1].size
    rows = -(-len(panels) // 2)
    size = (
        2 * MARGIN + 2 * width + GAP,
        2 * MARGIN + rows * (LABEL + height) + (rows - 1) * GAP,
    )
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for place, (name, image, text) in enumerate(panels):
        x = MARGIN + place % 2 * (width + GAP)
        y = MARGIN + place // 2 * (LABEL + height + GAP)
        draw.text((x, y), name, fill=TEXT, font=ImageFont.load_default(size=20))
        draw.text((x, y + 26), text, fill=QUIET, font=ImageFont.load_default(size=16))
        canvas.paste(image, (x, y + LABEL))
    return canvas
