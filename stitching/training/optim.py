"""Optimizers and learning-rate schedules: any class of torch.optim, looked up by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from stitching.config.errors import UserError, at, nearest, unknown_name
from stitching.config.job import LRSchedulerArgs, TrainConfig

__all__ = ["make_optimizer", "make_scheduler"]


def _classes(module: Any, base: type, without: tuple[str, ...]) -> dict[str, type]:
    found = {name: item for name, item in vars(module).items() if inspect.isclass(item) and issubclass(item, base)}
    return {name: item for name, item in found.items() if item is not base and name not in without and name[0] != "_"}


# LBFGS evaluates the loss several times in a step; SparseAdam takes sparse gradients only.
_OPTIMIZERS = _classes(torch.optim, Optimizer, ("LBFGS", "SparseAdam"))
# A function of the epoch cannot be written in YAML without evaluating code.
_SCHEDULERS = _classes(lr_scheduler, lr_scheduler.LRScheduler, ("LRScheduler", "LambdaLR", "MultiplicativeLR"))


def make_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The config's optimizer over `parameters`. Raises `UserError` for an unknown name or argument."""
    if config.optimizer not in _OPTIMIZERS:
        raise unknown_name("optimizer", config.optimizer, _OPTIMIZERS, path=("optimizer",))
    cls = _OPTIMIZERS[config.optimizer]
    with at("optimizer_args"):
        _known_arguments(cls, config.optimizer_args, "params")
        arguments = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.optimizer_args.items()
        }
        return _called(cls, parameters, **arguments)


def make_scheduler(config: TrainConfig, optimizer: Optimizer) -> lr_scheduler.LRScheduler | None:
    """The config's learning-rate schedule; None for a constant rate. Raises `UserError` as `make_optimizer` does."""
    if config.lr_scheduler is None:
        return None
    return _scheduler(config.lr_scheduler, config.lr_scheduler_args or LRSchedulerArgs(), optimizer)


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
        _known_arguments(cls, given, "optimizer", "schedulers")
        if args.schedulers is None:
            return _called(cls, optimizer, **given)
        inner = []
        for i, nested in enumerate(args.schedulers):
            with at("schedulers", i):
                inner.append(_scheduler(nested.lr_scheduler, nested.lr_scheduler_args, optimizer))
        if name == "ChainedScheduler":
            return _called(cls, inner, optimizer=optimizer, **given)
        return _called(cls, optimizer, inner, **given)


def _known_arguments(cls: type, given: dict[str, Any], *ours: str) -> None:
    allowed = [name for name in inspect.signature(cls).parameters if name not in (*ours, "self")]
    for key in given:
        if key not in allowed:
            best = nearest(key, allowed)
            hint = f"; did you mean {best!r}?" if best else ""
            raise UserError(f"{cls.__name__} takes no {key!r}{hint}", allowed=", ".join(allowed), path=(key,))
        usual = inspect.signature(cls).parameters[key].default
        numeric = isinstance(usual, int | float) and not isinstance(usual, bool)
        if numeric and (isinstance(given[key], bool) or not isinstance(given[key], int | float)):
            raise UserError(f"expected a number, found {given[key]!r}", path=(key,))


def _called(cls: type, *args: Any, **kwargs: Any) -> Any:
    try:
        return cls(*args, **kwargs)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{cls.__name__}: {str(error).splitlines()[0]}") from None
