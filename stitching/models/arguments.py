"""The border to the constructors of models, most of them other people's: what they are given, and what they raise.

The arguments are a user's, and a constructor may do anything with one that it was not written for: raise whatever its
first wrong step raises, build for hours, or fill the memory.
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

LARGEST_NUMBER = 100_000  # of an argument; the largest in use are numbers of classes, up to 21,843
LARGEST_SIDE = 4096  # of an image, in pixels
MOST_LAYERS = 10_000  # modules and parameters; the largest models of timm have 3,500
MOST_BYTES = 80 * 10**9  # of parameters; the largest model of timm has 27 GB


def check_argument(source: ModelSource, model: str, key: str, value: Any) -> Any:
    """An argument of a model's constructor as something hashable: lists become tuples.

    Raises:
        UserError: it loads weights past `ckp_path`, is no plain value, or is a number that no model is made for.
    """
    with at(key):
        if source.is_reserved(model, key):
            raise UserError(
                f"{key!r} is for whoever builds and loads a model, and no argument of {source.title(model)} itself",
                do="A file of weights is given as `ckp_path`; published ones as `model_name: resnet50.a1_in1k` (timm) "
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
    """(height, width) of the images that an argument such as `img_size` names."""
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in pair):
        found = list(value) if isinstance(value, tuple) else value
        raise UserError(
            f"{key} is {found}", path=(key,), allowed=f"a side or [height, width], whole numbers up to {LARGEST_SIDE:,}"
        )
    return pair


@contextmanager
def bounded() -> Iterator[None]:
    """Stop with a `ValueError` when what the body builds has more layers or larger parameters than any known model."""
    layers, num_bytes = 0, 0
    memory = psutil.virtual_memory().total

    def count(_module: nn.Module, _name: str, made: nn.Module | Tensor | None) -> None:
        nonlocal layers, num_bytes
        layers += 1
        if layers > MOST_LAYERS:
            raise ValueError(f"it would have more than {MOST_LAYERS:,} layers and parameters")
        if isinstance(made, Tensor):
            num_bytes += made.numel() * made.element_size()
            allowed = MOST_BYTES if made.is_meta else min(MOST_BYTES, memory)
            if num_bytes > allowed:
                raise ValueError(f"its parameters would have more than {allowed / 1e9:.0f} GB")

    hooks = [register_module_module_registration_hook(count), register_module_parameter_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def not_built(source: ModelSource, name: str, args: Mapping[str, Any], error: Exception) -> UserError:
    """What to tell of arguments with which a model's constructor, or the model itself, raised `error`."""
    title = source.title(name)
    unknown = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[2] in args and (names := source.constructor_arguments(name, unknown[1])):
        return unknown_name(f"argument of {title}", unknown[2], names)
    return UserError(f"{title} cannot be built with {shown(args)}: {reason_of(error)}")


def shown(args: Mapping[str, Any]) -> str:
    """Arguments of a constructor as they stand in YAML."""
    return ", ".join(f"{key}: {list(value) if isinstance(value, tuple) else value}" for key, value in args.items())
