"""The sections of a training configuration: every key, its range, its default."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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
    flicker: NonNegativeFloat = Field(
        default=0.0,
        description="Video: weight of the distance between the change from frame to frame and that "
        "of the target.",
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


class Teacher(Section):
    """Networks that others learn from; see ``teaching.py``."""

    networks: list[str] = Field(
        default_factory=list,
        description="Their mean output is part of the target: models with shipped weights, or "
        "checkpoint files relative to the current directory.",
    )
    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="Of that mean in the target; the clean image has the rest."
    )


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
