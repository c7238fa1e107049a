"""A network with its losses, optimizer and schedule: forward passes and training steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from stitching.config.train_config import TrainConfig
from stitching.nets.network import Network
from stitching.training.batch_norm import WholeBatchNorm
from stitching.training.batch_values import BatchValues
from stitching.training.loop_context import LoopContext
from stitching.training.schedules import advance, cadence_of
from stitching.training.scorer import Scorer
from stitching.training.shared_prefixes import FrozenPrefix

__all__ = ["Learner"]


@dataclass(eq=False)
class Learner:
    """A network, and what trains it.

    Attributes:
        front: what computes the first of the network's pieces for all runs; None if it computes them all itself.
        optimizer: None if nothing in the network is trained.
    """

    config: TrainConfig
    context: LoopContext
    network: Network
    front: FrozenPrefix | None
    scorer: Scorer
    optimizer: Optimizer | None = None
    scheduler: LRScheduler | None = None
    _trainable: list[nn.Parameter] = field(init=False)
    _is_training: bool | None = field(init=False, default=None)  # the mode that the network is in
    _distributed: nn.Module | None = field(init=False, default=None)
    _batch_norm: WholeBatchNorm | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._trainable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        world = self.context.world
        if world.size > 1:
            self._batch_norm = WholeBatchNorm(self.network, world)
        if self.context.compile:
            self.network.compile()

    @property
    def first_piece(self) -> int:
        """The first of the network's pieces that is computed here."""
        return self.front.pieces if self.front else 0

    @property
    def lr(self) -> float:
        """The learning rate now."""
        assert self.optimizer is not None
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def needs_loss_each_step(self) -> bool:
        """Whether the schedule steps by the loss of each step, which must then be fetched from the device."""
        return cadence_of(self.config) == "steps" and isinstance(self.scheduler, ReduceLROnPlateau)

    def join_processes(self) -> None:
        """Average the gradients over all processes from now on; waits for every process."""
        if self.context.world.size > 1:
            pieces = nn.Sequential(*self.network.pieces[self.first_piece :])
            if self.context.compile:
                pieces.compile()
            self._distributed = self.context.world.wrap(pieces)

    def train_step(self, inputs: list[Tensor], labels: list[Tensor], teacher: Tensor | None) -> BatchValues:
        """Train on one batch: the front's features of each task's images, and their labels."""
        assert self.optimizer is not None
        self._switch_to(training=True)
        self.optimizer.zero_grad(set_to_none=True)
        values = self._empty_values(labels)
        with self.context.autocast():
            for task, (x, y) in enumerate(zip(inputs, labels, strict=True)):
                scores = self._scores(x, len(y), task)
                self.scorer.add_training(values, scores, y, task, None if teacher is None else teacher[: len(y)])
        # The processes' gradients are averaged, and the gradient of the whole batch is their sum.
        (values.loss * self.context.world.size).backward()
        values.loss = values.loss.detach()
        if limit := self.config.max_grad_norm:
            nn.utils.clip_grad_norm_(self._trainable, limit)
        self.optimizer.step()
        return values

    @torch.no_grad()
    def eval_step(self, x: Tensor, labels: Tensor, task: int, reference: Tensor | None) -> BatchValues:
        """The loss and metrics of a test batch of one task."""
        self._switch_to(training=False)
        values = self._empty_values([labels])
        with self.context.autocast():
            scores = self._scores(x, len(labels), task)
            self.scorer.add_test(values, scores, labels, task, None if reference is None else reference[: len(labels)])
        return values

    def _empty_values(self, labels: list[Tensor]) -> BatchValues:
        return BatchValues(torch.zeros((), device=self.context.device), sum(map(len, labels)))

    def _scores(self, x: Tensor, images: int, task: int) -> Tensor:
        """The scores (N, classes) of the first `images`; a process that has none computes with one."""
        if self._batch_norm:
            self._batch_norm.has_images = images > 0
        uses_gradients = self._distributed is not None and torch.is_grad_enabled()
        out: Any = self._distributed(x) if uses_gradients else self.network(x, self.first_piece)  # type: ignore[misc]
        return (out[task] if isinstance(out, list) else out)[:images]

    def _switch_to(self, *, training: bool) -> None:
        if self._is_training is not training:
            self.network.train(training)
            self._is_training = training

    def advance(self, cadence: str, monitored: float | None) -> None:
        """Step the schedule if this is its cadence: `steps` or `epochs`."""
        if cadence_of(self.config) == cadence:
            advance(self.scheduler, monitored)

    def state(self, *, whole: bool) -> dict[str, Any]:
        """Plain data for a checkpoint; `whole` adds the frozen parts, for others to load from."""
        return {
            "model": self.network.state_dict() if whole else self.network.changing_state(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint's state."""
        self.network.load_state_dict(state["model"], strict=False)
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
