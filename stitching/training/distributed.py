"""The processes that train one job together, one for each GPU; in a single process, nothing here does anything.

Every process has the whole network and a share of every batch. Only the first one writes.
"""

from __future__ import annotations

import atexit
import gc
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stitching.config.errors import UserError
from stitching.processes import ProcessRank, first_host, process_rank
from stitching.training.failures import as_user_error

__all__ = ["ProcessGroup", "process_group"]

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)  # how long a process waits for the others: one may be writing a checkpoint
_SHORT_WAIT = timedelta(seconds=5)


class ProcessGroup:
    """The processes of this job, and what they do together; each must do it at the same point of its work.

    Numbers travel between CPUs by gloo, tensors on GPUs by nccl.
    """

    def __init__(self, process: ProcessRank | None = None, store: Any = None) -> None:
        process = process or ProcessRank()
        self.rank, self.size, self.local_rank = process.rank, process.size, process.local_rank
        self._store = store
        self._reports: bool | None = None  # the failure that ends the job; None while there is none

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the processes, in place, without gradients."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each number's sum over the processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def highest(self, values: Sequence[float]) -> list[float]:
        """The highest of each number among the processes; also a barrier."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Sequence[float], how: Any) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, how)
        return tensor.tolist()

    def broadcast(self, compute: Callable[[], T]) -> T:
        """What `compute` returns in the first process, which alone calls it; a `UserError` there is raised in all."""
        with self.together():
            results = [compute() if self.is_first else None]
        if self.size > 1:
            dist.broadcast_object_list(results, src=0)
        return results[0]  # type: ignore[return-value]

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one process raises in the body all raise at its end. Nothing in the body may wait for others.

        Raises:
            OutOfMemory: in place of any exception that says so.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = as_user_error(error)
            if self.size == 1:
                raise problem  # noqa: B904 - what it was raised for is its context
        if self.size == 1:
            return
        shared = problem if problem is None or isinstance(problem, UserError) else "a defect, which that process shows"
        problems: list[Any] = [None] * self.size
        dist.all_gather_object(problems, shared)
        if problem is not None:
            raise problem
        for other in problems:
            if isinstance(other, UserError):
                raise other
            if other is not None:
                raise SystemExit(1)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the processes in every backward pass.

        The graph is declared static, which it is: then parameters that take no part in the loss, several forward passes
        before a backward pass, and losses on tensors inside the network are all fine. Buffers need no copying, since
        every process computes the same statistics.
        """
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its newer name is not in torch 2.8
            return DistributedDataParallel(network, broadcast_buffers=False, static_graph=True)

    def first_to_report(self) -> bool:
        """Whether this process reports the failure that ends the job: the first one that asks does.

        The others wait until it has, because the launcher ends all processes as soon as one of them fails.
        """
        if self._reports is None:
            self._reports = True
            with suppress(Exception):  # the process that holds the store may be gone
                self._reports = self.size == 1 or self._store.add("failures", 1) == 1
            if not self._reports:
                with suppress(Exception):
                    self._store.wait(["reported"], _SHORT_WAIT)
        return self._reports

    def _leave(self) -> None:
        """At the end of the process: let the others know that the failure is reported, or leave the group.

        The group's threads have to end before the interpreter does: one that drops a tensor needs the interpreter's
        lock, and aborts the process if it waits for it when finalization begins. They end with the last reference to
        the group, and networks, which refer to it, refer to themselves in circles.
        """
        with suppress(Exception):
            if self._reports:
                self._store.set("reported", "yes")
            elif self._reports is None:
                gc.collect()
                dist.destroy_process_group()


@lru_cache(maxsize=1)
def process_group() -> ProcessGroup:
    """The processes of this job, connected at the first call.

    Raises:
        UserError: they cannot connect.
    """
    process = process_rank()
    if process.size == 1:
        return ProcessGroup()
    try:
        if process.launcher == "torchrun":
            store, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
        else:
            store = _store_of_step(process)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=dist.PrefixStore("group", store), rank=process.rank, world_size=process.size, timeout=PATIENCE,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"process {process.rank} of {process.size} that {process.launcher} started cannot connect to the others: "
            f"{str(error).splitlines()[0]}",
            do="Start every process of the job alike, by torchrun or by srun.",
        ) from None
    group = ProcessGroup(process, store)
    atexit.register(group._leave)
    return group


def _store_of_step(process: ProcessRank) -> Any:
    """The store that connects the processes of a Slurm step: on the first one's machine, at a port of the step's own.

    Another step on the machine may choose the same port. So there are several to try, and the keys begin with the
    step's name: a server without it belongs to somebody else.
    """
    env = os.environ
    step = f"{env['SLURM_JOB_ID']}.{env.get('SLURM_STEP_ID', 0)}.{env.get('SLURM_RESTART_COUNT', 0)}"
    alone = env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES")) == "1"
    host = "127.0.0.1" if alone else first_host(env["SLURM_STEP_NODELIST"])
    ports = random.Random(step).sample(range(20000, 32768), 4)  # below those that connections going out are given
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while True:
        for port in ports:
            try:
                base = dist.TCPStore(host, port, None, process.rank == 0, timeout=_SHORT_WAIT, wait_for_workers=False)
                store = dist.PrefixStore(step, base)
                if process.rank == 0:
                    store.set("here", "yes")
                store.wait(["here"], _SHORT_WAIT)
                base.set_timeout(PATIENCE)
                return store
            except (RuntimeError, OSError):
                if time.monotonic() > deadline:
                    raise
        time.sleep(1)
