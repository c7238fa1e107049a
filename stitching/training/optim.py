"""Optimizers: the classes of torch.optim, looked up by name; and a try of both optimizer and schedule."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stitching.config.errors import UserError, at, unknown_name
from stitching.config.train_config import TrainConfig
from stitching.training.schedules import advance, make_scheduler
from stitching.training.torch_classes import argument_error, check_arguments, classes_in, create

__all__ = ["OPTIMIZERS", "make_optimizer", "try_training"]

# LBFGS evaluates the loss several times in a step; SparseAdam takes sparse gradients only.
OPTIMIZERS = classes_in(torch.optim, Optimizer, ("LBFGS", "SparseAdam"))

_MOST_TRIED_STEPS = 50_000  # of a schedule, which takes a second; beyond them only its end is tried


def make_optimizer(config: TrainConfig, parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
    """The config's optimizer over `parameters`, which have names. Raises `UserError` for a wrong name or argument."""
    if config.optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", config.optimizer, OPTIMIZERS, path=("optimizer",))
    cls = OPTIMIZERS[config.optimizer]
    groups = _groups(config, cls, list(parameters))
    with at("optimizer_args"):
        check_arguments(cls, config.optimizer_args, "params")
        arguments = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.optimizer_args.items()
        }
        return create(cls, groups, **arguments)


def _groups(config: TrainConfig, cls: type, parameters: list[tuple[str, nn.Parameter]]) -> list[Any]:
    """The parameters; with `weight_decay_on: matrices` in two groups, those that decay and those that do not.

    A matrix has at least two dimensions and is called a weight, as those of convolutions and linear layers are. timm
    leaves out the same: norms and biases, and by name class tokens, position embeddings and tables of them.
    """
    if config.weight_decay_on == "all":
        return [parameter for _, parameter in parameters]
    if "weight_decay" not in inspect.signature(cls).parameters:
        raise UserError(f"{cls.__name__} has no weight decay", allowed="all", path=("weight_decay_on",))
    decaying = [p for name, p in parameters if p.dim() > 1 and name.endswith("weight")]
    others = [p for name, p in parameters if not (p.dim() > 1 and name.endswith("weight"))]
    groups: list[dict[str, Any]] = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def try_training(config: TrainConfig, schedule_steps: int, device: torch.device | None) -> None:
    """Step the optimizer once and the schedule to its end, on parameters that are thrown away.

    Many wrong arguments fail only then, which in training would be after hours.

    Args:
        config: what to try.
        schedule_steps: how often the schedule will be stepped.
        device: where training will be; None if that is another machine: then the optimizer makes no step.

    Raises:
        UserError: one of them cannot make its steps.
    """
    _try_once(config.model_dump_json(), schedule_steps, device)


@lru_cache(maxsize=64)
def _try_once(config_json: str, schedule_steps: int, device: torch.device | None) -> None:
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
            raise argument_error(config.optimizer, error) from None
    try:
        with warnings.catch_warnings(action="ignore"):  # about the optimizer, which makes no steps meanwhile
            for _ in range(min(schedule_steps, _MOST_TRIED_STEPS) if scheduler else 0):
                advance(scheduler, 1.0)
            if scheduler and schedule_steps > _MOST_TRIED_STEPS:
                scheduler.last_epoch = schedule_steps - 1
                advance(scheduler, 1.0)
    except Exception as error:
        with at("lr_scheduler_args"):
            raise argument_error(str(config.lr_scheduler), error) from None
