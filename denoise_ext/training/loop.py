"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any, cast

import torch
from torch import Tensor, nn

from denoise_ext.data import Prefetcher
from denoise_ext.metrics.protocol import Sample
from denoise_ext.models import Network, build_model, load_checkpoint, save_model
from denoise_ext.models.frames import compute_frames
from denoise_ext.models.network import Tensors
from denoise_ext.training import (  # noqa: F401  (they register)
    adaptation,
    guided_denoising,
    image_compression,
    image_denoising,
    image_upscaling,
    video_denoising,
)
from denoise_ext.training.build import build_network, build_optimiser
from denoise_ext.training.checkpoint import config_differences, load_state, save_state
from denoise_ext.training.config import ConfigError, user_path
from denoise_ext.training.distributed import (
    Processes,
    joined,
    process_from_environment,
    training_device,
)
from denoise_ext.training.ema import RunningMean
from denoise_ext.training.learning_rate import learning_rate
from denoise_ext.training.plots import log_row, tensorboard_log, write_curves, write_samples
from denoise_ext.training.progress import Progress
from denoise_ext.training.result import TrainResult
from denoise_ext.training.run_dir import RunDir, provenance
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.task import INDEX, Label, LearningObjective, build_task, label_text
from denoise_ext.training.validate import validate


def train(config: TrainConfig, accept_changes: bool = False) -> TrainResult:
    """Run ``config`` to its end.

    The run continues from the checkpoint in its run directory, if there is one. It ends with the
    same weights, bit for bit, as an uninterrupted run (on the CPU of one machine, with the same
    number of threads).

    Under ``torchrun`` every process trains on a batch of its own, and gradients are averaged. Up to
    rounding, the weights are those of one process with the sum of the batches. BatchNorm takes its
    statistics from each process's own batch.

    A checkpoint of other training files is refused. So is one of another configuration, if the
    difference changes the weights. ``accept_changes=True`` continues with the new configuration
    and records step and changes in the result's metadata.

    With ``run.minutes`` the run may stop before its end. Call ``train`` again to continue.

    Raises:
        ConfigError: the configuration does not fit the model, the data or the run directory, or
            another process is training there.
        FloatingPointError: the loss stopped being finite.

    Example:
        >>> config = denoise_ext.training.load_config("recipe.toml", ["run.out=runs/short"])
        >>> result = denoise_ext.training.train(config)
        >>> network = denoise_ext.models.load_checkpoint(result.model_path)
    """
    processes = process_from_environment()
    try:
        device = training_device(config.run.device, processes)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    with joined(processes, device):
        try:
            directory = RunDir(user_path(config.run.out), owner=processes.is_main)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        with contextlib.closing(directory):
            return _Trainer(config, accept_changes, processes, device, directory).run()


class _Frames(nn.Module):
    """A network whose forward returns its outputs by name: what processes share is forward."""

    def __init__(self, network: Network, truncate: int) -> None:
        super().__init__()
        self.network, self.truncate = network, truncate

    def forward(self, inputs: Tensors) -> Tensors:
        """See `task.Trained`."""
        return compute_frames(self.network, inputs, truncate=self.truncate)[0]


class _Trainer:
    """State of one run: model, optimiser, data, step counter."""

    def __init__(
        self,
        config: TrainConfig,
        accept_changes: bool,
        processes: Processes,
        device: torch.device,
        directory: RunDir,
    ) -> None:
        self.began, self.dir = time.monotonic(), directory
        self.config, self.accept_changes = config, accept_changes
        self.processes, self.device = processes, device
        self.changes: list[dict[str, Any]] = []  # of the configuration, on the way
        self.resolved: dict[str, Any] = config.model_dump(mode="json")
        if config.run.threads:
            torch.set_num_threads(config.run.threads)
        torch.manual_seed(config.run.seed)
        self.step = 0
        self.figures: dict[Label, float] = {}  # of the last validation
        self.figures_before: dict[Label, float] = {}
        self.next_drawing = 0.0  # of the curves, in time.monotonic()'s seconds
        try:
            self.model, self.start = build_network(config)
            self.model = self.model.to(device)
            self.task = build_task(config, self.model, processes, device)
            self.validator = self.task.validator
            self.metric = "psnr" if self.validator is None else self.validator.metric
            # best score, its step, validations since; whether training was ended by them
            self.best: dict[str, Any] = {
                self.metric: -math.inf, "step": 0, "since": 0, "ended": False
            }  # fmt: skip
            if config.validation.patience and self.validator is None:
                raise ValueError("validation.patience needs a task that validates")
            self.optimiser = build_optimiser(self.model, config)
            self.mean = (
                RunningMean(self.model, config.optimiser.ema) if config.optimiser.ema else None
            )
            self._resume()
            self.events = (
                tensorboard_log(self.dir.path / "tensorboard", config.run.tensorboard, self.step)
                if processes.is_main
                else None
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.columns = ["step", "loss", "learning_rate", "gradient_norm", "seconds", "waited"]
        self.columns += self.task.objective.parts
        if self.validator is not None:
            self.columns += [*self.validator.columns, *self.validator.other_columns]
        if processes.is_main:
            self.dir.trim_log(self.columns, self.step)
        self.parallel = processes.parallel(_Frames(self.model, config.loss.truncate))

    @property
    def judged(self) -> Network:
        """The network that is validated and kept: the running mean where there is one."""
        return self.model if self.mean is None else cast("Network", self.mean.model)

    # ---- continuing

    def _resume(self) -> None:
        if not self.dir.checkpoint.exists():
            if self.processes.is_main:
                self.dir.write_config(self.resolved)
            return
        state = load_state(self.dir.checkpoint)
        self._compare(state)
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.mean is not None:
                self.mean.model.load_state_dict(state.get("mean") or state["model"])
            if isinstance(self.task.objective, LearningObjective) and state.get("objective"):
                self.task.objective.load_state_dict(state["objective"])
        except (RuntimeError, ValueError):
            raise ValueError(f"{self.dir.checkpoint} does not fit model.name") from None
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]
        self.best.update(state.get("best", {}))
        self.figures_before = state.get(f"{self.metric}_before", {})

    def _compare(self, state: dict[str, Any]) -> None:
        """Refuse or record changes of configuration and data since ``state`` was saved."""
        self.changes = list(state.get("changes", []))
        different = config_differences(state["config"], self.resolved)
        before = state.get("processes", 1)
        if before != self.processes.count:
            different.append(f"processes: was {before}, is {self.processes.count}")
        known = dict(self.task.sampler.files)
        files = state.get("files", known)  # older states lack them
        if files != known:
            had, has = files.get("files", 0), known.get("files", 0)
            text = f"data.train: was {had} files, is {has}"
            if had == has:
                text = f"data.train: names or sizes among its {has} files are others"
            if not (different or self.accept_changes):
                raise ValueError(
                    f"{self.dir.path} holds a run of other files ({text}); bring them back, give "
                    "another run.out, remove it, or accept the changes (--accept-changes)"
                )
            different.append(text)
        if different and not self.accept_changes:
            raise ValueError(
                f"{self.dir.path} holds a run of another configuration; give another run.out, "
                "remove it, or accept the changes\n" + "\n".join(different)
            )
        if different:
            self.changes.append({"after_step": state["step"], "changes": different})
            if self.processes.is_main:
                self.dir.write_config(self.resolved)

    def _save(self) -> None:
        if not self.processes.is_main:
            return
        objective = self.task.objective
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "network": self.model.config,
            "mean": None if self.mean is None else self.mean.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "objective": objective.state_dict() if isinstance(objective, LearningObjective) else {},
            "config": self.resolved,
            "changes": self.changes,
            "processes": self.processes.count,
            "best": self.best,
            f"{self.metric}_before": self.figures_before,
            "files": dict(self.task.sampler.files),
        }
        save_state(self.dir.checkpoint, state)

    # ---- the loop

    def run(self) -> TrainResult:
        run = self.config.run
        began, first = time.monotonic(), self.step
        is_main, out_of_time = self.processes.is_main, False
        with (
            Progress(run.steps, self.step, shown=is_main) as progress,
            Prefetcher(self.task.sampler.batch, run.steps, self.config.data.workers) as ahead,
        ):
            if self.start is not None and self.step == 0 and self.validator is not None:
                self._validate_start(progress)
            while not (self._is_finished() or out_of_time):
                loss, parts, norm, rate = self._train_step(ahead)
                self.step += 1
                progress.advance(self.step)
                last, due = self.step == run.steps, self._validation_due()
                log = last or due or self.step % run.log_every == 0
                out_of_time = self._is_out_of_time()
                save = last or out_of_time or self.step % run.checkpoint_every == 0
                if log or save:  # reading the values back costs a little: not every step
                    self._check_finite(float(loss), float(norm))
                if log:
                    row = {
                        "step": self.step,
                        "loss": f"{float(self.processes.mean(loss)):.6e}",
                        "learning_rate": f"{rate:.4e}",
                        "gradient_norm": f"{float(norm):.4e}",
                        "seconds": f"{time.monotonic() - began:.1f}",
                        "waited": f"{ahead.waited:.2f}",
                    }
                    for name in self.task.objective.parts:
                        row[name] = f"{float(self.processes.mean(parts[name])):.6e}"
                    if due:
                        row |= self._validate()
                    if is_main:
                        self._log(row, progress, first)
                if save or self.best["ended"]:
                    self._save()
        return self._finish()

    def _is_finished(self) -> bool:
        return self.step >= self.config.run.steps or self.best["ended"]

    def _is_out_of_time(self) -> bool:
        """Whether run.minutes are over, by the main process's clock; every process must call it."""
        minutes = self.config.run.minutes
        if not minutes:
            return False
        over = time.monotonic() - self.began >= 60.0 * minutes
        return self.processes.agreed(over, self.device)

    def _check_finite(self, loss: float, norm: float) -> None:
        # Weights that are not finite make every later loss so: a broken state is never saved.
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"the loss is {loss} and its gradient's norm {norm} at step {self.step}; lower "
                "schedule.peak or set optimiser.clip_norm"
            )

    def _train_step(self, ahead: Prefetcher[Sample]) -> tuple[Tensor, Tensors, Tensor, float]:
        """One step; returns loss, its parts, gradient norm (before clipping), learning rate."""
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
        sample = self.task.sampler.finish(self._moved(ahead.get(self.step)), self.step)
        loss, parts = self.task.objective(self._forward, sample, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        limit = config.optimiser.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.optimiser.step()
        if self.mean is not None:
            self.mean.update(self.model, self.step)
        return loss.detach(), {k: part.detach() for k, part in parts.items()}, norm, rate

    def _moved(self, sample: Sample) -> Sample:
        """The sample on the device."""
        if self.device.type == "cpu":
            return sample
        return {
            name: x if name == INDEX else x.to(self.device, non_blocking=True)
            for name, x in sample.items()
        }

    def _forward(self, inputs: Tensors) -> Tensors:
        half = self.config.run.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            outputs = self.parallel(inputs)
        return {name: output.float() for name, output in outputs.items()}

    # ---- what is watched

    def _validation_due(self) -> bool:
        every, last = self.config.validation.every, self.step == self.config.run.steps
        return self.validator is not None and (last or self.step % every == 0)

    def _validate_start(self, progress: Progress) -> None:
        """The quality of the weights that training starts from, as step 0 of the log."""
        row = {"step": 0} | self._validate()
        self.figures_before = self.figures
        if self.processes.is_main:
            self._log(row, progress)

    def _validate(self) -> dict[str, str]:
        """The validator's figures, as columns of the log; keeps samples and the best weights.

        Only the main process validates. The others get its decision whether training ends.
        """
        validation, validator = self.config.validation, self.validator
        assert validator is not None
        figures: dict[Label, dict[str, float]] = {}
        if self.processes.is_main:
            figures, pictures = validate(self.judged, validator, validation.samples)
            self.figures = {label: found[self.metric] for label, found in figures.items()}
            if pictures:
                write_samples(self.dir.samples / f"step_{self.step:07d}.png", pictures)
            score = validator.score(self.figures)
            if score > self.best[self.metric]:
                self.best |= {self.metric: score, "step": self.step, "since": 0}
                save_model(self._plain(), self.dir.best, torch.float32, self._facts())
            else:
                self.best["since"] += 1
        if validation.patience:
            out = self.best["since"] >= validation.patience
            self.best["ended"] = self.processes.agreed(out, self.device)
        row = dict(zip(validator.columns, self.figures.values()))
        row |= {
            column: figures[label][name]
            for column, (label, name) in validator.other_columns.items()
            if label in figures
        }
        return {column: f"{figure:.{validator.digits}f}" for column, figure in row.items()}

    def _log(self, row: dict[str, Any], progress: Progress, first: int = 0) -> None:
        """``first`` is the step that the row's seconds are counted from."""
        self.dir.append_log(self.columns, row)
        if self.events is not None:
            log_row(self.events, row, self.validator)
        done = self.step - first
        columns = {} if self.validator is None else self.validator.columns
        judged = {column: f"{self.metric.upper()}@{text}" for column, text in columns.items()}
        progress.report(row, judged, float(row["seconds"]) / done if done else None)
        if time.monotonic() >= self.next_drawing and judged.keys() & row.keys():
            self._draw()

    def _draw(self) -> None:
        """The curves so far; the next time when this time is 5 % of what has passed."""
        began = time.monotonic()
        write_curves(self.dir.curves, self.dir.read_log(), self.validator)
        self.next_drawing = began + 20.0 * (time.monotonic() - began)

    # ---- the result

    def _plain(self) -> Network:
        """The network to keep, in this package's layers, on the CPU."""
        plain = build_model(self.model.config)
        plain.load_state_dict(self.judged.state_dict())
        return plain

    def _facts(self) -> dict[str, Any]:
        return {
            "config": self.resolved,
            "changes_on_the_way": self.changes,
            "start": self.start,
            "provenance": provenance(),
            "processes": self.processes.count,
            "steps": self.step,
            f"validation_{self.metric}": {label_text(k): x for k, x in self.figures.items()},
            f"{self.metric}_before": {label_text(k): x for k, x in self.figures_before.items()},
        }

    def _finish(self) -> TrainResult:
        finished = self._is_finished()
        if self.processes.is_main:
            if finished:
                self._write_result()
            if self.events is not None:
                self.events.close()
            self._draw()
        return TrainResult(
            self.dir.result, self.step, self.figures, self.figures_before, finished,
            self.processes.is_main, self.metric,
            "" if self.validator is None else self.validator.unit,
        )  # fmt: skip

    def _write_result(self) -> None:
        if not self.figures and self.validator is not None:  # continued after its last step
            figures, _ = validate(self.judged, self.validator)
            self.figures = {label: found[self.metric] for label, found in figures.items()}
        network, facts = self._plain(), self._facts()
        if self.best["ended"]:  # early stop: the weights that were best
            network = load_checkpoint(self.dir.best)
            facts["best"] = self.best
        save_model(network, self.dir.result, torch.float16, facts)
