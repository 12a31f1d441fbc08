"""Artefacts of compressed film: a clip through an H.264 encoder and back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.data.noise._draw import checked_image
from denoise_ext.io.errors import optional

_RATE = 25


def add_h264_artefacts(clip: Tensor, crf: int) -> Tensor:
    """A clip as libx264 stores it in 4:2:0 with 8 bits.

    What the noise of a frame becomes depends on the frames around it, as in films of phones and
    cameras.

    Args:
        clip: frames (T, C, H, W) in [0, 1], one clip; C is 1 or 3.
        crf: constant rate factor, 0 (best) to 51.

    Raises:
        ImageError: (a ValueError) PyAV is not installed, or has no libx264.

    Example:
        >>> clip = torch.rand(4, 3, 32, 48)  # (T, C, H, W)
        >>> denoise_ext.data.noise.add_h264_artefacts(clip, crf=28).shape
        torch.Size([4, 3, 32, 48])
    """
    image = checked_image(clip)
    if image.shape[1] not in (1, 3):
        raise ValueError(f"clip must have 1 or 3 channels, got {tuple(clip.shape)}")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must be from 0 to 51, got {crf}")
    av = optional("av", "video", "noise of kind 'h264'")
    height, width = image.shape[2:]
    even = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    pixels = (even.clamp(0, 1) * 255.0).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    kind = "rgb24" if image.shape[1] == 3 else "gray"
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = pixels.shape[2], pixels.shape[1], "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, _RATE), _RATE
    encoder.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
    packets = []
    for number, picture in enumerate(pixels):
        picture = picture if kind == "rgb24" else picture[..., 0]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), kind)
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = number, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    made = np.stack([frame.reformat(format=kind).to_ndarray() for frame in decoded])
    made = made.reshape(pixels.shape)[:, :height, :width]
    result = torch.from_numpy(made).permute(0, 3, 1, 2).to(image) / 255.0
    return result.contiguous().to(clip.dtype)
