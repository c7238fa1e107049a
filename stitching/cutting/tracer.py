"""The tracer: `torch.fx` with dotted names of nodes, timm's own leaves, and what sizes of the input decide."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torchvision
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import fx, nn
from torch.utils._pytree import tree_leaves
from torchvision.models.feature_extraction import NodePathTracer

from stitching.config.errors import UserError

__all__ = ["GraphTracer", "check_path"]

_NEW_TENSORS = ("empty", "full", "ones", "rand", "randn", "zeros")
_LEAF_OPS = [op for _, op in inspect.getmembers(torchvision.ops, inspect.isclass) if issubclass(op, nn.Module)]


def check_path(same: bool, images: str) -> None:
    """Stop a graph on images whose size takes another branch of the model than those that it was traced for.

    Args:
        same: whether they take the same branch.
        images: the size that the graph was traced for, in words.
    """
    if not same:
        raise UserError(
            f"images of this size take another path through the model than those of {images}, for which it was traced",
            do=f"Use images of {images}, or cut the model for these.",
        )


class GraphTracer(NodePathTracer):
    """`NodePathTracer` with timm's own leaves, which also records the module that each node belongs to.

    Leaf modules keep their names in full. `NodePathTracer` drops a number at the end, which would turn torchvision's
    `encoder_layer_0.ln_2` into `ln_1`, the name of another module.
    """

    def __init__(
        self, untraced: Iterable[type[nn.Module]], input_shape: tuple[int, int, int], *, proxy_buffers: bool
    ) -> None:
        super().__init__(
            leaf_modules=[*_LEAF_OPS, *get_notrace_modules(), *untraced],
            autowrap_modules=(math, torchvision.ops),
            autowrap_functions=tuple(get_notrace_functions()),
        )
        self.proxy_buffer_attributes = proxy_buffers
        self.names: dict[fx.Node, str] = {}
        self.owners: dict[fx.Node, str] = {}
        self._used_names: set[str] = set()
        self._input_shape = input_shape

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        owner = self.current_module_qualname
        base = owner if node.op == "call_module" else f"{owner}." * bool(owner) + re.sub(r"_\d+$", "", node.name)
        name, count = base, 0
        while name in self._used_names:
            count += 1
            name = f"{base}_{count}"
        self._used_names.add(name)
        self.names[node], self.owners[node] = name, owner
        return node

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace with nodes for new tensors whose size follows from the input, which `torch.fx` cannot follow."""
        originals = {name: getattr(torch, name) for name in _NEW_TENSORS}
        try:
            for name, function in originals.items():
                setattr(torch, name, self._follow(function))
            return super().trace(root, concrete_args)
        finally:
            for name, function in originals.items():
                setattr(torch, name, function)

    def _follow(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def follow(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(value, fx.Proxy) for value in tree_leaves((args, kwargs))):
                return self.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return follow

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide a branch on the input's size as images of the model's size do; the graph checks that others do too."""
        try:
            decision = bool(self._size(obj.node))
        except Exception:  # it depends on more than the size
            return super().to_bool(obj)
        condition = obj if decision else self.create_proxy("call_function", operator.not_, (obj,), {})
        sides = "x".join(map(str, self._input_shape))
        self.create_proxy("call_function", check_path, (condition, sides), {})
        return decision

    def _size(self, node: fx.Node) -> Any:
        """The value of a node that is computed from the input without modules and weights."""
        if node.op == "placeholder":
            return torch.empty(1, *self._input_shape, device="meta")
        if node.op not in ("call_function", "call_method"):
            raise TypeError(node.op)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._size)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _get_node_qualname(self, module_qualname: str, node: fx.Node) -> str:
        return self.names[node]
