"""Small videos, made by PyAV."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

RNG = np.random.default_rng(0)


def make_video(
    path, pixel_format="yuv420p", codec="ffv1", frames=6, size=(36, 30), audio=True, **colour
):
    """A film of noise with irregular times, mono sound, titles and a chapter."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.metadata["language"] = "deu"
        out.metadata["title"] = "a film"
        for name, value in colour.items():
            setattr(stream.codec_context, name, value)
        sound = (
            out.add_stream("pcm_s16le" if codec == "ffv1" else "aac", rate=8000) if audio else None
        )
        for number in range(frames):
            frame = av.VideoFrame(*size, pixel_format)
            for plane in frame.planes:
                values = RNG.integers(60, 180, plane.buffer_size, dtype=np.uint8)
                if (bits := frame.format.components[0].bits) > 8:
                    values[1::2] = RNG.integers(0, 1 << (bits - 8), len(values[1::2]))
                plane.update(values.tobytes())
            frame.pts, frame.time_base = number * 40 + number % 2 * 7, Fraction(1, 1000)
            out.mux(stream.encode(frame))
            if sound:
                block = av.AudioFrame.from_ndarray(
                    RNG.integers(-999, 999, (1, 640)).astype(np.int16), "s16", "mono"
                )
                block.sample_rate, block.pts = 8000, number * 640
                for part in av.AudioResampler(sound.format, "mono", 8000).resample(block):
                    out.mux(sound.encode(part))
        out.mux(stream.encode(None))
        if sound:
            out.mux(sound.encode(None))
