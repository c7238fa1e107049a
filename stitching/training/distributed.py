"""The processes that train one job together, one for each GPU; for a process that is alone, nothing here does anything.

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
from stitching.training.failures import in_words

__all__ = ["ProcessGroup", "process_group"]

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)  # that a process waits for the others: what one does alone is writing a checkpoint
_A_MOMENT = timedelta(seconds=5)


class ProcessGroup:
    """The processes of this job, and what they do together; each must do it at the same point of its work.

    Numbers travel between CPUs by gloo, tensors on GPUs by nccl.
    """

    def __init__(self, own: ProcessRank | None = None, store: Any = None) -> None:
        own = own or ProcessRank()
        self.rank, self.size, self.local_rank = own.rank, own.size, own.local_rank
        self._store = store
        self._tells: bool | None = None

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
        """The highest of each number among the processes; also a point that none passes before all are there."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Sequence[float], how: Any) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, how)
        return tensor.tolist()

    def decided(self, decide: Callable[[], T]) -> T:
        """What `decide` gives in the first process, which alone calls it; a `UserError` there is raised in all."""
        with self.together():
            found = [decide() if self.is_first else None]
        if self.size > 1:
            dist.broadcast_object_list(found, src=0)
        return found[0]  # type: ignore[return-value]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the body together: what one process raises there is raised in all. No other joint work in the body.

        Raises:
            OutOfMemory: whatever exception said so.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = in_words(error)
            if self.size == 1:
                raise problem  # noqa: B904 - what it was raised for is its context
        if self.size == 1:
            return
        own = problem if problem is None or isinstance(problem, UserError) else "a defect, which that process shows"
        problems: list[Any] = [None] * self.size
        dist.all_gather_object(problems, own)
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

    def first_to_tell(self) -> bool:
        """Whether it is this process that tells of the failure which ends the job: the first that comes to ask.

        The others wait until it has, because the launcher ends all processes as soon as one of them has failed.
        """
        if self._tells is None:
            self._tells = True
            with suppress(Exception):  # with the store, the process that keeps it is gone
                self._tells = self.size == 1 or self._store.add("failures", 1) == 1
            if not self._tells:
                with suppress(Exception):
                    self._store.wait(["reported"], _A_MOMENT)
        return self._tells

    def _leave(self) -> None:
        """At the end of the process; how long the others live does not matter if this one failed.

        The group's threads have to end before the interpreter does: one that drops a tensor needs the interpreter's
        lock, and aborts the process if it waits for it when finalization begins. They end with the last reference to
        the group, and networks, which refer to it, refer to themselves in circles.
        """
        with suppress(Exception):
            if self._tells:
                self._store.set("reported", "yes")
            elif self._tells is None:
                gc.collect()
                dist.destroy_process_group()


@lru_cache(maxsize=1)
def process_group() -> ProcessGroup:
    """The processes of this job, met at the first call.

    Raises:
        UserError: they do not come together.
    """
    own = process_rank()
    if own.size == 1:
        return ProcessGroup()
    try:
        if own.launcher == "torchrun":
            store, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
        else:
            store = _store_of_step(own)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=dist.PrefixStore("group", store), rank=own.rank, world_size=own.size, timeout=PATIENCE,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"process {own.rank} did not meet the {own.size - 1} others that {own.launcher} says there are: "
            f"{str(error).splitlines()[0]}",
            do="Start every process of the job alike, by torchrun or by srun.",
        ) from None
    group = ProcessGroup(own, store)
    atexit.register(group._leave)
    return group


def _store_of_step(own: ProcessRank) -> Any:
    """Where the processes of a Slurm step meet: on the first one's machine, at a port that only this step finds.

    Another step on the machine may have the same port in mind. So there is a row of ports to try, and the keys are
    under the step's name: whoever answers without having it is somebody else.
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
                base = dist.TCPStore(host, port, None, own.rank == 0, timeout=_A_MOMENT, wait_for_workers=False)
                store = dist.PrefixStore(step, base)
                if own.rank == 0:
                    store.set("here", "yes")
                store.wait(["here"], _A_MOMENT)
                base.set_timeout(PATIENCE)
                return store
            except (RuntimeError, OSError):
                if time.monotonic() > deadline:
                    raise
        time.sleep(1)
