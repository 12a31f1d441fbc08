"""Seal a trained codec: round its prior, count how often its symbols are, write the file."""

from __future__ import annotations

import copy
import os
from typing import Any, cast

import torch

from denoise_ext.metrics.protocol import inputs_of
from denoise_ext.models import load_checkpoint, read_metadata, save_model
from denoise_ext.models.coded_prior import (
    CENTRE,
    ESCAPE,
    OFFSETS,
    QUALITIES,
    SCALES,
    SYMBOLS,
    CodedPrior,
    frequencies_of,
    rounded_prior,
)
from denoise_ext.models.dxcodec import DXCodec
from denoise_ext.models.latent_prior import LatentPrior
from denoise_ext.training.distributed import Processes
from denoise_ext.training.image_compression import CodedCrops
from denoise_ext.training.schema import TrainConfig


def seal(
    checkpoint: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: TrainConfig,
    batches: int = 200,
) -> DXCodec:
    """Write the sealed codec of a training run, in float16, and return it.

    The latents that are counted are those of the float16 weights on the crops of the configuration.

    Args:
        checkpoint: a run's ``checkpoint.pt``, ``best.safetensors`` or ``model.safetensors``, whose
            facts about the training are copied.
        target: the file, which is replaced.
        config: of the run: its data, noise and batch size are used.
        batches: that are counted. 0: none; the frequencies are those of logistic distributions.

    Raises ValueError for another network, or one that is sealed already.
    """
    trained = load_checkpoint(checkpoint)
    if not isinstance(trained, DXCodec) or not isinstance(trained.prior, LatentPrior):
        raise ValueError(f"checkpoint must hold a dxcodec that is not sealed, got {trained.config}")
    sealed = sealed_network(trained)
    if batches:
        sampler = CodedCrops(config, Processes(), torch.device("cpu"), takes_level=True)
        counts = torch.zeros(OFFSETS * SCALES, SYMBOLS, dtype=torch.float64)
        for step in range(batches):
            counts += counted(sealed, inputs_of(sampler.batch(step)))
        cast("CodedPrior", sealed.prior).frequencies.copy_(frequencies_of(counts))
    facts = {"config": config.model_dump(mode="json")}
    if os.fspath(checkpoint).endswith(".safetensors"):
        facts = read_metadata(checkpoint)["training"]
    save_model(sealed, target, metadata=facts)
    return sealed


def sealed_network(trained: DXCodec) -> DXCodec:
    """The codec with a rounded prior, float16's values and frequencies of logistic functions."""
    assert isinstance(trained.prior, LatentPrior)
    sealed = DXCodec(**{**_options(trained), "sealed": True})
    weights = {
        name: value.half().float()
        for name, value in trained.state_dict().items()
        if not name.startswith("prior.")
    }
    prior = rounded_prior(trained.prior).state_dict()
    weights |= {f"prior.{name}": value for name, value in prior.items()}
    sealed.load_state_dict(copy.deepcopy(weights))
    return sealed.eval()


def _options(network: DXCodec) -> dict[str, Any]:
    options = dict(network.config)
    options.pop("family")
    return options


@torch.inference_mode()
def counted(sealed: DXCodec, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """(classes, symbols): how often each symbol of each class is in the latents of images."""
    prior = cast("CodedPrior", sealed.prior)
    image = {name: inputs[name] for name in ("image", "noise_map")}
    found = sealed.analysis.compute(image, {})[0]["latents"]
    counts = torch.zeros(OFFSETS * SCALES * SYMBOLS, dtype=torch.float64)
    for latents, level in zip(found, inputs["level"].flatten().tolist()):
        quality = round(level * QUALITIES)
        gains = sealed.gains(sealed.level_weights(torch.tensor([quality / QUALITIES])))
        whole = (latents * gains[0]).round()
        kinds, numbers = prior.classes(whole, quality)
        symbols = torch.where(numbers.abs() <= CENTRE, numbers + CENTRE, ESCAPE)
        places = (kinds * SYMBOLS + symbols).flatten()
        counts += torch.bincount(places, minlength=len(counts)).double()
    return counts.reshape(-1, SYMBOLS)
