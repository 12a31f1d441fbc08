"""The sections of a training configuration about data: images, guides, noise."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from denoise_ext.data.noise import NoiseStep
from denoise_ext.training.sections import (
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    Scale,
    Section,
)


class Source(Section):
    """One of several sets of images to train on."""

    train: str = Field(min_length=1, description="As data.train.")
    weight: PositiveFloat = Field(
        default=1.0, description="Its share of the crops, among all sources'."
    )
    scales: list[Scale] = Field(
        default_factory=lambda: [1.0],
        min_length=1,
        description="As data.scales, but need not begin with 1.0; held-out images have the first.",
    )
    denoise: NonNegativeFloat = Field(
        default=0.0,
        description="dxnet_s removes noise of this level (0-255 scale) from the images first, so "
        "that their grain is not learnt. 0: they stay as they are.",
    )
    leave_out: str = Field(
        default="",
        description="List file of names, one per line, of files that are not trained on; relative "
        "to the current directory.",
    )
    pairs: list[str] = Field(
        default_factory=list,
        description="For guided_denoising: two patterns below the folder, of the images and of "
        'their guides, e.g. ["Depth/*.png", "RGB/*.jpg"]; partners have the same text at the *.',
    )
    layered: bool = Field(
        default=False,
        description="For guided_denoising: made-up scenes with exact depth, whose surfaces are cut "
        "from these images; see data/layers.py.",
    )
    enlarged: Part = Field(
        default=0.0,
        description="For guided_denoising: part of the crops that are reduced by one of "
        "guide.factors and enlarged again, in place of noise.",
    )


class Data(Section):
    """What to train on."""

    train: str = Field(
        default="",
        description="Image folder or list file; relative to $DENOISE_EXT_DATA, or to the current "
        "directory where that is not set.",
    )
    sources: list[Source] = Field(
        default_factory=list,
        description="[[data.sources]] tables, instead of data.train and data.scales: several sets.",
    )
    pairs: list[str] = Field(
        default_factory=list,
        description="Two patterns below the folder data.train, of the noisy files and of their "
        'targets, e.g. ["*_real.JPG", "*_mean.JPG"]; partners have the same text at the *.',
    )
    part: list[Part] = Field(
        default_factory=lambda: [0.0, 1.0],
        description="Part of the sorted list of files to train on, as fractions.",
    )
    sigma: NonNegativeFloat = Field(
        default=0.0,
        description="Noise level of noisy files on the 0-255 scale, for networks that are "
        "conditioned on it and for SURE.",
    )
    match_means: bool = Field(
        default=False,
        description="Give the target crop of every pair the mean of its noisy crop, channel by "
        "channel: use it if takes of a scene differ in brightness. Validation uses the files as "
        "they are.",
    )
    channels: Literal[1, 3] = Field(
        default=1, description="1: gray (Pillow's L of colour images), 3: RGB."
    )
    crop: PositiveInt = Field(
        default=64,
        description="Side of the square training crops in pixels; for image_upscaling that of the "
        "large images.",
    )
    augment: bool = Field(default=True, description="Random flips and quarter turns.")
    permute_channels: bool = Field(
        default=False, description="Random order of the three colour channels, crop by crop."
    )
    sampling: Literal["image", "area"] = Field(
        default="image",
        description="image: every image, at each of its sizes, is drawn as often; area: in "
        "proportion to its pixels, so every place of a source as often.",
    )
    scales: list[Scale] = Field(
        default_factory=lambda: [1.0],
        min_length=1,
        description="Sizes every image is trained on at (Lanczos); DnCNN's were 1, 0.9, 0.8, 0.7.",
    )
    normalise: Literal["range", "stretch"] = Field(
        default="range",
        description="range: the file's full range becomes [0, 1]; stretch: the 0.1 and 99.9 "
        "percentiles of each image do (dark scans, microscopy).",
    )
    clips: list[str] = Field(
        default_factory=list,
        description="Video files, or folders of them, for video_denoising; paths as for train. "
        "They are used at half their size.",
    )
    clips_share: Part = Field(
        default=0.25,
        description="Part of the sequences that are taken from clips; the others are images in "
        "motion.",
    )
    frames: PositiveInt = Field(default=6, description="Frames of a sequence, for video_denoising.")
    cache: str = Field(
        default="auto",
        description='Folder for the decoded images, mapped into memory; "auto": '
        '$XDG_CACHE_HOME/denoise_ext or ~/.cache/denoise_ext; "off": decoded into memory.',
    )
    workers: NonNegativeInt = Field(
        default=1,
        description="Threads that prepare batches ahead of the step; same batches for any.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Data:
        if len(self.pairs) not in (0, 2):
            raise ValueError(f"pairs must be two patterns, noisy and target, got {self.pairs}")
        if len(self.part) != 2 or self.part[0] >= self.part[1]:
            raise ValueError(f"part must be [from, to] with 0 <= from < to <= 1, got {self.part}")
        if self.match_means and not self.pairs:
            raise ValueError("match_means is for data.pairs, and there are none")
        if self.scales[0] != 1.0:
            raise ValueError(f"scales must begin with 1.0, got {self.scales}")
        if self.train and self.sources:
            raise ValueError("either train or sources is required, and not both")
        if self.sources and (self.pairs or self.scales != [1.0] or self.part != [0.0, 1.0]):
            raise ValueError("pairs, scales and part are for data.train, not for data.sources")
        if self.normalise == "stretch" and any(source.denoise for source in self.sources):
            raise ValueError("sources.denoise needs normalise 'range'")
        if self.permute_channels and (self.channels != 3 or self.pairs):
            raise ValueError("permute_channels is for single files of 3 channels")
        return self

    @property
    def parts(self) -> list[Source]:
        """The sources, or data.train as the only one."""
        return self.sources or [Source(train=self.train, scales=self.scales)]


class Guide(Section):
    """What guided_denoising does with images and guides."""

    factors: list[Annotated[int, Field(ge=2, le=16)]] = Field(
        default_factory=lambda: [4, 8],
        min_length=1,
        description="By which images are reduced and enlarged again (data.sources.enlarged).",
    )
    wrong: Part = Field(
        default=0.1, description="Part of the crops that get the guide of another crop."
    )
    missing: Part = Field(default=0.05, description="Part of the crops that get a black guide.")
    shifted: Part = Field(
        default=0.25, description="Part of the crops whose guide is not quite aligned."
    )
    shift: NonNegativeInt = Field(
        default=2, description="Pixels by which such a guide is off at most, along each axis."
    )
    contrast: Part = Field(
        default=0.5,
        description="Part of the crops whose image gets another contrast; half of all crops are "
        "inverted.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Guide:
        if self.wrong + self.missing + self.shifted > 1:
            raise ValueError("wrong, missing and shifted must be at most 1 together")
        return self


class Noise(Section):
    """What is added to clean files; not clipped.

    Without a chain: white Gaussian noise, its sigma drawn uniformly for every crop.
    """

    sigma_min: NonNegativeFloat = Field(default=0.0, description="On the 0-255 scale.")
    sigma_max: NonNegativeFloat = Field(default=55.0, description="On the 0-255 scale.")
    chain: list[NoiseStep] = Field(
        default_factory=list,
        description="[[noise.chain]] tables, each a kind of noise, applied in their order.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Noise:
        if self.sigma_max < self.sigma_min:
            raise ValueError(f"sigma_max must be >= sigma_min ({self.sigma_min:g})")
        if self.chain and (self.sigma_min, self.sigma_max) != (0.0, 55.0):
            raise ValueError(
                "sigma_min and sigma_max are for noise without a chain; give them in a chain step "
                'of kind "gaussian"'
            )
        return self
