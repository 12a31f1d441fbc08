"""A whole training configuration: its sections, and what one requires of another."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from denoise_ext.training.data_sections import Data, Guide, Noise
from denoise_ext.training.sections import (
    GUIDED_DENOISING,
    IMAGE_COMPRESSION,
    IMAGE_DENOISING,
    IMAGE_UPSCALING,
    VIDEO_DENOISING,
    Head,
    Loss,
    Model,
    Optimiser,
    Run,
    Schedule,
    Section,
    Task,
    Teacher,
    Validation,
)

_OWN_TASKS = (
    IMAGE_DENOISING, VIDEO_DENOISING, IMAGE_UPSCALING, IMAGE_COMPRESSION, GUIDED_DENOISING,
)  # fmt: skip
_PEAK_AFTER_START = 1e-4


class TrainConfig(Section):
    """A whole training configuration.

    Example:
        >>> config = denoise_ext.training.TrainConfig.model_validate({
        ...     "data": {"train": "photos", "crop": 32},
        ...     "model": {"name": "dxnet_s_gray"},
        ...     "schedule": {"warmup_steps": 1},
        ...     "run": {"out": "runs/mine", "steps": 2},
        ... })
        >>> config.loss.target
        'clean'
    """

    data: Data = Field(default_factory=Data)
    noise: Noise = Field(default_factory=Noise)
    guide: Guide = Field(default_factory=Guide)
    model: Model
    loss: Loss = Field(default_factory=Loss)
    heads: list[Head] = Field(
        default_factory=list,
        description="[[heads]] tables, each an output that is trained beside the image.",
    )
    teacher: Teacher = Field(default_factory=Teacher)
    optimiser: Optimiser = Field(default_factory=Optimiser)
    schedule: Schedule = Field(default_factory=Schedule)
    validation: Validation = Field(default_factory=Validation)
    run: Run
    task: Task = Field(default_factory=Task)

    @property
    def files_are_noisy(self) -> bool:
        """Whether the noise is in the files already, so that none is added."""
        return bool(self.data.pairs) or self.loss.target != "clean"

    @model_validator(mode="before")
    @classmethod
    def _gentle(cls, tree: Any) -> Any:
        """The rate that random weights need would destroy those of ``model.start``."""
        model, schedule = (
            tree.get(name, {}) if isinstance(tree, dict) else None for name in ("model", "schedule")
        )
        if isinstance(model, dict) and isinstance(schedule, dict) and model.get("start"):
            return {**tree, "schedule": {"peak": _PEAK_AFTER_START, **schedule}}
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.task.name in _OWN_TASKS and not (self.data.train or self.data.sources):
            raise ValueError("data: either train or sources is required, and not both")
        if self.schedule.warmup_steps >= self.run.steps:
            raise ValueError(
                f"schedule.warmup_steps must be below run.steps ({self.run.steps}), "
                f"got {self.schedule.warmup_steps}"
            )
        if self.task.name in _OWN_TASKS and self.task.options:
            raise ValueError(f"task.options are for tasks of your own, got {self.task.options}")
        if self.task.name in _OWN_TASKS:
            self._noise_and_crop_consistent()
        if self.task.name == IMAGE_DENOISING:
            self._images_consistent()
        elif self.task.name in _OWN_TASKS and (self.loss.adversarial or self.loss.divergence):
            raise ValueError(
                "loss.adversarial and loss.divergence need task.name "
                f"{IMAGE_DENOISING!r}, got {self.task.name!r}"
            )
        if self.task.name == VIDEO_DENOISING:
            self._video_consistent()
        if self.task.name in (IMAGE_UPSCALING, IMAGE_COMPRESSION, GUIDED_DENOISING):
            self._clean_files_alone()
        if self.task.name in _OWN_TASKS:
            self._guides_consistent()
            self._heads_consistent()
        self._teacher_consistent()
        if self.task.name == IMAGE_COMPRESSION:
            self._compression_consistent()
        if self.validation.patience and not self.validation.images:
            raise ValueError("validation.images must be >= 1 where validation.patience is given")
        return self

    def _noise_and_crop_consistent(self) -> None:
        """Check what all tasks of this package have in common."""
        kinds = {step.kind for step in self.noise.chain}
        if self.task.name != VIDEO_DENOISING:
            if self.data.clips:
                raise ValueError(
                    f"data.clips need task.name 'video_denoising', got {self.data.clips}"
                )
            if self.loss.flicker:
                raise ValueError(
                    f"loss.flicker needs task.name 'video_denoising', got {self.task.name!r}"
                )
            if "h264" in kinds:
                raise ValueError(
                    "noise kind 'h264' is for clips: it needs task.name 'video_denoising'"
                )
        if self.data.channels != 3 and "photo" in kinds:
            raise ValueError(f"noise kind 'photo' needs data.channels 3, got {self.data.channels}")
        if self.loss.name == "ssim" and self.data.crop < 11:
            raise ValueError(f"data.crop must be >= 11 for the ssim loss, got {self.data.crop}")

    def _images_consistent(self) -> None:
        """Check images, their noise and the loss against one another."""
        target, pairs = self.loss.target, self.data.pairs
        if self.files_are_noisy and self.noise != Noise():
            raise ValueError(
                "noise is only added to clean files: leave the section out where data.pairs is "
                f"given or loss.target is not 'clean' (it is {target!r})"
            )
        if self.data.match_means and target in ("blind_spot", "sure"):
            raise ValueError(
                f"data.match_means has no effect with loss.target {target!r}, which learns from "
                "the noisy files alone"
            )
        if target == "noise2noise" and not pairs:
            raise ValueError("data.pairs is required by loss.target 'noise2noise'")
        if target == "sure" and not self.data.sigma:
            raise ValueError("data.sigma must be > 0 for loss.target 'sure', got 0")
        if target == "sure" and (self.loss.name != "mse" or self.run.precision != "fp32"):
            raise ValueError(
                "loss.target 'sure' estimates the mse from small differences: it needs loss.name "
                f"'mse' and run.precision 'fp32', got {self.loss.name!r}, {self.run.precision!r}"
            )
        if target in ("blind_spot", "sure") and self.validation.images and not pairs:
            raise ValueError(
                f"validation.images must be 0 for loss.target {target!r} without data.pairs: "
                f"there is no clean image to compare with, got {self.validation.images}"
            )
        if target == "blind_spot" and (self.data.crop < 8 or self.loss.name == "ssim"):
            raise ValueError(
                "loss.target 'blind_spot' compares single pixels, one of every 8 x 8: it needs "
                f"data.crop >= 8 and no 'ssim', got {self.data.crop} and {self.loss.name!r}"
            )
        if self.loss.adversarial and (target != "clean" or self.loss.noise_scale):
            raise ValueError(
                "loss.adversarial compares outputs with clean images: it needs loss.target 'clean' "
                f"and loss.noise_scale 0, got {target!r} and {self.loss.noise_scale:g}"
            )
        alone = self.loss.adversarial or self.loss.noise_level or self.loss.noise_scale
        if self.loss.divergence and (target != "clean" or alone):
            raise ValueError(
                "loss.divergence needs loss.target 'clean', without loss.adversarial, "
                f"loss.noise_level and loss.noise_scale, got target {target!r}"
            )
        if self.loss.adversarial and self.data.crop % 4:
            raise ValueError(
                f"data.crop must be a multiple of 4 for loss.adversarial, got {self.data.crop}"
            )
        if (self.loss.noise_level or self.loss.noise_scale) and target != "clean":
            raise ValueError(
                f"loss.noise_level and loss.noise_scale need loss.target 'clean', got {target!r}"
            )

    def _video_consistent(self) -> None:
        """What video is not trained with, yet."""
        if self.files_are_noisy or self.loss.noise_scale:
            raise ValueError(
                "task.name 'video_denoising' needs clean files and loss.target 'clean', without "
                "data.pairs and loss.noise_scale"
            )
        if self.loss.flicker and self.loss.name == "ssim":
            raise ValueError("loss.flicker compares changes: loss.name must not be 'ssim'")
        if self.loss.flicker and self.data.frames < 2:
            raise ValueError(
                f"loss.flicker compares frames: data.frames must be >= 2, got {self.data.frames}"
            )
        if self.data.permute_channels or not self.data.augment:
            raise ValueError(
                "task.name 'video_denoising' does not take data.permute_channels or data.augment"
            )

    def _clean_files_alone(self) -> None:
        """Upscalers and codecs are trained on clean files alone."""
        if self.files_are_noisy or self.loss.noise_level or self.loss.noise_scale:
            raise ValueError(
                f"task.name {self.task.name!r} needs clean files and loss.target 'clean', without "
                "data.pairs, loss.noise_level and loss.noise_scale"
            )

    def _guides_consistent(self) -> None:
        """Pairs of image and guide are for the guided task, which has no other sources."""
        guided = self.task.name == GUIDED_DENOISING
        if not guided:
            if self.guide != Guide():
                raise ValueError(f"guide needs task.name {GUIDED_DENOISING!r}")
            if any(s.pairs or s.layered or s.enlarged for s in self.data.sources):
                raise ValueError(
                    "data.sources.pairs, layered and enlarged need task.name"
                    f" {GUIDED_DENOISING!r}, got {self.task.name!r}"
                )
            return
        if not self.data.sources:
            raise ValueError(f"task.name {GUIDED_DENOISING!r} needs data.sources")
        for source in self.data.sources:
            if source.layered == bool(source.pairs) or len(source.pairs) not in (0, 2):
                raise ValueError(
                    f"data.sources: {source.train!r} needs either pairs, two patterns, or layered,"
                    f" got {source.pairs}"
                )
            if source.scales != [1.0] or source.denoise:
                raise ValueError(f"task.name {GUIDED_DENOISING!r} takes no scales and no denoise")
        if self.noise.chain or self.data.channels != 1:
            raise ValueError(
                f"task.name {GUIDED_DENOISING!r} needs data.channels 1 and noise without a chain"
            )
        for name in ("augment", "normalise", "sampling"):
            if getattr(self.data, name) != getattr(Data(), name):
                raise ValueError(
                    f"task.name {GUIDED_DENOISING!r} does not take data.{name}, got"
                    f" {getattr(self.data, name)!r}"
                )

    def _heads_consistent(self) -> None:
        """Check heads against one another and the rest."""
        names = [head.output for head in self.heads]
        if not names:
            return
        if self.task.name not in (IMAGE_DENOISING, GUIDED_DENOISING):
            raise ValueError(
                f"heads need task.name {IMAGE_DENOISING!r} or {GUIDED_DENOISING!r}, got"
                f" {self.task.name!r}"
            )
        if len(set(names)) < len(names) or "image" in names:
            raise ValueError(
                f"heads must each have another output, and the image's loss is loss.name: {names}"
            )
        loss = self.loss
        others = loss.noise_level or loss.noise_scale or loss.adversarial or loss.divergence
        if others or self.files_are_noisy:
            raise ValueError(
                "heads need clean files and loss.target 'clean', without loss.noise_level,"
                " noise_scale, adversarial and divergence"
            )

    def _teacher_consistent(self) -> None:
        """Teachers replace the clean image, which other losses need as it is."""
        if not self.teacher.networks:
            if self.teacher != Teacher():
                raise ValueError("teacher.networks is required by teacher.weight")
            return
        loss = self.loss
        others = loss.noise_scale or loss.adversarial or loss.divergence
        if self.task.name != IMAGE_DENOISING or self.files_are_noisy or others:
            raise ValueError(
                f"teacher.networks need task.name {IMAGE_DENOISING!r}, clean files and loss.target"
                " 'clean', without loss.noise_scale, adversarial and divergence"
            )

    def _compression_consistent(self) -> None:
        """The error of a codec is the mean squared one."""
        if self.loss.name != "mse":
            raise ValueError(
                f"task.name 'image_compression' needs loss.name 'mse', got {self.loss.name!r}"
            )
        if self.loss.tradeoff[0] >= self.loss.tradeoff[1]:
            raise ValueError(f"loss.tradeoff must increase, got {self.loss.tradeoff}")
