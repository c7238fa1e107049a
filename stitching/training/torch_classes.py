"""Classes of torch by the names that a config gives them: which there are, and making one of a config's arguments."""

from __future__ import annotations

import inspect
from typing import Any

from stitching.config.errors import UserError, did_you_mean

__all__ = ["argument_error", "check_arguments", "classes_in", "create"]


def classes_in(module: Any, base: type, without: tuple[str, ...]) -> dict[str, type]:
    """The public subclasses of `base` in a module, by name, but for those named in `without`."""
    classes = {name: item for name, item in vars(module).items() if inspect.isclass(item) and issubclass(item, base)}
    return {name: item for name, item in classes.items() if item is not base and name not in without and name[0] != "_"}


def check_arguments(cls: type, arguments: dict[str, Any], *ours: str) -> None:
    """Raise `UserError` for an argument that `cls` does not take, or that is no number where it takes one.

    Args:
        ours: arguments that the config does not give.
    """
    parameters = inspect.signature(cls).parameters
    allowed = [name for name in parameters if name not in (*ours, "self")]
    for key, value in arguments.items():
        if key not in allowed:
            problem = f"{cls.__name__} takes no {key!r}{did_you_mean(key, allowed)}"
            raise UserError(problem, allowed=", ".join(allowed), path=(key,))
        if isinstance(value, list) and not all(_is_number(item) for item in value):
            raise UserError(f"expected numbers, found {value!r}", path=(key,))
        if _is_number(parameters[key].default) and not _is_number(value):
            raise UserError(f"expected a number, found {value!r}", path=(key,))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def create(cls: type, *args: Any, **kwargs: Any) -> Any:
    """`cls(...)`; whatever it raises is a `UserError` about its arguments."""
    try:
        return cls(*args, **kwargs)
    except Exception as error:
        raise argument_error(cls.__name__, error) from None


def argument_error(name: str, error: Exception) -> UserError:
    """What to raise for an exception that the arguments of `name` led to."""
    reason = (str(error).strip() or "it does not take these values").splitlines()[0]
    return UserError(f"{name}: {reason}" + ("" if isinstance(error, ValueError) else f" ({type(error).__name__})"))
