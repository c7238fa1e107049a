"""Arguments of models' constructors: checked before the call, and errors of the call explained.

A constructor may do anything with an argument that it was not written for: raise any exception, build for hours, or
fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from stitching.config.errors import UserError, at, reason_of, unknown_name
from stitching.config.model_sources import ModelSource

__all__ = ["bounded", "check_argument", "not_built", "shown", "sides"]

LARGEST_NUMBER = 100_000  # as an argument; the largest in use are numbers of classes, up to 21,843
LARGEST_SIDE = 4096  # of an image, in pixels
MOST_LAYERS = 10_000  # modules and parameters; the largest models of timm have 3,500
MOST_BYTES = 80 * 10**9  # of parameters; the largest model of timm has 27 GB


def check_argument(source: ModelSource, model: str, key: str, value: Any) -> Any:
    """An argument of a model's constructor in hashable form: lists become tuples.

    Raises:
        UserError: it would load weights without `ckp_path`, is no plain value, or is too large a number.
    """
    with at(key):
        if source.is_reserved(model, key):
            raise UserError(
                f"{key!r} controls how a model is built and loaded; it is no argument of {source.title(model)} itself",
                do="Set a file of weights as `ckp_path`; published weights as `model_name: resnet50.a1_in1k` (timm) "
                "or `weights: IMAGENET1K_V1` (torchvision).",
            )
        return _plain(key, value)


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(key, item) for item in value)
    if isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:  # NaN is no number, either
        raise UserError(f"the model's argument {key!r} is {value}", allowed=f"numbers up to {LARGEST_NUMBER:,}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"the model's argument {key!r} is {type(value).__name__}", allowed="a number, text, true, false or a list"
    )


def sides(key: str, value: Any) -> tuple[int, int]:
    """(height, width) from an argument such as `img_size`."""
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in pair):
        yaml_value = list(value) if isinstance(value, tuple) else value
        raise UserError(
            f"{key} is {yaml_value}",
            path=(key,),
            allowed=f"a side or [height, width], whole numbers up to {LARGEST_SIDE:,}",
        )
    return pair


@contextmanager
def bounded() -> Iterator[None]:
    """Raise `ValueError` when the body builds more layers or larger parameters than any known model has."""
    layers, num_bytes = 0, 0
    memory = psutil.virtual_memory().total

    def count(_module: nn.Module, _name: str, added: nn.Module | Tensor | None) -> None:
        nonlocal layers, num_bytes
        layers += 1
        if layers > MOST_LAYERS:
            raise ValueError(f"it would have more than {MOST_LAYERS:,} layers and parameters")
        if isinstance(added, Tensor):
            num_bytes += added.numel() * added.element_size()
            allowed = MOST_BYTES if added.is_meta else min(MOST_BYTES, memory)
            if num_bytes > allowed:
                raise ValueError(f"its parameters would have more than {allowed / 1e9:.0f} GB")

    hooks = [register_module_module_registration_hook(count), register_module_parameter_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def not_built(source: ModelSource, name: str, args: Mapping[str, Any], error: Exception) -> UserError:
    """The error for a user whose arguments made a model's constructor, or the model itself, raise `error`."""
    title = source.title(name)
    unknown = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[2] in args and (names := source.constructor_arguments(name, unknown[1])):
        return unknown_name(f"argument of {title}", unknown[2], names)
    return UserError(f"{title} cannot be built with {shown(args)}: {reason_of(error)}")


def shown(args: Mapping[str, Any]) -> str:
    """Arguments of a constructor as in YAML."""
    return ", ".join(f"{key}: {list(value) if isinstance(value, tuple) else value}" for key, value in args.items())
