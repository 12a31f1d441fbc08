"""The picture of docs/video.md: `python benchmarks/video_picture.py --weights FILE -o FILE`.

A frame of a film by NASA (in the public domain), as it is, with noise, and denoised. Below it a
slice of the film: one row of the frames, time running down, changes in time enlarged four times.
What flickers changes from line to line there. The film is video/nasa_mp4/nasa_13013.mp4 of
$DENOISE_EXT_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from denoise_ext.io.video import read_video
from denoise_ext.metrics import flicker, psnr
from harness.panels import BACKGROUND, GAP, MARK, side_by_side
from video import recurrent, still
from video_noise import noisy

FILM = "video/nasa_mp4/nasa_13013.mp4"
FIRST, COUNT = 205, 32  # frames of the film
CROP = (40, 200, 200, 440)  # top, left, bottom, right
ROW = 84  # of the crop: the slice
SIGMA = 30.0
SCALE, LINES = 2, 5  # pixels for a pixel, and lines for a frame in the slice
ENLARGED = 4  # the changes in time, in the slice


def film(data: Path) -> Tensor:
    """(T, 1, H, W) float32 in [0, 1], luma."""
    made = []
    with read_video(data / FILM) as video:
        for number, frame in enumerate(video):
            if number >= FIRST:
                black, span = frame.colour.black_and_span
                made.append((frame.planes[0].astype(np.float32) - black) / span)
            if len(made) == COUNT:
                break
    return torch.from_numpy(np.stack(made))[:, None].clamp(0, 1)


def panel(clip: Tensor) -> Image.Image:
    """The last frame, above the slice."""
    top, left, bottom, right = CROP
    pixels = (clip.clamp(0, 1) * 255.0).round().byte().numpy()[:, 0, top:bottom, left:right]
    frame = Image.fromarray(pixels[-1]).resize(
        (SCALE * (right - left), SCALE * (bottom - top)), Image.Resampling.NEAREST
    )
    rows = pixels[:, ROW].astype(np.float32)
    mean = rows.mean(0)
    rows = (0.7 * mean + 40 + ENLARGED * (rows - mean)).clip(0, 255)  # room for what is brighter
    cut = Image.fromarray(rows.astype(np.uint8)).resize(
        (frame.width, LINES * COUNT), Image.Resampling.NEAREST
    )
    both = Image.new("RGB", (frame.width, frame.height + GAP + cut.height), BACKGROUND)
    both.paste(frame, (0, 0))
    both.paste(cut, (0, frame.height + GAP))
    ImageDraw.Draw(both).line([(0, SCALE * ROW), (frame.width, SCALE * ROW)], fill=MARK)
    return both


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", required=True, help="a recurrent network for gray video")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    clean = film(Path(os.environ.get("DENOISE_EXT_DATA", "../shared/data")))
    spoiled = noisy(clean, SIGMA, 0)
    clips = [(f"noise, sigma {SIGMA:g}", spoiled)]
    by_frame, with_past = still("dxnet_s_gray"), recurrent(args.weights, Path(args.weights).stem)
    clips += [(method.name, method.run(spoiled, SIGMA)) for method in (by_frame, with_past)]
    panels = [(name, panel(clip), _figures(clip, clean)) for name, clip in clips]
    panels.append(("clean", panel(clean), "below: the marked row, time running down"))
    side_by_side(panels).save(args.output, quality=85, optimize=True)
    return 0


def _figures(clip: Tensor, clean: Tensor) -> str:
    clip = clip.clamp(0, 1)
    return f"PSNR {psnr(clip, clean).mean():.2f} dB   flicker {flicker(clip, clean):.2f}"


if __name__ == "__main__":
    sys.exit(main())
