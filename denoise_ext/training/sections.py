"""The sections of a training configuration: every key, its range, its default."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from denoise_ext.data.noise import NoiseStep

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Part = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(gt=0, le=1)]

IMAGE_DENOISING = "image_denoising"
VIDEO_DENOISING = "video_denoising"
IMAGE_UPSCALING = "image_upscaling"
IMAGE_COMPRESSION = "image_compression"
GUIDED_DENOISING = "guided_denoising"


class Section(BaseModel):
    """Keys that nobody declared are errors."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, strict=True)


class Task(Section):
    """What the network learns; see ``register_task`` in ``task.py``."""

    name: str = Field(
        default=IMAGE_DENOISING,
        description="image_denoising, video_denoising, image_upscaling, image_compression, "
        "guided_denoising, or a registered task of your own.",
    )
    options: dict[str, bool | int | float | str | list[int]] = Field(
        default_factory=dict, description="Of a task of your own."
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


class Model(Section):
    """The network: a registered model and changes to its defaults, or what a checkpoint holds."""

    name: str = Field(
        default="", description="Registered model; empty: the one that `start` holds."
    )
    options: dict[str, bool | int | float | str | list[int]] = Field(
        default_factory=dict, description="See the model's class in denoise_ext/models."
    )
    start: str = Field(
        default="",
        description="Weights training starts from: a model with shipped weights, or a checkpoint "
        "file relative to the current directory; empty: random weights.",
    )
    new: list[str] = Field(
        default_factory=list,
        description="Parameters that `start` does not hold, or holds in another shape, and that "
        'begin at random, as patterns of their names: ["estimator.*"].',
    )
    freeze: list[str] = Field(
        default_factory=list,
        description='Parameters that stay as they are, as patterns of their names: ["body.0.*"].',
    )

    @field_validator("options", mode="before")
    @classmethod
    def _plain(cls, options: object) -> object:
        """One message for all the kinds of values that are allowed, not one for each."""
        for key, value in options.items() if isinstance(options, dict) else ():
            numbers = isinstance(value, list) and all(type(item) is int for item in value)
            if not (numbers or isinstance(value, (bool, int, float, str))):
                raise ValueError(
                    f"{key} must be a number, true or false, a text or a list of whole numbers, "
                    f"got {value!r}"
                )
        return options

    @model_validator(mode="after")
    def _given(self) -> Model:
        if not (self.name or self.start):
            raise ValueError("name (a registered model) or start (a checkpoint) is required")
        if self.options and not self.name:
            raise ValueError("options change a registered model: give its name")
        if self.new and not (self.name and self.start):
            raise ValueError("new is for a registered model (name) with the weights of start")
        return self


class Loss(Section):
    """What is minimised: a distance to a target, plus weight decay."""

    name: Literal["mse", "l1", "charbonnier", "ssim", "psnr", "rmse"] = Field(
        default="mse", description="See denoise_ext/training/losses.py; ssim: mixed with l1."
    )
    ssim_weight: Part = Field(default=0.84, description="Part of 1 - SSIM in the loss `ssim`.")
    target: Literal["clean", "noise2noise", "blind_spot", "sure"] = Field(
        default="clean",
        description="clean: noise is added to clean files, or data.pairs are (noisy, clean); "
        "noise2noise: data.pairs are two noisy takes; blind_spot, sure: files are noisy.",
    )
    noise_level: NonNegativeFloat = Field(
        default=0.0,
        description="Weight of the squared error of the logarithm of the noise level, for networks "
        "that estimate it.",
    )
    noise_scale: Part = Field(
        default=0.0,
        description="Part of the crops that are trained at another noise_scale than 1, for "
        "networks that have one; see objectives.py.",
    )
    adversarial: NonNegativeFloat = Field(
        default=0.0,
        description="Weight of a second network's judgement whether an image is an output or "
        "clean; it is trained, too. See adversarial.py. 0: there is none.",
    )
    discriminator_rate: PositiveFloat = Field(
        default=2e-4, description="Learning rate of that network (Adam), the same at every step."
    )
    divergence: NonNegativeFloat = Field(
        default=0.0,
        description="Weight of the divergence of a code's posterior from its prior, for networks "
        "with a code (dxnet_vae); at 1 the loss `psnr` is the evidence lower bound.",
    )
    divergence_warmup: NonNegativeInt = Field(
        default=0, description="Steps in which that weight rises from 0."
    )
    divergence_free: NonNegativeFloat = Field(
        default=0.0,
        description="Divergence that costs nothing, in nats for each value of an image (free "
        "bits).",
    )
    tradeoff: list[PositiveFloat] = Field(
        default_factory=lambda: [0.0015, 0.07],
        min_length=2,
        max_length=2,
        description="For image_compression: bits per pixel that a unit of mean squared error "
        "(0-255 scale) is worth, at the lowest and at the highest level.",
    )
    truncate: NonNegativeInt = Field(
        default=0,
        description="Frames after which the state is cut off from the gradient (truncated "
        "back-propagation through time); 0: never.",
    )
    weight_decay: NonNegativeFloat = 0.0
    decay: Literal["classic", "decoupled"] = Field(
        default="classic",
        description="classic: weight_decay / 2 * sum(w^2) is part of the loss; decoupled: every "
        "step subtracts learning rate * weight_decay * w (AdamW).",
    )


class Head(Section):
    """An output that is trained beside the image; its loss is logged as ``loss_OUTPUT``.

    Example:
        >>> denoise_ext.training.Head(output="normals", loss="angle", weight=0.1).loss
        'angle'
    """

    output: str = Field(
        min_length=1,
        description="Of the network: noise_level, normals, or one that a task of your own has "
        "targets for.",
    )
    loss: Literal["mse", "l1", "charbonnier", "psnr", "rmse", "log", "angle"] = Field(
        default="mse",
        description="As loss.name, or log: squared error of the logarithm of the output's mean "
        "over an image; angle: one minus the cosine of the angle between vectors.",
    )
    weight: PositiveFloat = Field(default=1.0, description="In the sum; the image's loss has 1.")


class Optimiser(Section):
    """Adam (Kingma, Ba 2015), or Muon (``muon.py``; beta1 0.95 and rates near 0.005 suit it)."""

    name: Literal["adam", "muon"] = "adam"
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    eps: PositiveFloat = 1e-8
    clip_norm: NonNegativeFloat = Field(
        default=0.0,
        description="Largest norm of the gradient of all weights together; 0: no limit.",
    )
    ema: Probability = Field(
        default=0.0,
        description="Decay of a running mean of the weights, which is validated and kept as the "
        "result (e.g. 0.999); 0: the weights themselves.",
    )


class Schedule(Section):
    """Learning rate: linear warm-up from 0 to peak, then a half cosine down to final."""

    peak: PositiveFloat = Field(default=1e-3, description="Default with model.start: 1e-4.")
    final: NonNegativeFloat = 1e-6
    warmup_steps: NonNegativeInt = 300

    @model_validator(mode="after")
    def _falls(self) -> Schedule:
        if self.final > self.peak:
            raise ValueError(f"final must be <= peak ({self.peak:g}), got {self.final:g}")
        return self


class Validation(Section):
    """PSNR on training images that are held out (never trained on)."""

    images: NonNegativeInt = Field(default=8, description="How many; spread evenly over the list.")
    clips: NonNegativeInt = Field(
        default=2, description="How many of data.clips are held out; spread evenly over the list."
    )
    frames: PositiveInt = Field(default=16, description="Frames of a held-out sequence.")
    crop: PositiveInt = Field(
        default=256, description="Largest side of the centre crop that is used."
    )
    sigmas: list[NonNegativeFloat] = Field(default_factory=lambda: [15.0, 25.0, 50.0], min_length=1)
    every: PositiveInt = Field(default=1000, description="Steps between validations.")
    patience: NonNegativeInt = Field(
        default=0,
        description="Stop after this many validations in a row without a better mean PSNR, and "
        "keep the best weights as the result; 0: never.",
    )
    samples: NonNegativeInt = Field(
        default=4, description="Held-out images shown in samples/ at each validation."
    )


class Run(Section):
    """How the run is carried out."""

    out: str = Field(min_length=1, description="Run directory, relative to the current one.")
    steps: PositiveInt
    minutes: NonNegativeFloat = Field(
        default=0.0,
        description="Stop after this long, with a checkpoint; the same command continues. 0: no "
        "limit.",
    )
    batch_size: PositiveInt = Field(
        default=16, description="Crops per step (and per process, if several)."
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: a GPU if torch finds one."
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="bf16: torch.autocast; weights, loss and optimiser stay float32.",
    )
    layers: Literal["denoise_ext", "torch"] = Field(
        default="denoise_ext",
        description="Which convolution layers train; the weights are the same.",
    )
    threads: NonNegativeInt = Field(default=0, description="CPU threads; 0: torch's default.")
    checkpoint_every: PositiveInt = 1000
    log_every: PositiveInt = 100
    tensorboard: Literal["auto", "on", "off"] = Field(
        default="auto", description="Also log for TensorBoard; auto: where it is installed."
    )
