"""From bytes to bytes: what threads do with a picture."""

from __future__ import annotations

import io as streams
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from denoise_ext.io import Metadata, Picture, format_for, picture_of, read_picture, write_picture
from denoise_ext.io.codecs import codec_named, suffix_of
from denoise_ext.io.errors import ImageError, reason_of
from denoise_ext.io.read import as_shown
from denoise_ext.service.errors import Refused
from denoise_ext.tasks import Denoiser, NoiseProfile, estimate_sigma
from denoise_ext.tasks.part import Part
from denoise_ext.tasks.result import Result
from denoise_ext.tasks.treatment import Treatment, treatment_of

# Types as registered with IANA; others are application/octet-stream.
_MEDIA_TYPES = {
    "PNG": "image/png", "JPEG": "image/jpeg", "TIFF": "image/tiff", "WEBP": "image/webp",
    "BMP": "image/bmp", "PNM": "image/x-portable-anymap", "EXR": "image/x-exr",
    "DICOM": "application/dicom", "NIFTI.GZ": "application/gzip",
}  # fmt: skip
_SMALLEST = 8  # pixels on a side for `estimate_sigma`
_LARGEST_PROFILE = 1 << 16  # bytes of a colour profile that parts for the page carry
_OVERHEAD = 1 << 14  # bytes of a kept picture besides pixels and profile, at most
_LEAST_PIXELS = 2048  # that a frame counts as: it costs so much, however small it is
PROBES = 2
"""Random probes for the uncertainty of a part."""
DEVIATION_SCALE = 4
"""Levels of the PNG for each level of the 0-255 scale, in a map of uncertainty."""


@dataclass
class Timed:
    """Seconds by stage, for the answer's ``Server-Timing`` and the metrics."""

    stages: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, start: float) -> None:
        """Count the time since `start` (`time.perf_counter`)."""
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Answer:
    """A file, and what is known of it."""

    content: bytes | memoryview
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Looked:
    """A picture as the page looks at it: upright, its first frame, with what was found."""

    picture: Picture
    treatment: Treatment
    estimate: float
    """The level of white noise, 0-255 scale, for networks that need one."""
    value_range: tuple[float, float] | None
    """As given."""
    noise: NoiseProfile | None = None
    """None for a picture that is too small for an analysis."""

    @property
    def size(self) -> int:
        """Bytes in memory."""
        profile = self.picture.metadata.icc_profile or b""
        return self.picture.frames[0].nbytes + len(profile) + _OVERHEAD


def read(body: bytes | bytearray, max_pixels: int) -> Picture:
    """The picture of an upload; Refused (413, 415) if there is none."""
    try:
        picture = read_picture(body, max_pixels=max_pixels)
    except ImageError as error:
        raise Refused(413 if "(max_pixels)" in str(error) else 415, _line(error)) from None
    except MemoryError:
        raise no_memory() from None
    cost = sum(max(frame.shape[0] * frame.shape[1], _LEAST_PIXELS) for frame in picture.frames)
    if cost > max_pixels:
        raise Refused(
            413, f"the picture has {len(picture.frames)} frames, more than this service computes"
            " (max_pixels)",
        )  # fmt: skip
    return picture


def denoised(picture: Picture, denoiser: Denoiser, values: dict[str, Any]) -> Result:
    """The result; Refused (422) where the picture or an option does not fit the network."""
    options = {name: values.get(name) for name in ("value_range", "axes", "strength")}
    try:
        return denoiser.run(picture, values.get("sigma"), **options)
    except (TypeError, ValueError) as error:
        raise Refused(422, _line(error)) from None
    except RuntimeError as error:  # overflow in float32; PyTorch's allocator without memory
        raise _at_run_time(error) from None
    except MemoryError:
        raise no_memory() from None


def written(result: Result, suffix: str | None) -> Answer:
    """The result as a file; Refused (422) where the format cannot hold it."""
    picture = result.image
    name = format_for(picture, f".{suffix}" if suffix else "")
    stream = streams.BytesIO()
    try:
        write_picture(stream, picture, format=name)
    except ImageError as error:
        raise Refused(422, _line(error)) from None
    except MemoryError:
        raise no_memory() from None
    codec = codec_named(name)
    headers = {
        "Denoise-Format": name,
        "Denoise-Suffix": f".{suffix}" if suffix else codec.suffixes[0],
        "Denoise-Treatment": _ascii(result.treatment),
        "Denoise-Sigma": "" if result.sigma is None else f"{float(result.sigma):.4g}",
        "Denoise-Sigma-Estimated": str(result.sigma_estimated).lower(),
        "Denoise-Notes": _ascii("; ".join(picture.notes)),
    }
    headers = {key: value for key, value in headers.items() if value}
    media_type = _MEDIA_TYPES.get(name, "application/octet-stream")
    return Answer(stream.getbuffer(), media_type, headers)


def looked_at(picture: Picture, values: dict[str, Any]) -> tuple[Looked, dict[str, Any]]:
    """What is found in the first frame, and the same as JSON; Refused (422) if nothing can be."""
    value_range = values.get("value_range")
    frame, own = as_shown(replace(picture, frames=picture.frames[:1]))
    if frame.dtype.kind == "f":
        frame = np.nan_to_num(frame, nan=own[0], posinf=own[1], neginf=own[0])
    # Nothing else of the file stays in memory: not the other frames, of which this may be a view.
    frame = frame if frame.base is None else frame.copy()
    profile = picture.metadata.icc_profile
    metadata = Metadata(
        icc_profile=profile if profile and len(profile) <= _LARGEST_PROFILE else None,
        premultiplied=picture.metadata.premultiplied,
    )
    shown = replace(
        picture, frames=(frame,), value_range=own, shapes=(), metadata=metadata, notes=()
    )
    try:
        profile, treatment = treatment_of(shown, value_range)
        if min(frame.shape[:2]) >= _SMALLEST:
            estimate = estimate_sigma(frame, value_range=value_range or own)
        else:
            estimate, treatment = 0.0, replace(treatment, sigma=0.0)
    except (TypeError, ValueError) as error:
        raise Refused(422, _line(error)) from None
    except MemoryError:
        raise no_memory() from None
    looked = Looked(shown, treatment, float(estimate), value_range, profile)
    return looked, {**_facts(picture, frame, looked), "noise": _noise(profile)}


def _facts(picture: Picture, frame: np.ndarray, looked: Looked) -> dict[str, Any]:
    written_as = format_for(picture)
    level = looked.treatment.sigma
    return {
        "width": frame.shape[1],
        "height": frame.shape[0],
        "channels": 1 if frame.ndim == 2 else frame.shape[2],
        "frames": len(picture.frames),
        "dtype": picture.frames[0].dtype.name,
        "format": picture.format,
        "written_as": suffix_of("x" + codec_named(written_as).suffixes[0])[0],
        "treatment": looked.treatment.text,
        "model": looked.treatment.model,
        "sigma": None if level is None else round(float(level), 2),
        "estimated_sigma": round(looked.estimate, 2),
        "notes": list(picture.notes),
    }


def _noise(profile: NoiseProfile | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    found = {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(profile).items()}
    return found | {
        "level_black": round(profile.sigma_at(0.0), 2),
        "level_white": round(profile.sigma_at(1.0), 2),
    }


def part_of(looked: Looked, denoiser: Denoiser | None, values: dict[str, Any]) -> Answer:
    """A part of a picture as an 8-bit PNG, denoised where there is a `Denoiser`.

    Refused (422) for a part that is not in the picture, or has no uncertainty where that is asked
    for.
    """
    left, top = values["left"], values["top"]
    place = slice(top, top + values["height"]), slice(left, left + values["width"])
    height, width = looked.picture.frames[0].shape[:2]
    if place[0].stop > height or place[1].stop > width:
        raise Refused(422, f"left, top, width, height: the picture has {width} x {height} pixels")
    uncertain = values.get("uncertainty", False)
    headers, profile = {}, looked.picture.metadata.icc_profile
    if denoiser is None:
        if uncertain:
            raise Refused(422, "uncertainty: the picture as it is (original) has none")
        frame = looked.picture.frames[0][place]
    else:
        result = _denoised_part(looked, denoiser, place, values, PROBES if uncertain else 0)
        frame = result.image.frames[0]
        if result.sigma is not None:
            headers["Denoise-Sigma"] = f"{float(result.sigma):.4g}"
    if uncertain:
        if result.uncertainty is None:
            raise Refused(422, f"uncertainty: {result.uncertainty_reason}")
        frame, profile = _gray_map(result.uncertainty), None
        headers["Denoise-Uncertainty-Scale"] = str(DEVIATION_SCALE)
        if result.interval_90 is not None:
            headers["Denoise-Interval-90"] = f"{result.interval_90:.4g}"
    else:
        frame = _eight_bits(frame, looked.value_range or looked.picture.value_range)
    if values.get("reduce", 1) > 1:
        frame = np.asarray(Image.fromarray(frame).reduce(values["reduce"]))
    if profile is not None and len(profile) > _LARGEST_PROFILE:
        profile = None
    stream = streams.BytesIO()
    write_picture(
        stream, picture_of(frame, metadata=Metadata(icc_profile=profile)), format="PNG"
    )  # fmt: skip
    return Answer(stream.getbuffer(), "image/png", headers)


def _denoised_part(
    looked: Looked, denoiser: Denoiser, place: Part, values: dict[str, Any], probes: int
) -> Result:
    sigma = values.get("sigma")
    treatment = looked.treatment if values["chooses"] and sigma is None else None
    if treatment is None and sigma is None:
        sigma = looked.estimate
    try:
        return denoiser.run_part(
            looked.picture, place, sigma, treatment=treatment, noise=looked.noise,
            uncertainty=probes, value_range=looked.value_range,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise Refused(422, _line(error)) from None
    except RuntimeError as error:
        raise _at_run_time(error) from None
    except MemoryError:
        raise no_memory() from None


def _gray_map(deviation: np.ndarray) -> np.ndarray:
    """Standard deviations, of colours their root mean square, as (H, W) uint8."""
    if deviation.ndim == 3:
        deviation = np.sqrt(np.square(deviation).mean(axis=2))
    return (DEVIATION_SCALE * deviation).round().clip(0, 255).astype(np.uint8)


def _eight_bits(frame: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Numbers as a screen has them: black 0, white 255."""
    if frame.dtype == np.uint8 and value_range == (0, 255):
        return np.ascontiguousarray(frame)
    low, high = value_range
    unit = (frame.astype(np.float32) - low) * (255 / (high - low))
    return np.nan_to_num(unit.round()).clip(0, 255).astype(np.uint8)


def no_memory() -> Refused:
    """The answer where the machine has no memory left."""
    return Refused(503, "there is not enough memory for this picture now", {"Retry-After": "5"})


def _at_run_time(error: RuntimeError) -> Refused:
    text = str(error)
    return no_memory() if "alloc" in text.lower() else Refused(422, _line(error))


def _line(error: BaseException) -> str:
    return reason_of(error)


def _ascii(text: str) -> str:
    """Text for a header: one line of ASCII."""
    return text.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ")
