"""What all runs of a loop share: data, device, processes, precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stitching.config.job_config import Job
from stitching.training.distributed import ProcessGroup
from stitching.training.job_data import TaskData

__all__ = ["LoopContext"]


@dataclass(frozen=True)
class LoopContext:
    """What all runs of a loop share."""

    data: TaskData
    device: torch.device
    world: ProcessGroup
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False

    @classmethod
    def of(cls, job: Job, data: TaskData, device: torch.device, world: ProcessGroup) -> LoopContext:
        """The context of the jobs that share a loop with `job`."""
        return cls(data, device, world, job.precision == "bf16", job.channels_last, job.compile)

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in the job's precision within the body."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def move_to_device(self, module: nn.Module) -> None:
        """Move a module to the device, in the memory layout of the loop."""
        module.to(self.device)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def on_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A batch on the device; the copy may not be finished."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return (
            images.to(self.device, non_blocking=True, memory_format=layout),
            labels.to(self.device, non_blocking=True),
        )
