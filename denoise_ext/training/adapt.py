"""`adapt`: fine-tune a network on noisy images of one's own, and keep it if it is better."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from denoise_ext.io import check_target
from denoise_ext.io.atomic import replace_file
from denoise_ext.models import ImageDenoiser, load_checkpoint, read_metadata, save_model
from denoise_ext.runtime import load_model
from denoise_ext.training.adaptation import ADAPTATION, FILES, TRIAL, HeldOutTiles
from denoise_ext.training.config import parse_config
from denoise_ext.training.judge import Judgement, by_default, by_network, judge
from denoise_ext.training.loop import train
from denoise_ext.training.own_files import OwnFiles, PathLike, own_files
from denoise_ext.training.own_images import CROP, OwnImages
from denoise_ext.training.run_dir import RunDir
from denoise_ext.training.schema import TrainConfig

logger: logging.Logger = logging.getLogger("denoise_ext.training")

_TARGETS = {"supervised": "clean", "noise2noise": "noise2noise", "sure": "sure"}
_TRIAL = 12, 4  # steps that time a step; those before it counts
_LEAST_STEPS = 40
_SAVE_EVERY, _LOG_EVERY = 30.0, 10.0  # seconds
FILES_NAME, PLAN = "files.json", "plan.json"  # in the folder of a run


@dataclass(frozen=True)
class Adapted:
    """What `adapt` found.

    Example:
        >>> worse = denoise_ext.training.Adapted(
        ...     path=None, objective="sure", start="dxnet_s_gray", gain=-0.02, gain_error=0.05,
        ...     least_gain=0.0, files=9, kinds={"white": 9}, left_out=[], steps=400,
        ... )
        >>> worse.kept
        False
    """

    path: Path | None
    """The checkpoint; None: the old network was kept, and no file was written."""
    objective: str
    """supervised, noise2noise or sure."""
    start: str
    """The network it was compared with and started from."""
    gain: float
    """Estimated on held-out parts, in dB: above 0 the adapted network is better."""
    gain_error: float
    """Standard error of the gain in dB."""
    least_gain: float
    """The gain at the least favourable noise level that the measurement leaves open, in dB."""
    files: int
    """Number of scenes used."""
    kinds: dict[str, int]
    """How many files have each kind of noise; see `NoiseProfile`."""
    left_out: list[tuple[Path, str]]
    """Files that were not used, and why."""
    steps: int

    @property
    def kept(self) -> bool:
        """Whether the adapted network was kept."""
        return self.path is not None


def adapt(
    images: PathLike | Iterable[PathLike],
    output: PathLike,
    *,
    pairs: Sequence[str] | None = None,
    takes: Sequence[str] | None = None,
    start: str | None = None,
    minutes: float = 10.0,
    device: str = "auto",
    threads: int = 0,
    seed: int = 0,
    overwrite: bool = False,
) -> Adapted:
    """Fine-tune a network on noisy images, and write it if a held-out estimate is better.

    Args:
        images: image files, folders, patterns; with `pairs` or `takes` one folder. 8 or 16 bits,
            gray or RGB, at least 64 x 64 pixels. Files that cannot be used are left out.
        output: the checkpoint, ``.safetensors``.
        pairs: two patterns below the folder, of noisy files and of their clean partners, as
            ``["*_noisy.png", "*_clean.png"]``. The objective is then ``supervised``.
        takes: two patterns, of first and of second takes of each scene, which are aligned and
            differ in noise alone. The objective is then ``noise2noise``.
        start: weights to start from and to compare with: a network's name, or a checkpoint file.
            None: the shipped network that most of the files are denoised with, compared with what
            `denoise_ext.denoise` does without options.
        minutes: how long to train, by the time that the first steps take.
        device: "auto", "cpu" or "cuda".
        threads: of the CPU; 0: PyTorch's default.
        seed: of all random choices.
        overwrite: replace an existing output.

    An interrupted run is kept in the folder ``OUTPUT.run``.  The same call continues it.

    Raises:
        TypeError, ValueError: an argument that does not fit; no file that can be used, or too
            little to hold out; an interrupted run of other files or arguments.
        FloatingPointError: the loss stopped being finite.
        RuntimeError: another process trains the same output; the device cannot be used.

    Example:
        >>> adapted = denoise_ext.training.adapt(
        ...     "noisy", "mine.safetensors", start="ffdnet_gray_small", minutes=0.001
        ... )
        >>> adapted.objective, adapted.kept == Path("mine.safetensors").exists()
        ('sure', True)
    """
    target = _checked_output(output, overwrite)
    _check_arguments(pairs, takes, minutes)
    found = own_files(images, pairs or takes)
    objective = "supervised" if pairs else "noise2noise" if takes else "sure"
    old_network = _checked_start(start or found.network, found.channels)
    _report(found, objective, start or found.network)
    own = OwnImages(found.groups, found.channels)
    folder = target.with_name(f"{target.name}.run")
    tree = _configuration(found, objective, start, folder, device, threads, seed)
    _check_folder(folder)
    with contextlib.closing(RunDir(folder)):
        try:
            config = _planned(tree, found, folder, minutes)
        finally:
            if not (folder / PLAN).exists():  # nothing to continue
                shutil.rmtree(folder, ignore_errors=True)
    try:
        result = train(config)
    except FloatingPointError:
        shutil.rmtree(folder, ignore_errors=True)  # continued, it would end there again
        raise
    network = cast("ImageDenoiser", load_checkpoint(result.model_path))  # as its task trains
    old = by_default(own) if start is None else by_network(old_network)
    judgement = judge(HeldOutTiles(config, own, network.needs_sigma), old, by_network(network))
    if judgement.better:
        facts = read_metadata(result.model_path)["training"]
        check_target(target, overwrite)
        save_model(network, target, torch.float16, facts | {"adapted": _facts(judgement, found)})
    shutil.rmtree(folder, ignore_errors=True)
    return Adapted(
        target if judgement.better else None, objective, config.model.start, judgement.gain,
        judgement.error, judgement.least, len(found.groups), found.kinds, found.left_out,
        result.steps,
    )  # fmt: skip


def _checked_output(output: PathLike, overwrite: bool) -> Path:
    target = Path(output)
    if target.suffix != ".safetensors":
        raise ValueError(f"output must end in .safetensors, got {str(output)!r}")
    check_target(target, overwrite)
    return target


def _check_folder(folder: Path) -> None:
    """Raise ValueError for a folder that is not an interrupted run: it is removed in the end."""
    if not folder.exists() or (folder / FILES_NAME).is_file():
        return
    if not folder.is_dir() or any(path.name != ".lock" for path in folder.iterdir()):
        raise ValueError(f"output: {folder} is needed for the run, and holds other files")


def _checked_start(start: str, channels: int) -> ImageDenoiser:
    try:
        network = load_model(start, "cpu")
    except ValueError as error:
        raise ValueError(f"start: {error}") from None
    if not isinstance(network, ImageDenoiser):
        raise ValueError(f"start: {start!r} denoises no image")
    if network.in_channels != channels:
        raise ValueError(
            f"start: {start!r} has {network.in_channels} channels, and the images have {channels}"
        )
    return network


def _check_arguments(
    pairs: Sequence[str] | None, takes: Sequence[str] | None, minutes: float
) -> None:
    for name, patterns in (("pairs", pairs), ("takes", takes)):
        if patterns is not None and (isinstance(patterns, str) or len(patterns) != 2):
            raise ValueError(f"{name} must be two patterns, got {patterns!r}")
    if pairs and takes:
        raise ValueError("pairs and takes: give one of them")
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)):
        raise TypeError(f"minutes must be a number, got {minutes!r}")
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be above 0, got {minutes!r}")


def _configuration(
    found: OwnFiles,
    objective: str,
    start: str | None,
    folder: Path,
    device: str,
    threads: int,
    seed: int,
) -> dict[str, Any]:
    """The configuration of the run, but for the steps."""
    return {
        "task": {"name": ADAPTATION, "options": {FILES: str(folder / FILES_NAME)}},
        "data": {"channels": found.channels, "crop": CROP, "workers": 1},
        "model": {"start": start or found.network},
        "loss": {
            "name": "psnr" if objective == "supervised" else "mse", "target": _TARGETS[objective]
        },
        "optimiser": {"name": "muon", "beta1": 0.95, "beta2": 0.95, "ema": 0.98},
        "schedule": {"peak": 3e-4, "final": 1e-6, "warmup_steps": 20},
        "validation": {"samples": 0},
        "run": {
            "out": str(folder), "batch_size": 4 if objective == "sure" else 8, "seed": seed,
            "device": device, "threads": threads, "tensorboard": "off",
        },
    }  # fmt: skip


def _planned(tree: dict[str, Any], found: OwnFiles, folder: Path, minutes: float) -> TrainConfig:
    """The configuration with as many steps as fit into the time, or those of a run to continue."""
    groups = [[str(path) for path in group] for group in found.groups]
    request = {"files": groups, "configuration": tree, "minutes": minutes}
    plan = folder / PLAN
    if plan.exists():
        known = json.loads(plan.read_text(encoding="utf-8"))
        if known["request"] != request:
            raise ValueError(
                f"output: {folder} holds an interrupted run of other files or arguments; remove "
                "it, or give another output"
            )
        return _with_steps(tree, known["steps"], known["seconds"])
    replace_file(folder / FILES_NAME, json.dumps(groups).encode())
    seconds = _seconds_per_step(tree, folder / "trial")
    steps = max(_LEAST_STEPS, round(60 * minutes / seconds))
    known = {"request": request, "steps": steps, "seconds": seconds}
    replace_file(plan, json.dumps(known, indent=2).encode())
    return _with_steps(tree, steps, seconds)


def _with_steps(tree: dict[str, Any], steps: int, seconds: float) -> TrainConfig:
    run = {
        "steps": steps,
        "checkpoint_every": max(1, round(_SAVE_EVERY / seconds)),
        "log_every": max(1, round(_LOG_EVERY / seconds)),
    }
    validation = {"every": max(1, -(-steps // 4))}
    return parse_config({
        **tree,
        "run": tree["run"] | run,
        "validation": tree["validation"] | validation,
    }, "adapt")  # fmt: skip


def _seconds_per_step(tree: dict[str, Any], folder: Path) -> float:
    """Time of a step, by a short run of the same configuration that is thrown away."""
    steps, every = _TRIAL
    run = {"out": str(folder), "steps": steps, "log_every": every}
    options = tree["task"]["options"] | {TRIAL: True}
    trial = {
        **tree,
        "task": tree["task"] | {"options": options},
        "run": tree["run"] | run,
        "schedule": tree["schedule"] | {"warmup_steps": every},
    }
    shutil.rmtree(folder, ignore_errors=True)
    train(parse_config(trial, "adapt"))
    with contextlib.closing(RunDir(folder)) as directory:
        seconds = [float(row["seconds"]) for row in directory.read_log()]
    shutil.rmtree(folder, ignore_errors=True)
    return max((seconds[-1] - seconds[0]) / (steps - every), 1e-3)


def _report(found: OwnFiles, objective: str, start: str) -> None:
    for path, reason in found.left_out:
        logger.warning("%s is left out: %s", path, reason)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.kinds.items()))
    logger.info(
        "%d scenes, noise: %s; objective %s, start %s", len(found.groups), kinds, objective, start
    )


def _facts(judgement: Judgement, found: OwnFiles) -> dict[str, Any]:
    """For the checkpoint's metadata."""
    return {
        "gain": judgement.gain, "gain_error": judgement.error, "least_gain": judgement.least,
        "files": len(found.groups), "kinds": found.kinds,
    }  # fmt: skip
