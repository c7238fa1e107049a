"""The arguments of models' constructors and of the functions that call them."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["class_arguments", "parameters_of", "sounds_like_loading"]


@lru_cache(maxsize=256)
def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's arguments, without `**kwargs`."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD)


def class_arguments(builder: Callable[..., Any], class_name: str) -> list[str]:
    """The arguments of a class's constructor; [] if `builder`'s module has no such class."""
    model_class = getattr(sys.modules[inspect.unwrap(builder).__module__], class_name, None)
    if model_class is None:
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in inspect.signature(model_class).parameters.values() if p.kind in kinds]


def sounds_like_loading(argument: str) -> bool:
    """Whether libraries load weights by an argument of this name, such as `checkpoint_path`."""
    return re.match(r"(pretrained|checkpoint|weights)_(?!window)", argument) is not None
