"""Samples of named tensors, and the one loop that measures a method on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Sample = dict[str, Tensor]
"""What a step learns from, or what is measured: "inputs.NAME" and "targets.NAME" for the ports of
a network, and by names without a dot what else is known, such as "sigma"."""

Method = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""From the inputs of a sample to outputs by name."""

Metric = Callable[[Mapping[str, Tensor], Sample], dict[str, float]]
"""From outputs and their sample to figures by name."""

_INPUTS, _TARGETS = "inputs.", "targets."


def as_sample(
    inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], **more: Tensor
) -> Sample:
    """A sample of these inputs and targets by port, and what else is known."""
    return {
        **{_INPUTS + name: x for name, x in inputs.items()},
        **{_TARGETS + name: x for name, x in targets.items()},
        **more,
    }


def inputs_of(sample: Sample) -> dict[str, Tensor]:
    """Inputs by the name of their port."""
    return _below(sample, _INPUTS)


def targets_of(sample: Sample) -> dict[str, Tensor]:
    """Targets by the name of the output that they are for."""
    return _below(sample, _TARGETS)


def _below(sample: Sample, prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: x for key, x in sample.items() if key.startswith(prefix)}


class Degradation(Protocol):
    """What a protocol does to a clean sample before it is measured: noise, blur, fewer pixels."""

    def degrade(self, sample: Sample) -> Sample:
        """The sample with the inputs that a method gets."""
        ...


@dataclass(frozen=True)
class Measured:
    """A sample, what a method made of it, and the figures."""

    sample: Sample
    outputs: Mapping[str, Tensor]
    figures: dict[str, float]


def measure(
    method: Method,
    samples: Iterable[Sample],
    metric: Metric,
    protocol: Degradation | None = None,
) -> Iterator[Measured]:
    """Every sample through the method and the metric, one after the other, without gradients.

    Args:
        method: what is measured.
        samples: taken one at a time.
        metric: the figures of a sample.
        protocol: makes the inputs of every sample; None: they are there.
    """
    for given in samples:
        with torch.inference_mode():
            sample = given if protocol is None else protocol.degrade(given)
            outputs = method(inputs_of(sample))
            measured = Measured(sample, outputs, metric(outputs, sample))
        yield measured


def means(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the samples; all have the same figures.

    Raises ValueError where there is no sample.
    """
    rows = list(figures)
    if not rows:
        raise ValueError("figures must be of at least one sample")
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
