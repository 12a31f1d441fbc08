"""The training loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext.data import ImageCache, PatchSampler, add_gaussian_noise, list_image_files
from denoise_ext.data.random import NOISE, WEIGHTS, step_generator, step_seed
from denoise_ext.models import Denoiser, build_model, create_model, read_metadata, save_model
from denoise_ext.nn import to_torch
from denoise_ext.training.checkpoint import config_differences, load_state, save_state
from denoise_ext.training.config import ConfigError, TrainConfig, data_path
from denoise_ext.training.muon import Muon
from denoise_ext.training.progress import Progress
from denoise_ext.training.run_dir import RunDir, provenance
from denoise_ext.training.schedule import learning_rate
from denoise_ext.training.validate import centre_crop, split_held_out, validation_psnr


@dataclass
class TrainResult:
    """What a finished run leaves behind."""

    model_path: Path
    steps: int
    validation_psnr: dict[float, float]  # sigma (0-255 scale) -> dB


def train(config: TrainConfig, accept_changes: bool = False) -> TrainResult:
    """Run ``config`` to its end, continuing from the checkpoint in its run directory if one is
    there. A run that was killed and continued ends with the same weights, bit for bit, as one that
    was not (same machine, same number of threads).

    A checkpoint of another configuration is refused where the difference changes the weights.
    ``accept_changes=True`` goes on from it all the same, by the new configuration (a shorter or
    longer schedule, say), and records step and changes in the result's metadata.

    Raises:
        ConfigError: the configuration does not fit the model, the data or the run directory.
        FloatingPointError: the loss stopped being finite.
    """
    return _Trainer(config, accept_changes).run()


class _Trainer:
    """State of one run: model, optimiser, data, step counter."""

    def __init__(self, config: TrainConfig, accept_changes: bool = False) -> None:
        self.config, self.accept_changes = config, accept_changes
        self.changes: list[dict[str, Any]] = []  # of the configuration, on the way
        self.start: dict[str, Any] | None = None  # how the weights it starts from were trained
        self.resolved: dict[str, Any] = config.model_dump(mode="json")
        if config.run.threads:
            torch.set_num_threads(config.run.threads)
        torch.manual_seed(config.run.seed)
        self.step = 0
        try:
            self.dir = RunDir(config.run.out)
            self.model = self._build_model()
            self.sampler, self.held_out = self._load_data()
            self.optimiser = self._build_optimiser()
            self._resume()
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.columns = ["step", "loss", "learning_rate", "gradient_norm", "seconds"]
        self.columns += [f"psnr_{sigma:g}" for sigma in config.validation.sigmas]
        self.last_psnr: dict[float, float] = {}
        self.dir.trim_log(self.columns, self.step)

    # ---- set-up

    def _build_model(self) -> Denoiser:
        config = self.config
        model = create_model(config.model.name, **config.model.options)
        if model.in_channels != config.data.channels:
            raise ValueError(
                f"data.channels is {config.data.channels}, but model.name {config.model.name!r} "
                f"has {model.in_channels} channels"
            )
        if config.data.crop % model.stride:
            raise ValueError(
                f"data.crop must be a multiple of {model.stride} for this model, "
                f"got {config.data.crop}"
            )
        if config.model.start:
            model = create_model(
                config.model.name, checkpoint_path=config.model.start, **config.model.options
            )
            if Path(config.model.start).suffix == ".safetensors":
                self.start = read_metadata(config.model.start)["training"]
        else:
            model.initialise(torch.Generator().manual_seed(step_seed(config.run.seed, 0, WEIGHTS)))
        if config.run.layers == "torch":
            model = to_torch(model)
        return model.to(memory_format=torch.channels_last).train()

    def _load_data(self) -> tuple[PatchSampler, list[Tensor]]:
        data, validation = self.config.data, self.config.validation
        files = list_image_files(data_path(data.train))
        images = ImageCache(files, data.channels)
        train, held_out = split_held_out(len(images), validation.images)
        sampler = PatchSampler(
            [images[i] for i in train],
            data.crop,
            self.config.run.batch_size,
            self.config.run.seed,
            data.augment,
        )
        return sampler, [centre_crop(images[i], validation.crop) for i in held_out]

    def _build_optimiser(self) -> torch.optim.Optimizer:
        decay, plain = [], []
        for parameter in self.model.parameters():
            (decay if parameter.dim() > 1 else plain).append(parameter)
        options = self.config.optimiser
        # weight_decay w adds w * weight to the gradient: the L2 term w / 2 * sum(weight^2) of the
        # loss (not AdamW's decoupled form). Biases and normalisation are left free.
        groups = [
            {"params": decay, "weight_decay": self.config.loss.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return {"adam": torch.optim.Adam, "muon": Muon}[options.name](
            [group for group in groups if group["params"]],
            lr=self.config.schedule.peak,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
        )

    def _resume(self) -> None:
        if self.dir.checkpoint.exists():
            state = load_state(self.dir.checkpoint)
            self._compare(state)
            try:
                self.model.load_state_dict(state["model"])
                self.optimiser.load_state_dict(state["optimiser"])
            except (RuntimeError, ValueError):
                raise ValueError(f"{self.dir.checkpoint} does not fit model.name") from None
            torch.set_rng_state(state["torch_rng"])
            self.step = state["step"]
        else:
            self.dir.write_config(self.resolved)

    def _compare(self, state: dict[str, Any]) -> None:
        """Refuse, or record, what changed in the configuration since ``state`` was saved."""
        self.changes = list(state.get("changes", []))
        different = config_differences(state["config"], self.resolved)
        if different and not self.accept_changes:
            raise ValueError(
                f"{self.dir.path} holds a run of another configuration; give another run.out, "
                "remove it, or accept the changes\n" + "\n".join(different)
            )
        if different:
            self.changes.append({"after_step": state["step"], "changes": different})
            self.dir.write_config(self.resolved)

    # ---- the loop

    def run(self) -> TrainResult:
        run = self.config.run
        began, first = time.monotonic(), self.step
        with Progress(run.steps, self.step) as progress:
            while self.step < run.steps:
                loss, norm, rate = self._train_step()
                self.step += 1
                progress.advance(self.step)
                last = self.step == run.steps
                log, save = self.step % run.log_every == 0, self.step % run.checkpoint_every == 0
                if log or save or last:  # reading the values back costs a little: not every step
                    self._check_finite(float(loss), float(norm))
                if log or last:
                    row = {
                        "step": self.step,
                        "loss": f"{float(loss):.6e}",
                        "learning_rate": f"{rate:.4e}",
                        "gradient_norm": f"{float(norm):.4e}",
                        "seconds": f"{time.monotonic() - began:.1f}",
                    }
                    self._validate_and_log(row, progress, first)
                if save or last:
                    self._save()
        return self._finish()

    def _check_finite(self, loss: float, norm: float) -> None:
        # Weights that are not finite make every later loss so: a broken state is never saved.
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"the loss is {loss} and its gradient's norm {norm} at step {self.step}; lower "
                "schedule.peak or set optimiser.clip_norm"
            )

    def _train_step(self) -> tuple[Tensor, Tensor, float]:
        """One step; returns loss, gradient norm (before clipping), learning rate."""
        config = self.config
        rate = learning_rate(
            self.step,
            steps=config.run.steps,
            peak=config.schedule.peak,
            final=config.schedule.final,
            warmup_steps=config.schedule.warmup_steps,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        clean = self.sampler.batch(self.step)
        noisy, sigma = self._add_noise(clean)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.run.precision == "bf16"):
            output = self.model(noisy, sigma if self.model.needs_sigma else None)
        loss = nn.functional.mse_loss(output.float(), clean)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        limit = config.optimiser.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.optimiser.step()
        return loss.detach(), norm, rate

    def _add_noise(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """(noisy, sigma (N,) on the 0-255 scale), functions of (seed, step)."""
        noise, seed = self.config.noise, self.config.run.seed
        draws = step_generator(seed, self.step, NOISE).random(len(clean))
        sigma = noise.sigma_min + (noise.sigma_max - noise.sigma_min) * torch.from_numpy(draws)
        sigma = sigma.to(torch.float32)
        generator = torch.Generator().manual_seed(step_seed(seed, self.step, NOISE))
        return add_gaussian_noise(clean, sigma, generator), sigma

    def _validate_and_log(self, row: dict[str, Any], progress: Progress, first: int) -> None:
        validation = self.config.validation
        due = self.step % validation.every == 0 or self.step == self.config.run.steps
        if due and self.held_out:
            self.last_psnr = validation_psnr(
                self.model, self.held_out, validation.sigmas, self.config.run.seed
            )
            row |= {f"psnr_{sigma:g}": f"{db:.3f}" for sigma, db in self.last_psnr.items()}
        self.dir.append_log(self.columns, row)
        progress.report(row, float(row["seconds"]) / (self.step - first))

    def _save(self) -> None:
        save_state(
            self.dir.checkpoint,
            step=self.step,
            model=self.model,
            optimiser=self.optimiser,
            config=self.resolved,
            changes=self.changes,
        )

    def _finish(self) -> TrainResult:
        if not self.last_psnr and self.held_out:  # continued after its last step
            self.last_psnr = validation_psnr(
                self.model, self.held_out, self.config.validation.sigmas, self.config.run.seed
            )
        plain = build_model(self.model.config)
        plain.load_state_dict(self.model.state_dict())
        facts = {
            "config": self.resolved,
            "changes_on_the_way": self.changes,
            "start": self.start,
            "provenance": provenance(),
            "steps": self.step,
            "validation_psnr": {f"{sigma:g}": db for sigma, db in self.last_psnr.items()},
        }
        save_model(plain, self.dir.result, torch.float16, facts)
        return TrainResult(self.dir.result, self.step, self.last_psnr)
