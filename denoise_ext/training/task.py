"""The parts of a training task: sampler, objective, validator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from denoise_ext.metrics.protocol import Method, Sample, measure
from denoise_ext.models import Network
from denoise_ext.models.network import Tensors
from denoise_ext.models.registry import IMPORT_HINT
from denoise_ext.training.distributed import Processes
from denoise_ext.training.schema import TrainConfig

CHAIN_STEP = 2**47  # steps from here on are validation's: no training gets there
Label = float | str  # sigma of white Gaussian noise on the 0-255 scale; "chain"; "pairs"; ...
INDEX = "index"
"""Key of a sample's tensor (N,) of whole numbers: the place of each image among those that all
processes have in this step.  It stays on the CPU, as random choices are drawn from it."""

Trained = Callable[[Tensors], Tensors]
"""The network in training: from inputs to float32 outputs, (N, C, H, W) or frames (N, T, C, H, W),
the state carried from frame to frame; `models.frames.compute_frames`."""


def label_text(label: Label) -> str:
    """As in the log's columns and the result's metadata."""
    return label if isinstance(label, str) else f"{label:g}"


class Sampler(ABC):
    """Base of what makes the samples of every step.

    Example:
        >>> from denoise_ext.metrics.protocol import as_sample
        >>> class Flat(denoise_ext.training.Sampler):  # gray squares
        ...     def batch(self, step):
        ...         clean = torch.full((4, 1, 32, 32), step % 10 / 10)
        ...         noisy = denoise_ext.data.add_gaussian_noise(clean, 25.0)
        ...         level = torch.full((4, 1, 1, 1), 25 / 255)
        ...         return as_sample({"image": noisy, "noise_map": level}, {"image": clean})
        >>> sorted(Flat().batch(0))
        ['inputs.image', 'inputs.noise_map', 'targets.image']
    """

    files: Mapping[str, int | str] = {}
    """Identifies the data.  A run continues only with the data that it began with."""

    @abstractmethod
    def batch(self, step: int) -> Sample:
        """The sample of a step, on the CPU; a function of the seed and the step alone.

        It runs in other threads, ahead of the step and in any order.
        """

    def finish(self, sample: Sample, step: int) -> Sample:
        """What is left to do on the device; by default nothing."""
        return sample


class Objective(Protocol):
    """What a step minimises.  Random choices are functions of (seed, step, index of the image)."""

    parts: tuple[str, ...]
    """Names of the scalars beside the loss, which become columns of log.csv."""

    def __call__(
        self, network: Trained, sample: Sample, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and a scalar for each of ``parts``."""
        ...


@runtime_checkable
class LearningObjective(Objective, Protocol):
    """An objective with weights of its own, which a run saves and continues with.

    Example:
        >>> plain = denoise_ext.training.Supervised(torch.nn.functional.mse_loss)
        >>> isinstance(plain, denoise_ext.training.LearningObjective)
        False
    """

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`.  Raises RuntimeError or ValueError where it does not fit."""
        ...


class Validator(ABC):
    """Base of what judges a network on samples that it is not trained on.

    Example:
        >>> from denoise_ext.metrics.protocol import as_sample
        >>> class Grays(denoise_ext.training.Validator):
        ...     labels = (25.0,)
        ...     def samples(self, label):
        ...         clean = torch.full((1, 1, 32, 32), 0.5)
        ...         yield as_sample({"image": clean + 0.1}, {"image": clean})
        ...     def figures(self, outputs, sample):
        ...         truth = sample["targets.image"]
        ...         return {"psnr": float(denoise_ext.metrics.psnr(outputs["image"], truth))}
        >>> values, pictures = Grays()(lambda inputs: inputs)  # a network that changes nothing
        >>> round(values[25.0]["psnr"])
        20
    """

    metric = "psnr"
    """The figure that decides which weights are best."""
    unit = "dB"
    digits = 3
    """Decimals of the figures in log.csv."""
    higher_is_better = True
    others: tuple[str, ...] = ()
    """Other figures, which are logged and decide nothing; NaN: a sample has none."""
    labels: tuple[Label, ...] = ()
    """Each has its own samples and its own column in log.csv, "METRIC_LABEL"."""

    @property
    def columns(self) -> dict[str, str]:
        """Columns of log.csv and the label of each as a text."""
        return {f"{self.metric}_{text}": text for text in map(label_text, self.labels)}

    @property
    def other_columns(self) -> dict[str, tuple[Label, str]]:
        """Columns of log.csv of the other figures: label and name of each."""
        return {
            f"{name}_{label_text(label)}": (label, name)
            for name in self.others
            for label in self.labels
        }

    @abstractmethod
    def samples(self, label: Label) -> Iterable[Sample]:
        """What is measured for a label, on the CPU; the same every time."""

    @abstractmethod
    def figures(self, outputs: Mapping[str, Tensor], sample: Sample) -> dict[str, float]:
        """The figures of a sample, ``metric`` among them; the outputs are on the CPU."""

    def picture(self, outputs: Mapping[str, Tensor], sample: Sample) -> Tensor | None:
        """(1, C, H, W) in [0, 1] to be looked at; None: there is none."""
        return None

    def __call__(
        self, method: Method, keep: int = 0
    ) -> tuple[dict[Label, dict[str, float]], list[Tensor]]:
        """The mean figures of each label, and up to ``keep`` pictures of the middle label."""
        values: dict[Label, dict[str, float]] = {}
        pictures: list[Tensor] = []
        for label in self.labels:
            found = []
            for measured in measure(method, self.samples(label), self.figures):
                found.append(measured.figures)
                if label == self.labels[len(self.labels) // 2] and len(pictures) < keep:
                    picture = self.picture(measured.outputs, measured.sample)
                    pictures += [] if picture is None else [picture]
            values[label] = {self.metric: sum(f[self.metric] for f in found) / len(found)}
            for name in self.others:
                known = [f[name] for f in found if not math.isnan(f[name])]
                values[label][name] = sum(known) / len(known) if known else math.nan
        return values, pictures

    def score(self, values: Mapping[Label, float]) -> float:
        """How good these values are; the weights of the highest score are the best ones."""
        mean = sum(values.values()) / len(values)
        return mean if self.higher_is_better else -mean


@dataclass(frozen=True)
class Task:
    """What the loop trains by.  Without a validator the last weights are the result.

    Example:
        >>> objective = denoise_ext.training.Supervised(torch.nn.functional.mse_loss)
        >>> class Pairs(denoise_ext.training.Sampler):
        ...     def batch(self, step):
        ...         x = torch.rand(1, 1, 8, 8)
        ...         return {"inputs.image": x, "targets.image": torch.zeros_like(x)}
        >>> task = denoise_ext.training.Task(Pairs(), objective)
        >>> task.validator is None  # the last weights are the result
        True
    """

    sampler: Sampler
    objective: Objective
    validator: Validator | None = None


Builder = Callable[[TrainConfig, Network, Processes, torch.device], Task]
_builders: dict[str, Builder] = {}


def register_task(name: str) -> Callable[[Builder], Builder]:
    """Decorator: ``task.name = name`` in a configuration trains by what the function builds.

    The function gets the configuration, the network, this process among all and the device.  It
    raises ValueError where these do not fit together.  A function that is defined again takes the
    place of the first.

    Raises ValueError for a name that is empty or that another function has.

    Example:
        >>> @denoise_ext.training.register_task("example_task")
        ... def build(config, network, processes, device):
        ...     return denoise_ext.training.Task(my_sampler, my_objective)
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a text that is not empty, got {name!r}")

    def register(build: Builder) -> Builder:
        known = _builders.get(name, build)
        places = [f"{item.__module__}.{item.__qualname__}" for item in (known, build)]
        if places[0] != places[1]:
            raise ValueError(f"task {name!r} is already registered, by {places[0]}")
        _builders[name] = build
        return build

    return register


def build_task(
    config: TrainConfig, network: Network, processes: Processes, device: torch.device
) -> Task:
    """The task that a configuration names.

    Raises ValueError for a name that is not registered, or as the task's function does.
    """
    name = config.task.name
    if name not in _builders:
        known = ", ".join(sorted(_builders))
        raise ValueError(f"task.name: unknown task {name!r}; known: {known}. {IMPORT_HINT}")
    return _builders[name](config, network, processes, device)
