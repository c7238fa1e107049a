"""How far a run has come in its training, and what is left: numbers only."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Position"]


@dataclass
class Position:
    """How far a training of `epochs` epochs has come.

    Attributes:
        epochs: the last epoch.
        batches_per_epoch: how many batches an epoch has, unless `max_steps` ends it earlier.
        max_steps: no more steps than these; None for no such limit.
        epochs_before: epochs that count as trained before the start.
        trains: whether there is anything to train; else the run is only tested.
        epoch: the current one, from 1.
        batch: the next batch of the epoch, from 0.
        step: how many steps are done.
    """

    epochs: int
    batches_per_epoch: int
    max_steps: int | None = None
    epochs_before: int = 0
    trains: bool = True
    epoch: int = field(init=False)
    batch: int = field(init=False, default=0)
    step: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.epoch = self.epochs_before + 1
        self.trains = self.trains and self.epochs > self.epochs_before

    @property
    def total_steps(self) -> int:
        """The number of steps of the whole run."""
        if not self.trains:
            return 0
        steps = (self.epochs - self.epochs_before) * self.batches_per_epoch
        return min(steps, self.max_steps or steps)

    @property
    def batches_in_epoch(self) -> int:
        """The number of batches of the current epoch; `max_steps` may cut the last one short."""
        return min(self.batches_per_epoch, self.batch + self._steps_left)

    @property
    def _steps_left(self) -> int:
        return self.batches_per_epoch if self.max_steps is None else self.max_steps - self.step

    def due(self, index: int) -> bool:
        """Whether batch `index` of the current epoch is the next one to train on."""
        return self.batch == index < self.batches_in_epoch

    @property
    def is_at_last_batch(self) -> bool:
        """Whether the next batch is the last one of its epoch."""
        return self.batch + 1 >= self.batches_in_epoch

    @property
    def epoch_is_trained(self) -> bool:
        """Whether all batches of the current epoch were trained on; the epoch may still have to be tested."""
        return self.batch >= self.batches_in_epoch

    @property
    def is_in_last_epoch(self) -> bool:
        """Whether no epoch follows the current one, all batches of which were trained on."""
        return self.epoch >= self.epochs or self._steps_left == 0

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train, and the last epoch has ended."""
        return not self.trains or self.epoch > self.epochs or (self.batch == 0 and self._steps_left == 0)

    def advance(self) -> None:
        """Count a step."""
        self.step += 1
        self.batch += 1

    def next_epoch(self) -> None:
        """Go to the next epoch, once this one is tested."""
        self.epoch += 1
        self.batch = 0

    def go_back_to(self, step: int) -> None:
        """Uncount the steps of this epoch after number `step`."""
        self.batch -= self.step - step
        self.step = step

    def state(self) -> dict[str, int]:
        """Plain data for a checkpoint."""
        return {"epoch": self.epoch, "batch": self.batch, "step": self.step}

    def restore(self, state: dict[str, int]) -> None:
        """Return to a saved state."""
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
