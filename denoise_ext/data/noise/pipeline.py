"""Random noise for training: kinds with ranges, one after the other.

A step draws its strength anew for every image, from the range it is given; its fields are the keys
of a ``[[noise.chain]]`` table in a training configuration. What image ``index`` of step ``step``
gets is a function of (seed, step, index): it does not depend on the batch or the process it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from denoise_ext.data.noise._draw import ClipGenerators, uniform
from denoise_ext.data.noise.banding import add_banding_noise
from denoise_ext.data.noise.gaussian import add_gaussian_noise
from denoise_ext.data.noise.h264 import add_h264_artefacts
from denoise_ext.data.noise.impulse import add_salt_and_pepper_noise
from denoise_ext.data.noise.jpeg import add_jpeg_artefacts
from denoise_ext.data.noise.magnetic import add_rician_noise
from denoise_ext.data.noise.photo import PhotoNoise, add_photo_noise
from denoise_ext.data.noise.photons import (
    add_poisson_gaussian_noise,
    add_poisson_noise,
    iso_noise,
)
from denoise_ext.data.noise.speckle import add_speckle_noise
from denoise_ext.data.noise.tone import linear_to_srgb, srgb_to_linear
from denoise_ext.data.random import NOISE, image_generator

Generators = Sequence[torch.Generator]
_SIGMA = Field(ge=0, allow_inf_nan=False, description="On the 0-255 scale.")
Share = Annotated[float, Field(ge=0, le=1)]
_MAP_GRID = 4  # a map of sigma is interpolated from this many random values on each side


class _Step(BaseModel):
    """One kind of noise; ``X_min`` and ``X_max`` are the range that X is drawn from."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, strict=True)

    probability: float = Field(1.0, gt=0, le=1, description="That an image gets this step at all.")

    @model_validator(mode="after")
    def _ordered(self) -> _Step:
        for name in type(self).model_fields:
            stem, _, end = name.rpartition("_")
            if end == "max" and getattr(self, name) < getattr(self, f"{stem}_min"):
                low = getattr(self, f"{stem}_min")
                raise ValueError(f"{name} must be >= {stem}_min ({low:g})")
        return self

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """Noise on x (N, C, H, W); ``draws`` (N,) in [0, 1) place each strength in its range."""
        raise NotImplementedError


def _linear(low: float, high: float, draws: np.ndarray) -> Tensor:
    return torch.from_numpy(low + (high - low) * draws)


def _logarithmic(low: float, high: float, draws: np.ndarray) -> Tensor:
    return torch.from_numpy(low * (high / low) ** draws)


class GaussianStep(_Step):
    """White Gaussian noise, sigma uniform in its range, for the image or for each place of it."""

    kind: Literal["gaussian"]
    sigma_min: Annotated[float, _SIGMA] = 0.0
    sigma_max: Annotated[float, _SIGMA] = 55.0
    varying: bool = Field(False, description="A smooth map of sigma instead of one per image.")

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        if not self.varying:
            sigma = _linear(self.sigma_min, self.sigma_max, draws).to(x)
            return add_gaussian_noise(x, sigma, generators)
        grid = uniform(x, generators, (len(x), 1, _MAP_GRID, _MAP_GRID), common=True)
        smooth = F.interpolate(grid, x.shape[2:], mode="bilinear", align_corners=True)
        return add_gaussian_noise(
            x, self.sigma_min + (self.sigma_max - self.sigma_min) * smooth, generators
        )


class PoissonStep(_Step):
    """Shot noise, the number of photons log-uniform in its range."""

    kind: Literal["poisson"]
    photons_min: float = Field(gt=0, le=2**24, description="Electrons at white.")
    photons_max: float = Field(gt=0, le=2**24, description="Electrons at white.")

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        photons = _logarithmic(self.photons_min, self.photons_max, draws)
        return add_poisson_noise(x, photons, generators)


class CameraStep(_Step):
    """Shot and read noise of a profiled camera, its ISO log-uniform in the range."""

    kind: Literal["camera"]
    iso_min: float = Field(100.0, ge=100, le=25600)
    iso_max: float = Field(25600.0, ge=100, le=25600)
    exposure: float = Field(
        1.0, gt=0, le=1,
        description="Part of the light that white got: 0.1 is a picture brightened ten times.",
    )  # fmt: skip
    srgb: bool = Field(
        True, description="Images are sRGB: noise is added to linear light, then encoded again."
    )

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        levels = [iso_noise(min(float(iso), self.iso_max)) for iso in
                  _logarithmic(self.iso_min, self.iso_max, draws)]  # fmt: skip
        shot, read = (torch.tensor(values) / self.exposure for values in zip(*levels))
        light = srgb_to_linear(x) if self.srgb else x
        noisy = add_poisson_gaussian_noise(light, shot, read, generators)
        return linear_to_srgb(noisy) if self.srgb else noisy


class PoissonGaussianStep(_Step):
    """Shot noise (log-uniform) and read noise (uniform), independent of each other."""

    kind: Literal["poisson_gaussian"]
    shot_min: float = Field(ge=2**-24, allow_inf_nan=False, description="Variance at white.")
    shot_max: float = Field(ge=2**-24, allow_inf_nan=False, description="Variance at white.")
    read_min: float = Field(0.0, ge=0, allow_inf_nan=False, description="In units of white.")
    read_max: float = Field(0.0, ge=0, allow_inf_nan=False, description="In units of white.")

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        second = uniform(x, generators, (len(x), 1), common=True).cpu().numpy()[:, 0]
        shot = _logarithmic(self.shot_min, self.shot_max, draws)
        read = _linear(self.read_min, self.read_max, second)
        return add_poisson_gaussian_noise(x, shot, read, generators)


class SpeckleStep(_Step):
    """Multiplicative noise, its contrast uniform in the range."""

    kind: Literal["speckle"]
    contrast_min: float = Field(ge=0, allow_inf_nan=False, description="Deviation over mean.")
    contrast_max: float = Field(ge=0, allow_inf_nan=False, description="Deviation over mean.")

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        contrast = _linear(self.contrast_min, self.contrast_max, draws)
        return add_speckle_noise(x, contrast, generators)


class SaltAndPepperStep(_Step):
    """Dead and hot pixels, their part of the image uniform in the range."""

    kind: Literal["salt_and_pepper"]
    amount_min: float = Field(ge=0, le=1)
    amount_max: float = Field(ge=0, le=1)

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        amount = _linear(self.amount_min, self.amount_max, draws)
        return add_salt_and_pepper_noise(x, amount, generator=generators)


class JpegStep(_Step):
    """JPEG compression, its quality uniform in the range."""

    kind: Literal["jpeg"]
    quality_min: float = Field(ge=1, le=100)
    quality_max: float = Field(ge=1, le=100)

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        return add_jpeg_artefacts(x, _linear(self.quality_min, self.quality_max, draws))


class H264Step(_Step):
    """H.264 compression of a clip, its constant rate factor uniform in the range."""

    kind: Literal["h264"]
    crf_min: int = Field(18, ge=0, le=51)
    crf_max: int = Field(34, ge=0, le=51)

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`; x is the frames of one clip (T, C, H, W)."""
        crf = int(self.crf_min + (self.crf_max - self.crf_min + 1) * float(draws[0]))
        return add_h264_artefacts(x, crf)


class RicianStep(_Step):
    """Noise of magnitude images (MRI), sigma uniform in the range."""

    kind: Literal["rician"]
    sigma_min: Annotated[float, _SIGMA]
    sigma_max: Annotated[float, _SIGMA]

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        return add_rician_noise(x, _linear(self.sigma_min, self.sigma_max, draws), generators)


class BandingStep(_Step):
    """Rows or columns with an offset of their own, sigma uniform in the range."""

    kind: Literal["banding"]
    sigma_min: Annotated[float, _SIGMA]
    sigma_max: Annotated[float, _SIGMA]
    direction: Literal["rows", "columns"] = "rows"

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        sigma = _linear(self.sigma_min, self.sigma_max, draws)
        return add_banding_noise(x, sigma, self.direction, generators)


class PhotoStep(_Step):
    """A camera's picture: sensor, demosaicing, noise reduction, JPEG; for colour images."""

    kind: Literal["photo"]
    shot_min: float = Field(1.5e-5, ge=1e-8, le=1, description="Variance of the sensor at white.")
    shot_max: float = Field(0.012, ge=1e-8, le=1, description="Variance of the sensor at white.")
    black: float = Field(
        0.0, ge=0, le=10, description="Error of the black level, in deviations of the read noise."
    )
    smoothed: Share = Field(0.5, description="Of the pictures: noise smoothed by the camera.")
    luma_min: float = Field(1.0, gt=0, le=255, description="Of smoothed noise, 0-255 scale.")
    luma_max: float = Field(10.0, gt=0, le=255, description="Of smoothed noise, 0-255 scale.")
    jpeg: Share = Field(0.75, description="Of the camera's pictures: stored as JPEG.")
    developed: Share = Field(
        0.0, description="Of the camera's pictures: by a raw developer, smoothed little or not."
    )
    white: Share = Field(0.15, description="Of the pictures: white Gaussian noise instead.")
    white_sigma: Annotated[float, _SIGMA] = 50.0
    clean: Share = Field(0.05, description="Of the pictures: left as they are.")

    @model_validator(mode="after")
    def _whole(self) -> PhotoStep:
        if self.white + self.clean > 1:
            raise ValueError(f"white + clean must be <= 1, got {self.white} + {self.clean}")
        return self

    def add(self, x: Tensor, draws: np.ndarray, generators: Generators) -> Tensor:
        """See `_Step.add`."""
        names = [field.name for field in fields(PhotoNoise)]
        return add_photo_noise(
            x, PhotoNoise(**{name: getattr(self, name) for name in names}), generators
        )


STEP_KINDS: dict[str, type[_Step]] = {
    "gaussian": GaussianStep,
    "poisson": PoissonStep,
    "poisson_gaussian": PoissonGaussianStep,
    "camera": CameraStep,
    "speckle": SpeckleStep,
    "salt_and_pepper": SaltAndPepperStep,
    "jpeg": JpegStep,
    "h264": H264Step,
    "rician": RicianStep,
    "banding": BandingStep,
    "photo": PhotoStep,
}
NoiseStep = Annotated[
    GaussianStep
    | PoissonStep
    | PoissonGaussianStep
    | CameraStep
    | SpeckleStep
    | SaltAndPepperStep
    | JpegStep
    | H264Step
    | RicianStep
    | BandingStep
    | PhotoStep,
    Field(discriminator="kind"),
]


def add_noise_chain(
    x: Tensor, steps: Sequence[NoiseStep], seed: int, step: int, first: int = 0
) -> tuple[Tensor, Tensor]:
    """The steps one after the other on a batch.

    Args:
        x: (N, C, H, W) in [0, 1].
        steps: kinds of noise with their ranges, first applied first.
        seed, step: of the training run.
        first: index of ``x[0]`` within the whole batch of this step.

    Returns:
        The noisy images, and (N,) the root mean square of the added noise, on the 0-255 scale: the
        noise level for networks that are conditioned on it.

    Example:
        >>> from pydantic import TypeAdapter
        >>> steps = TypeAdapter(list[denoise_ext.data.noise.NoiseStep]).validate_python(
        ...     [{"kind": "poisson", "photons_min": 100.0, "photons_max": 900.0},
        ...      {"kind": "jpeg", "quality_min": 80, "quality_max": 95}]
        ... )
        >>> x = torch.full((2, 3, 32, 32), 0.5)
        >>> noisy, sigma = denoise_ext.data.noise.add_noise_chain(x, steps, seed=0, step=3)
        >>> noisy.shape, sigma.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2]))
    """
    clean = x
    for place, kind in enumerate(steps):
        indices = range(first, first + len(x))
        sources = [image_generator(seed, step, NOISE, index, place) for index in indices]
        draws = np.array([source.random(2) for source in sources]).reshape(-1, 2)
        seeds = [int(source.integers(2**63)) for source in sources]
        generators = [torch.Generator(x.device).manual_seed(value) for value in seeds]
        noisy = kind.add(x, draws[:, 0], generators)
        hit = torch.from_numpy(draws[:, 1] < kind.probability).to(x.device)
        x = torch.where(hit.reshape(-1, 1, 1, 1), noisy, x)
    added = (x - clean).square().flatten(1).mean(dim=1).sqrt() * 255.0
    return x, added


def add_clip_noise_chain(
    clip: Tensor, steps: Sequence[NoiseStep], seed: int, step: int, index: int
) -> tuple[Tensor, float]:
    """The steps one after the other on the frames of a clip.

    Strengths and the settings of a camera are drawn once for all frames, noise for each of them.

    Args:
        clip: (T, C, H, W) in [0, 1].
        steps: kinds of noise with their ranges, first applied first.
        seed, step: of the training run.
        index: of the clip within the whole batch of this step.

    Returns:
        The noisy clip, and the root mean square of the added noise, on the 0-255 scale.

    Example:
        >>> from pydantic import TypeAdapter
        >>> steps = TypeAdapter(list[denoise_ext.data.noise.NoiseStep]).validate_python(
        ...     [{"kind": "gaussian", "sigma_min": 20.0, "sigma_max": 20.0}]
        ... )
        >>> clip = torch.full((5, 1, 32, 32), 0.5)  # (T, C, H, W)
        >>> noisy, sigma = denoise_ext.data.noise.add_clip_noise_chain(clip, steps, 0, 3, index=0)
        >>> round(sigma)
        20
    """
    x = clip
    for place, kind in enumerate(steps):
        source = image_generator(seed, step, NOISE, index, place)
        draw, chance = source.random(2)
        seeds = [int(source.integers(2**63)) for _ in range(len(x) + 1)]
        common, *frames = (torch.Generator(x.device).manual_seed(value) for value in seeds)
        if chance < kind.probability:
            x = kind.add(x, np.full(len(x), draw), ClipGenerators(frames, common))
    return x, float((x - clip).square().mean().sqrt()) * 255.0
