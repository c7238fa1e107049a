"""The device of a job, deterministic algorithms, and timing of work on a device."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stitching.config.errors import UserError, at
from stitching.config.job_config import JobSettings
from stitching.processes import gpus_of_job
from stitching.training.distributed import ProcessGroup

__all__ = ["Stopwatch", "deterministic", "device_of"]


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Use only deterministic algorithms within the body; an operation that has none raises."""
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS would refuse
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def device_of(job: JobSettings, world: ProcessGroup) -> torch.device:
    """The device that this process computes on: the job's; else STITCHING_DEVICE's; else a GPU if there is one.

    Raises:
        UserError: it cannot be used, the job names one GPU for several processes, or the job has GPUs that CUDA does
            not find. Training on the CPU instead would take a hundred times as long.
    """
    name, gpus = job.device or os.environ.get("STITCHING_DEVICE"), gpus_of_job()
    must_have_gpu = name is None and gpus > 0
    name = name or ("cuda" if must_have_gpu or torch.cuda.is_available() else "cpu")
    with at("device"):
        if world.size > 1 and name.startswith("cuda:"):
            raise UserError(
                f"found {name!r}, and there are {world.size} processes", allowed="cpu, or cuda: a GPU for each"
            )
        try:
            device = torch.device(name)
            if world.size > 1 and device.type == "cuda":
                # Either every process sees the GPUs of all on its machine, or Slurm shows each only its own.
                device = torch.device("cuda", world.local_rank if torch.cuda.device_count() > 1 else 0)
                torch.cuda.set_device(device)
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            if must_have_gpu:
                raise UserError(
                    f"the job was given {gpus} GPU{'s' * (gpus > 1)}, and CUDA cannot be used on {platform.node()}: "
                    f"{reason}",
                    do="Report the node, or exclude it. `device: cpu` trains without a GPU.",
                ) from None
            raise UserError(f"cannot use the device {name!r}: {reason}", allowed="cpu, cuda, cuda:0, ...") from None
    return device


class Stopwatch:
    """Times work on a device from now on, without waiting for it.

    A GPU works through a queue, so the host's clock would measure how fast work is queued. There the time is that
    between two marks in the queue.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._start = self._now()
        self._end: Any = None

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stop(self) -> None:
        """Mark the end of the work."""
        self._end = self._now()

    @property
    def seconds(self) -> float:
        """How long the work took; waits until it is done."""
        if not self._on_gpu:
            return float(self._end - self._start)
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1000
