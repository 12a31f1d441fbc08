"""Several processes that train one network, started by ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """Which process this is, and of how many."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on its machine

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes files and reports."""
        return self.rank == 0

    def parallel(self, model: nn.Module) -> nn.Module:
        """``model`` with gradients averaged over the processes; every one must call it."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes; every one must call it."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def agreed(self, value: bool, device: torch.device) -> bool:
        """The value of the main process; every process must call it."""
        if self.count == 1:
            return value
        decision = torch.tensor([value], dtype=torch.uint8, device=device)
        dist.broadcast(decision, src=0)
        return bool(decision.item())


def process_from_environment() -> Processes:
    """The process ``torchrun`` made this one; the only one where it did not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    return Processes(*(int(os.environ[name]) for name in names))


@contextmanager
def joined(processes: Processes, device: torch.device) -> Iterator[None]:
    """Within it the processes can exchange gradients: gloo on the CPU, nccl on GPUs."""
    if processes.count == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # nobody leaves while another still waits for it
    finally:
        dist.destroy_process_group()


def training_device(name: str, processes: Processes) -> torch.device:
    """The device of ``run.device``; ValueError where it cannot be used."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("run.device: got 'cuda', but torch finds no GPU here; allowed: auto, cpu")
    if name == "cpu" or not available:
        return torch.device("cpu")
    if processes.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"run.device: {torch.cuda.device_count()} GPUs are too few for process "
            f"{processes.local_rank} on this machine; start fewer, or set run.device=cpu"
        )
    return torch.device("cuda", processes.local_rank)
