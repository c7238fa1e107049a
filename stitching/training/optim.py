"""Optimizers and learning-rate schedules: any class of torch.optim, looked up by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from stitching.config.errors import UserError, at, nearest, unknown_name
from stitching.config.train_config import LRSchedulerArgs, TrainConfig

__all__ = ["advance", "make_optimizer", "make_scheduler", "try_training"]


def _classes(module: Any, base: type, without: tuple[str, ...]) -> dict[str, type]:
    found = {name: item for name, item in vars(module).items() if inspect.isclass(item) and issubclass(item, base)}
    return {name: item for name, item in found.items() if item is not base and name not in without and name[0] != "_"}


# LBFGS evaluates the loss several times in a step; SparseAdam takes sparse gradients only.
_OPTIMIZERS = _classes(torch.optim, Optimizer, ("LBFGS", "SparseAdam"))
# A function of the epoch cannot be written in YAML without evaluating code.
_SCHEDULERS = _classes(lr_scheduler, lr_scheduler.LRScheduler, ("LRScheduler", "LambdaLR", "MultiplicativeLR"))


_TRIED_STEPS = 50_000


def make_optimizer(config: TrainConfig, parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
    """The config's optimizer over `parameters`, which have names. Raises `UserError` for a wrong name or argument."""
    if config.optimizer not in _OPTIMIZERS:
        raise unknown_name("optimizer", config.optimizer, _OPTIMIZERS, path=("optimizer",))
    cls = _OPTIMIZERS[config.optimizer]
    groups = _groups(config, cls, list(parameters))
    with at("optimizer_args"):
        _known_arguments(cls, config.optimizer_args, "params")
        arguments = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.optimizer_args.items()
        }
        return _called(cls, groups, **arguments)


def _groups(config: TrainConfig, cls: type, parameters: list[tuple[str, nn.Parameter]]) -> list[Any]:
    """The parameters, in a group for those that decay and one for those that do not where the config tells them apart.

    A matrix is what has at least two dimensions and is called a weight, as those of convolutions and linear layers are.
    timm leaves out the same: norms and biases, and by name class tokens, position embeddings and tables of them.
    """
    if config.weight_decay_on == "all":
        return [parameter for _, parameter in parameters]
    if "weight_decay" not in inspect.signature(cls).parameters:
        raise UserError(f"{cls.__name__} has no weight decay", allowed="all", path=("weight_decay_on",))
    matrices = [p for name, p in parameters if p.dim() > 1 and name.endswith("weight")]
    others = [p for name, p in parameters if not (p.dim() > 1 and name.endswith("weight"))]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_scheduler(config: TrainConfig, optimizer: Optimizer) -> lr_scheduler.LRScheduler | None:
    """The config's learning-rate schedule; None for a constant rate. Raises `UserError` as `make_optimizer` does."""
    if config.lr_scheduler is None:
        return None
    args = config.lr_scheduler_args or LRSchedulerArgs()
    _check_monitor(config, args)
    return _scheduler(config.lr_scheduler, args, optimizer)


def _check_monitor(config: TrainConfig, args: LRSchedulerArgs) -> None:
    """Raise `UserError` if the number that ReduceLROnPlateau is to watch is not there when it steps."""
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


def try_training(config: TrainConfig, schedule_steps: int, device: torch.device | None) -> None:
    """Step the optimizer once and the schedule to its end, on parameters that are thrown away.

    Many wrong arguments show only then, which in training would be after hours.

    Args:
        config: what to try.
        schedule_steps: how often the schedule will be stepped.
        device: where training will be; None if that is another machine, and the optimizer is only made.

    Raises:
        UserError: one of them cannot make its steps.
    """
    _tried(config.model_dump_json(), schedule_steps, device)


@lru_cache(maxsize=64)
def _tried(config_json: str, schedule_steps: int, device: torch.device | None) -> None:
    config = TrainConfig.model_validate_json(config_json)
    parameters = {
        "weight": nn.Parameter(torch.zeros(2, 2, device=device)),
        "bias": nn.Parameter(torch.zeros(2, device=device)),
    }
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(config, parameters.items())
    scheduler = make_scheduler(config, optimizer)
    try:
        if device:
            optimizer.step()
    except Exception as error:
        with at("optimizer_args"):
            raise _about_arguments(config.optimizer, error) from None
    try:
        with warnings.catch_warnings(action="ignore"):  # that the optimizer makes no steps meanwhile
            for _ in range(min(schedule_steps, _TRIED_STEPS) if scheduler else 0):
                advance(scheduler, 1.0)
            if scheduler and schedule_steps > _TRIED_STEPS:  # a second is enough; of the rest only the end is tried
                scheduler.last_epoch = schedule_steps - 1
                advance(scheduler, 1.0)
    except Exception as error:
        with at("lr_scheduler_args"):
            raise _about_arguments(str(config.lr_scheduler), error) from None


def _scheduler(name: str, args: LRSchedulerArgs, optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    if name not in _SCHEDULERS:
        raise unknown_name("learning-rate scheduler", name, _SCHEDULERS, path=("lr_scheduler",))
    cls = _SCHEDULERS[name]
    with at("lr_scheduler_args"):
        given = args.torch_args
        nests = "schedulers" in inspect.signature(cls).parameters
        if nests != (args.schedulers is not None):
            wants = "a list `schedulers:`" if nests else "no `schedulers`"
            raise UserError(f"{name} takes {wants}", path=("schedulers",) if args.schedulers else ())
        if cls is lr_scheduler.ReduceLROnPlateau:
            given = _with_mode(args, given)
        elif args.monitor is not None:
            raise UserError(f"{name} watches no number", allowed="monitor of ReduceLROnPlateau", path=("monitor",))
        _known_arguments(cls, given, "optimizer", "schedulers")
        if args.schedulers is None:
            return _called(cls, optimizer, **given)
        inner = []
        for i, nested in enumerate(args.schedulers):
            with at("schedulers", i):
                inner.append(_scheduler(nested.lr_scheduler, nested.lr_scheduler_args or LRSchedulerArgs(), optimizer))
        if name == "ChainedScheduler":
            return _called(cls, inner, optimizer=optimizer, **given)
        return _called(cls, optimizer, inner, **given)


def _with_mode(args: LRSchedulerArgs, given: dict[str, Any]) -> dict[str, Any]:
    """What is given, with the mode that fits what is monitored."""
    monitor = args.monitor or "Loss"
    mode = "max" if monitor.endswith("Accuracy") else "min"
    if given.get("mode", mode) != mode:
        raise UserError(f"found {given['mode']!r}", allowed=f"{mode}, for {monitor}", path=("mode",))
    return given | {"mode": mode}


def _known_arguments(cls: type, given: dict[str, Any], *ours: str) -> None:
    allowed = [name for name in inspect.signature(cls).parameters if name not in (*ours, "self")]
    for key in given:
        if key not in allowed:
            best = nearest(key, allowed)
            hint = f"; did you mean {best!r}?" if best else ""
            raise UserError(f"{cls.__name__} takes no {key!r}{hint}", allowed=", ".join(allowed), path=(key,))
        usual = inspect.signature(cls).parameters[key].default
        numeric = isinstance(usual, int | float) and not isinstance(usual, bool)
        if isinstance(given[key], list) and not all(_is_number(item) for item in given[key]):
            raise UserError(f"expected numbers, found {given[key]!r}", path=(key,))
        if numeric and not _is_number(given[key]):
            raise UserError(f"expected a number, found {given[key]!r}", path=(key,))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _called(cls: type, *args: Any, **kwargs: Any) -> Any:
    try:
        return cls(*args, **kwargs)
    except Exception as error:  # whatever it raises, it is about the arguments
        raise _about_arguments(cls.__name__, error) from None


def _about_arguments(name: str, error: Exception) -> UserError:
    words = (str(error).strip() or "it does not take these values").splitlines()[0]
    return UserError(f"{name}: {words}" + ("" if isinstance(error, ValueError) else f" ({type(error).__name__})"))
