"""Learning-rate schedules: the classes of torch.optim.lr_scheduler, looked up by name."""

from __future__ import annotations

import inspect
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from stitching.config.errors import UserError, at, unknown_name
from stitching.config.train_config import LRSchedulerArgs, TrainConfig
from stitching.training.torch_classes import check_arguments, classes_in, create

__all__ = ["LR_SCHEDULERS", "advance", "cadence_of", "make_scheduler"]

# A function of the epoch cannot be written in YAML without evaluating code.
LR_SCHEDULERS = classes_in(lr_scheduler, lr_scheduler.LRScheduler, ("LRScheduler", "LambdaLR", "MultiplicativeLR"))


def cadence_of(config: TrainConfig) -> str:
    """When the schedule steps: after all `epochs`, or all `steps`."""
    return (config.lr_scheduler_args or LRSchedulerArgs()).cadence


def make_scheduler(config: TrainConfig, optimizer: Optimizer) -> lr_scheduler.LRScheduler | None:
    """The config's learning-rate schedule; None for a constant rate. Raises `UserError` as `make_optimizer` does."""
    if config.lr_scheduler is None:
        return None
    args = config.lr_scheduler_args or LRSchedulerArgs()
    _check_monitor(config, args)
    return _scheduler(config.lr_scheduler, args, optimizer)


def _check_monitor(config: TrainConfig, args: LRSchedulerArgs) -> None:
    """Raise `UserError` if the number that ReduceLROnPlateau watches is not measured before it steps."""
    monitor = args.monitor
    if monitor is None:
        return
    problem = None
    if monitor.startswith("Val ") and config.validation is None:
        problem, allowed = f"{monitor}, and no images are held out", "a `validation:` split, or Train Loss"
    elif args.cadence == "steps" and monitor != "Train Loss":
        problem, allowed = f"{monitor}, which no single step has", "Train Loss, or `cadence: epochs`"
    elif monitor.endswith("Accuracy") and len(config.task_list) > 1:
        problem, allowed = f"{monitor}, and there are several tasks", "Train Loss, Val Loss: the sum over the tasks"
    if problem:
        raise UserError(f"found {problem}", allowed=allowed, path=("lr_scheduler_args", "monitor"))


def advance(scheduler: lr_scheduler.LRScheduler | None, monitored: float | None) -> None:
    """Step a schedule; ReduceLROnPlateau looks at the monitored number, and waits where there is none."""
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        if monitored is not None:
            scheduler.step(monitored)
    elif scheduler is not None:
        scheduler.step()


def _scheduler(name: str, args: LRSchedulerArgs, optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    if name not in LR_SCHEDULERS:
        raise unknown_name("learning-rate scheduler", name, LR_SCHEDULERS, path=("lr_scheduler",))
    cls = LR_SCHEDULERS[name]
    with at("lr_scheduler_args"):
        arguments = args.torch_args
        nests = "schedulers" in inspect.signature(cls).parameters
        if nests != (args.schedulers is not None):
            wants = "a list `schedulers:`" if nests else "no `schedulers`"
            raise UserError(f"{name} takes {wants}", path=("schedulers",) if args.schedulers else ())
        if cls is lr_scheduler.ReduceLROnPlateau:
            arguments = _with_mode(args, arguments)
        elif args.monitor is not None:
            raise UserError(f"{name} watches no number", allowed="monitor of ReduceLROnPlateau", path=("monitor",))
        check_arguments(cls, arguments, "optimizer", "schedulers")
        if args.schedulers is None:
            return create(cls, optimizer, **arguments)
        inner = []
        for i, nested in enumerate(args.schedulers):
            with at("schedulers", i):
                inner.append(_scheduler(nested.lr_scheduler, nested.lr_scheduler_args or LRSchedulerArgs(), optimizer))
        if name == "ChainedScheduler":
            return create(cls, inner, optimizer=optimizer, **arguments)
        return create(cls, optimizer, inner, **arguments)


def _with_mode(args: LRSchedulerArgs, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ReduceLROnPlateau with the mode that fits the monitored number."""
    monitor = args.monitor or "Loss"
    mode = "max" if monitor.endswith("Accuracy") else "min"
    if arguments.get("mode", mode) != mode:
        raise UserError(f"found {arguments['mode']!r}", allowed=f"{mode}, for {monitor}", path=("mode",))
    return arguments | {"mode": mode}
