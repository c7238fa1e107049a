"""A piece of a model as a module of its own: copies of the submodules it uses, run by the model's own graphs."""

from __future__ import annotations

import copy
import hashlib
import importlib
import linecache
import re
from collections.abc import Callable, Mapping
from itertools import chain
from types import ModuleType
from typing import Any

from torch import Tensor, fx, nn

from stitching.config.errors import UserError
from stitching.cutting.formats import Format
from stitching.cutting.tracing import all_tensors

__all__ = ["CutModule", "by", "check_map", "check_size"]

Sizes = tuple[int, ...]


def check_size(x: Tensor, shape: Sizes, images: str) -> None:
    """Stop a piece that holds sizes of other images than those that its input is from.

    Args:
        x: the input (N, ...).
        shape: of the input without the batch, for the images that the piece was cut for.
        images: the size of those images in words.
    """
    if tuple(x.shape[1:]) != shape:
        raise UserError(
            f"this piece was cut for {images} images, where its input is {by(shape)} for each, and got "
            f"{by(x.shape[1:])}",
            do="Cut the model for images of this size, or give the piece the size that it was cut for.",
        )


def check_map(x: Tensor, out: Tensor, shape: Sizes, out_shape: Sizes, images: str) -> None:
    """Stop a piece whose output, of images of another size, would pass for that of the images it was cut for."""
    if tuple(x.shape[1:]) != shape and tuple(out.shape[1:]) == out_shape:
        raise UserError(
            f"this piece was cut for {images} images, where its input is {by(shape)} for each; the rest of the model "
            f"could not tell the output for {by(x.shape[1:])} from the one that it was cut for",
            do="Cut the model for images of this size.",
        )


def by(shape: Sizes) -> str:
    """A shape in words: `3x224x224`."""
    return "x".join(map(str, shape))


class CutModule(nn.Module):
    """What a model computes between two cut points.

    It shares nothing with the model: every submodule, parameter and buffer that one of its graphs uses is copied, once,
    and keeps its dotted name, so that the `state_dict` is a subset of the model's. The graph follows `train()` and
    `eval()`. No operation works in place, so neither the input nor any value inside is overwritten.

    Args:
        model: the model that the graphs were traced from.
        constants: tensors created during tracing.
        graphs: the train-mode graph under True, the eval-mode graph under False, each with one input and one output.
    """

    # Set by the code that cuts the model: the format of its output, and (model, start, end).
    out_kind: str | None = None
    out_prefix: int = 0
    in_format: Format | None = None
    out_format: Format | None = None
    image_shape: tuple[int, int, int] | None = None  # (C, H, W) of the images, if it begins at the model's input
    cut_from: tuple[Any, Any, Any] | None = None
    sized_for: tuple[int, int, int] | None = None  # (C, H, W) of the images, if it works for these only
    tuple_images: tuple[int, int, int] | None = None  # (C, H, W) of the images, if it gives or takes a tuple for these
    statistics_images: int | None = None  # behind a random network's BatchNorm statistics

    def __init__(self, model: nn.Module, constants: Mapping[str, Tensor], graphs: Mapping[bool, fx.Graph]) -> None:
        super().__init__()
        nodes = list(chain.from_iterable(graph.nodes for graph in graphs.values()))
        # Shared by all copies, so that tied weights stay tied. A cached result of autograd cannot be copied otherwise.
        memo: dict[int, Any] = {id(t): t.detach().clone() for t in all_tensors(model) if t.grad_fn is not None}
        # In the order of the graph, the same in every process: optimizers identify parameters by order alone.
        modules = dict.fromkeys(str(node.target) for node in nodes if node.op == "call_module")
        for path in sorted(modules, key=lambda path: path.count(".")):
            _install(self, path, copy.deepcopy(model.get_submodule(path), memo))
        for path in dict.fromkeys(str(node.target) for node in nodes if node.op == "get_attr"):
            owner, _, name = path.rpartition(".")
            if path in constants:
                _install(self, path, constants[path].clone(), persistent=False)
            else:
                module = model.get_submodule(owner)
                persistent = name in module._buffers and name not in module._non_persistent_buffers_set
                _install(self, path, copy.deepcopy(getattr(module, name), memo), persistent=persistent)
        for module in self.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
            if type(module) in (nn.Module, CutModule):  # leaves keep the mode that they had
                module.training = model.training
        self._code = {mode: _Code(graph) for mode, graph in graphs.items()}
        self._observers: dict[str, list[Callable[[Any], None]]] = {}

    @property
    def value_names(self) -> set[str]:
        """The dotted names of the values that are computed in both modes."""
        return set.intersection(*(set(code.variables) for code in self._code.values()))

    def observe(self, name: str, observer: Callable[[Any], None]) -> None:
        """Call `observer` with a value, one of `value_names`, whenever it is computed."""
        if name not in self._observers:
            for code in self._code.values():
                code.show(name)
        self._observers.setdefault(name, []).append(observer)

    def show_observers(self, name: str, value: Any) -> None:
        """What the code calls with a value that is observed."""
        for observer in self._observers[name]:
            observer(value)

    def extra_repr(self) -> str:
        return f"{self.in_format} -> {self.out_format}" if self.in_format and self.out_format else ""

    def forward(self, x: Any) -> Any:
        """The value at the end, (N, ...), for the value at the start, (N, ...); a tuple where several values cross."""
        return self._code[self.training].function(self, x)


class _Code:
    """A graph's source text as a function of (module, input) that can be pickled and copied."""

    def __init__(self, graph: fx.Graph) -> None:
        code = graph.python_code("self")
        self.source, self.names = code.src, code.globals
        computed = [node for node in graph.nodes if node.op.startswith("call_") and "dotted_name" in node.meta]
        self.variables = {str(node.meta["dotted_name"]): node.name for node in computed}
        self._compile()

    def show(self, name: str) -> None:
        """Show a value to the module's observers of its name, right after the line that computes it."""
        line = re.compile(rf"^( *){re.escape(self.variables[name])} = .*$", re.MULTILINE)
        call = f"self.show_observers({name!r}, {self.variables[name]})"
        self.source = line.sub(lambda match: f"{match[0]}\n{match[1]}{call}", self.source)
        self._compile()

    def _compile(self) -> None:
        # With the text in linecache, a traceback shows the line of the graph that failed.
        file = f"<cut {hashlib.sha256(self.source.encode()).hexdigest()[:12]}>"
        linecache.cache[file] = (len(self.source), None, self.source.splitlines(keepends=True), file)
        namespace = dict(self.names)
        exec(compile(self.source, file, "exec"), namespace)
        self.function = namespace["forward"]

    def __getstate__(self) -> dict[str, Any]:
        packages = {key: value.__name__ for key, value in self.names.items() if isinstance(value, ModuleType)}
        names = {key: value for key, value in self.names.items() if key not in packages}
        return {"source": self.source, "names": names, "packages": packages, "variables": self.variables}

    def __setstate__(self, state: dict[str, Any]) -> None:
        packages = {key: importlib.import_module(name) for key, name in state["packages"].items()}
        self.source, self.names = state["source"], {**state["names"], **packages}
        self.variables = state["variables"]
        self._compile()


def _install(root: nn.Module, path: str, value: Any, *, persistent: bool = True) -> None:
    """Set `value` at a dotted path below `root`, unless a module installed before already contains it."""
    *owners, name = path.split(".")
    for owner in owners:
        if owner not in root._modules:
            root.add_module(owner, nn.Module())
        root = root.get_submodule(owner)
    if any(name in members for members in (root._modules, root._parameters, root._buffers)):
        return
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        root.register_buffer(name, value, persistent=persistent)
    else:
        setattr(root, name, value)
