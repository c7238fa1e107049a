"""A user's own model: `module: my_models.py:make_net`, a function (or class) of a file or of an installed module.

The function is called with the part's further keys and returns a new `nn.Module` each time. The same file may define:

    default_input_shape = (1, 8, 8)      # (C, H, W) of its images; by default those of the data
    untraced_modules = (MyAttention,)    # classes whose forward cannot be traced; they are never cut inside
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stitching.config.errors import UserError, shortened, unknown_name
from stitching.config.model_sources import SOURCES, ModelSource
from stitching.config.user_code import UserCode, error_in_user_code, load_user_code, resolved_code, user_code_digest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["USER_MODELS"]


class UserModels(ModelSource):
    """A name is `<file or dotted module>:<function>`; a relative file is looked up in the current folder."""

    name: ClassVar[str] = "module"
    key: ClassVar[str | None] = "module"
    weights_hint: ClassVar[str | None] = "Set ckp_path to a file of weights, or let the function load them."

    def build(self, name: str, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
        from torch import nn

        model = _function(name)(**args)
        if not isinstance(model, nn.Module):
            raise UserError(f"{name} returns {shortened(model)}", allowed="an nn.Module")
        return model

    def resolve(self, name: str) -> str:
        file, function = _split(name)
        file = resolved_code(file, Path())
        user_code_digest(file, Path())  # raises if there is no such file
        return f"{file}:{function}"

    def version(self, name: str) -> str | None:
        return user_code_digest(_split(name)[0], Path())

    def title(self, name: str) -> str:
        file, function = _split(name)
        stem = Path(file).stem if file.endswith(".py") else file.rpartition(".")[2]
        return f"{self.name}/{stem}.{function}"

    @property
    def usage(self) -> str:
        return f"{self.name}:FILE:FUNCTION"

    def keys(self, name: str) -> dict[str, Any]:
        return {"module": name}

    def seed_name(self, name: str) -> tuple[str, str]:
        return self.name, _split(name)[1]  # neither the file's folder nor its name

    def identity(self, name: str, weights: str | None, published: bool) -> tuple[str, str | None]:
        return f"{self.name}/{self.version(name)}:{_split(name)[1]}", None

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        shape = getattr(_code(name).module, "default_input_shape", None)
        if shape is None:
            return None
        if not isinstance(shape, list | tuple) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
            raise UserError(
                f"{_split(name)[0]}: default_input_shape is {shortened(shape)}", allowed="(C, H, W), whole numbers"
            )
        return shape[0], shape[1], shape[2]

    def takes_argument(self, name: str, argument: str) -> bool:
        parameters = inspect.signature(_function(name)).parameters
        return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def constructor_arguments(self, name: str, class_name: str) -> list[str]:
        function = _function(name)
        return list(inspect.signature(function).parameters) if function.__name__ == class_name else []

    def untraced_modules(self, name: str) -> Sequence[type[nn.Module]]:
        return tuple(getattr(_code(name).module, "untraced_modules", ()))

    def build_error(self, name: str, error: Exception) -> UserError | None:
        return error_in_user_code(error, _code(name))


def _split(name: str) -> tuple[str, str]:
    file, colon, function = name.rpartition(":")
    if not colon or not file or not function.isidentifier():
        raise UserError(f"{name!r} names no function", allowed="FILE:FUNCTION, e.g. my_models.py:make_net")
    return file, function


def _code(name: str) -> UserCode:
    return load_user_code(_split(name)[0], Path())


def _function(name: str) -> Any:
    file, function = _split(name)
    module = _code(name).module
    candidate = getattr(module, function, None)
    if not callable(candidate):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"function in {file}", function, public)
    return candidate


USER_MODELS = SOURCES.register("module")(UserModels())
