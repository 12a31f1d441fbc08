"""Image files: a picture that can be written again, or one io.ImageError of one line."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import io as bytes_io
import random
import tempfile
from pathlib import Path

import numpy as np
from medical_files import dicom
from picture_files import KINDS, RNG, pixels, whole_file, written
from PIL import Image

from denoise_ext import io
from fuzz.mutate import mutated, mutated_inside, png_repaired, zip_mutated
from fuzz.target import MEBIBYTE, REFUSED, RESULT, Target, tell

MAX_PIXELS = 100_000
# 100000 pixels of 32 bytes are 3 MB, a file's metadata 64 MiB; both may be there twice.
MEMORY = 256 * MEBIBYTE
SYNTAXES = {"JPEG": "JPEGBaseline8Bit", "JPEG2000": "JPEG2000Lossless"}
NEEDS = {"DICOM": "pydicom", "NIFTI": "nibabel", "EXR": "OpenImageIO", "RAW": "rawpy"}


@functools.cache
def samples(name: str) -> list[bytes]:
    """Valid files of a format: what our own writer makes of every kind of pixels it holds."""
    if name == "RAW":
        return [_dng()]
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state  # the same everywhere
    files = [whole_file(name, kind) for kind in KINDS[name]]
    if name == "DICOM":
        rgb = pixels("rgb", "uint8")
        files += [
            dicom(rgb),
            dicom(np.stack([pixels("gray", "uint16")] * 3), frames=3),
            _deflated(),
            *(_encapsulated(format) for format in SYNTAXES),
        ]
    elif not name.startswith("NIFTI"):
        files += [_plain(name, mode, dtype) for mode, dtype in _held(name)]
    if name == "TIFF":
        files += _tiffs()
    return files


def _held(name: str) -> list[tuple[str, str]]:
    codec = io.codec_named(name)
    return [(mode, dtype) for mode, dtypes in codec.holds.items() for dtype in dtypes]


def _plain(name: str, mode: str, dtype: str) -> bytes:
    premultiplied = "straight" not in io.codec_named(name).alpha
    picture = io.picture_of(pixels(mode, dtype), metadata=io.Metadata(premultiplied=premultiplied))
    return written(picture, format=name)


def _tiffs() -> list[bytes]:
    """Several pages, and compressed tiles of another writer."""
    pages = io.Picture((pixels("gray", "uint8"),) * 3, (0, 255), "gray", "TIFF")
    files = [written(pages)]
    if importlib.util.find_spec("tifffile"):
        import tifffile

        image = np.tile(pixels("rgb", "uint16"), (5, 5, 1))
        for options in ({"tile": (16, 16)}, {"compression": "zlib", "predictor": True}):
            out = bytes_io.BytesIO()
            tifffile.imwrite(out, image, photometric="rgb", **options)
            files.append(out.getvalue())
    return files


def _deflated() -> bytes:
    """A DICOM file whose data set is compressed."""
    import pydicom

    dataset = pydicom.dcmread(bytes_io.BytesIO(dicom(pixels("gray", "uint16"))))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    out = bytes_io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def _encapsulated(format: str) -> bytes:
    """A DICOM file with a frame that Pillow's encoder compressed."""
    import pydicom

    gray = pixels("gray", "uint8")
    stream = bytes_io.BytesIO()
    Image.fromarray(gray).save(stream, format)
    dataset = pydicom.dcmread(bytes_io.BytesIO(dicom(gray)))
    dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, SYNTAXES[format])
    dataset.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    out = bytes_io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def _dng() -> bytes:
    """A camera's raw file: a Bayer mosaic of 16 bits."""
    import tifffile

    out = bytes_io.BytesIO()
    mosaic = np.random.default_rng(0).integers(0, 4096, (64, 64), dtype=np.uint16)
    tags = [
        (50706, "B", 4, (1, 4, 0, 0)), (50708, "s", 0, "a camera"), (33421, "H", 2, (2, 2)),
        (33422, "B", 4, (0, 1, 1, 2)), (50717, "H", 1, 4095), (50778, "H", 1, 21),
        (50721, "2i", 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)),
    ]  # fmt: skip
    tifffile.imwrite(out, mosaic, photometric=32803, extratags=tags)
    return out.getvalue()


def damaged(rng: random.Random, name: str) -> bytes:
    """A sample with damage that gets past checksums and compression where there are any."""
    files = samples(name)
    data = rng.choice(files)
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.8:
        return gzip.compress(mutated_inside(rng, gzip.decompress(data)), 1)
    if name == "NPZ" and rng.random() < 0.7:
        return zip_mutated(rng, data)
    data = mutated(rng, data, files)
    return png_repaired(data) if name == "PNG" and rng.random() < 0.8 else data


def read(rng: random.Random, data: bytes, suffix: str) -> io.Picture:
    """As bytes, or from a file."""
    if rng.random() < 0.7:
        return io.read_picture(data, max_pixels=MAX_PIXELS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x{suffix}")
        path.write_bytes(data)
        return io.read_picture(path, max_pixels=MAX_PIXELS)


def case(name: str, rng: random.Random) -> str:
    """One damaged file of a format."""
    data = damaged(rng, name) if rng.random() < 0.97 else rng.choice(samples(name))
    tell(lambda: f"{name}: {len(data)} bytes, {data[:64]!r}")
    try:
        picture = read(rng, data, io.codec_named(name).suffixes[0])
    except io.ImageError as error:
        assert "\n" not in str(error), f"more than a line: {error}"
        return REFUSED
    assert sum(frame.shape[0] * frame.shape[1] for frame in picture.frames) <= MAX_PIXELS
    if io.codec_named(picture.format).write is None:
        return RESULT
    try:
        again = io.read_picture(written(picture), max_pixels=MAX_PIXELS)
    except io.ImageError as error:  # tags that cannot be written again
        assert "cannot write" in str(error), f"what was written cannot be read: {error}"
        return RESULT
    if io.codec_named(picture.format).exact:
        for one, other in zip(picture.frames, again.frames, strict=True):
            if picture.format == "WEBP" and (one[..., 3:] == 255).all():  # libwebp leaves it out
                one, other = one[..., :3], other[..., :3]
            np.testing.assert_array_equal(one, other)
    return RESULT


def targets() -> list[Target]:
    """One for every format that can be read here."""
    names = {codec.name for codec in io.CODECS}
    return [
        Target(f"images/{name}", functools.partial(case, name), seconds=10, memory=MEMORY)
        for name in sorted(names)
        if importlib.util.find_spec(NEEDS.get(name.split(".")[0], "numpy"))
        and (name != "RAW" or importlib.util.find_spec("tifffile"))
    ]
