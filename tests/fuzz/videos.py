"""Video files: frames, or one io.ImageError of one line."""

from __future__ import annotations

import functools
import importlib.util
import io as bytes_io
import itertools
import random
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from y4m_files import FORMATS, y4m

from denoise_ext import io
from fuzz.mutate import mutated
from fuzz.target import MEBIBYTE, REFUSED, RESULT, Target, tell

MAX_PIXELS = 100_000
FRAMES = 30
# A decoder keeps up to 17 frames of 100000 pixels, 6 bytes each; the rest is its own.
MEMORY = 256 * MEBIBYTE
# Not libx265: as an encoder of so small a film it corrupts the heap by itself.
KINDS = {
    "mkv": ["ffv1", "libx264", "libvpx-vp9"], "mp4": ["libx264", "mpeg4"],
    "mov": ["mpeg4"],
    "avi": ["ffv1", "mpeg4"], "nut": ["ffv1"],
}  # fmt: skip


@functools.cache
def samples(suffix: str) -> list[bytes]:
    """Small films of every codec, with sound, titles and a chapter."""
    import av
    from video_files import RNG, make_video

    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state  # the same everywhere
    files = []
    for codec in KINDS[suffix]:
        if codec in av.codecs_available:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, f"x.{suffix}")
                make_video(path, codec=codec, frames=4, audio=suffix != "nut")
                files.append(path.read_bytes())
    if suffix == "mov":
        files += [_compressed_header(data) for data in files]
    return files


def _compressed_header(film: bytes) -> bytes:
    """The film with its "moov" box deflated, and padding: chunks stay where they were."""
    at = film.index(b"moov") - 4
    size = int.from_bytes(film[at : at + 4], "big")
    inside = struct.pack(">I", size) + zlib.compress(film[at : at + size])
    parts = (8 + 12 + 8 + len(inside)).to_bytes(4, "big") + b"cmov" + b"\0\0\0\x0cdcomzlib"
    parts += (8 + len(inside)).to_bytes(4, "big") + b"cmvd" + inside
    header = (8 + len(parts)).to_bytes(4, "big") + b"moov" + parts
    padding = size - len(header)
    assert padding >= 8
    free = padding.to_bytes(4, "big") + b"free" + bytes(padding - 8)
    return film[:at] + header + free + film[at + size :]


def case(suffix: str, rng: random.Random) -> str:
    """One damaged film."""
    from denoise_ext.io import video

    files = samples(suffix)
    data = rng.choice(files)
    data = mutated(rng, data, files) if rng.random() < 0.97 else data
    tell(lambda: f"{suffix}: {len(data)} bytes")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x.{suffix}")
        path.write_bytes(data)
        try:
            with video.read_video(path, max_pixels=MAX_PIXELS) as film:
                for frame in itertools.islice(film, FRAMES):
                    picture = frame.picture()
                    assert picture.shape[:2] == (film.info.height, film.info.width)
                    assert picture.shape[0] * picture.shape[1] <= MAX_PIXELS
        except io.ImageError as error:
            assert "\n" not in str(error), f"more than a line: {error}"
            return REFUSED
    return RESULT


@functools.cache
def streams() -> list[bytes]:
    """A small stream of every kind of pixels."""
    return [y4m(tag) for tag in FORMATS]


def stream_case(rng: random.Random) -> str:
    """One damaged stream of y4m, more often than not in its first line."""
    from denoise_ext.io import video

    data = rng.choice(streams())
    if rng.random() < 0.6:
        head, _, rest = data.partition(b"\n")
        data = mutated(rng, head, [s.partition(b"\n")[0] for s in streams()]) + b"\n" + rest
    else:
        data = mutated(rng, data, streams())
    tell(lambda: f"y4m: {len(data)} bytes, {data[:80]!r}")
    out = bytes_io.BytesIO()
    try:
        with video.read_video(bytes_io.BytesIO(data), max_pixels=MAX_PIXELS) as film:
            frames = list(itertools.islice(film, FRAMES))
            for frame in frames:
                assert frame.planes[0].shape == (film.info.height, film.info.width)
                assert frame.planes[0].size <= MAX_PIXELS
            film.notes += video.write_y4m(out, frames, film)
            assert "\n" not in film.damage and len(film.damage) < 300
    except io.ImageError as error:
        assert "\n" not in str(error), f"more than a line: {error}"
        return REFUSED
    with video.read_video(bytes_io.BytesIO(out.getvalue())) as again:
        for frame, other in zip(frames, again, strict=True):
            pairs = zip(frame.planes, other.planes, strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs)
    return RESULT


def targets() -> list[Target]:
    """Streams, and one for every kind of container, where PyAV is installed."""
    found = [Target("videos/y4m", stream_case, memory=MEMORY)]
    if importlib.util.find_spec("av") is not None:
        found += [
            Target(f"videos/{suffix}", functools.partial(case, suffix), memory=MEMORY)
            for suffix in KINDS
        ]
    return found
