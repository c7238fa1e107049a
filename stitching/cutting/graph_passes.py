"""Passes that prepare a traced graph for cutting. Each changes the graph in place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from stitching.cutting.tracer import check_path

__all__ = [
    "dependent_nodes",
    "drop_pinned_inputs",
    "drop_unused",
    "keep_main_output",
    "main_output",
    "without_in_place",
]

_IN_PLACE_OPERATORS: dict[Callable, Callable] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.imatmul: operator.matmul,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
}
_REFILLS = {"bernoulli_"}  # methods that overwrite a new tensor; without the underscore they mean something else


def drop_pinned_inputs(graph: fx.Graph) -> None:
    """Erase pinned inputs and the checks of their values."""
    _, *pinned = [node for node in graph.nodes if node.op == "placeholder"]
    to_erase = set(pinned)
    for node in graph.nodes:
        if to_erase.intersection(node.all_input_nodes):
            to_erase.add(node)
    for node in reversed(list(graph.nodes)):
        if node in to_erase:
            graph.erase_node(node)


def keep_main_output(graph: fx.Graph) -> None:
    """Reduce an output of several tensors to the first."""
    output = graph.output_node()
    main = output.all_input_nodes[0]
    while isinstance(main.target, type) and issubclass(main.target, tuple):  # a named tuple is built by a node
        main = main.all_input_nodes[0]
    output.args = (main,)


def main_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """A forward hook that returns the first of several outputs, as `keep_main_output` does for a graph."""
    while isinstance(output, tuple) and output:
        output = output[0]
    return output


def without_in_place(graph: fx.Graph, root: nn.Module) -> None:
    """Replace in-place operations by ordinary ones; later uses of the overwritten value become uses of the result.

    Modules with `inplace=True` stay: `CutModule` turns that off in its copies. Operations that overwrite a buffer (a
    counter, say) are intended, and stay too.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    dependent = dependent_nodes(graph)
    for node in graph.nodes:
        if not node.all_input_nodes or (overwritten := node.all_input_nodes[0]) not in dependent:
            continue
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op == "call_module":
            in_place = getattr(root.get_submodule(node.target), "inplace", False)
        elif node.op == "call_function" and node.target in _IN_PLACE_OPERATORS:
            node.target, in_place = _IN_PLACE_OPERATORS[node.target], True
        elif node.op == "call_function" and node.kwargs.get("inplace"):
            node.kwargs, in_place = {**node.kwargs, "inplace": False}, True
        else:
            in_place = name.endswith("_") and not name.endswith("__")
            space = torch.Tensor if node.op == "call_method" else torch
            if in_place and name not in _REFILLS and callable(plain := getattr(space, name[:-1], None)):
                node.target = name[:-1] if node.op == "call_method" else plain
        if in_place:
            overwritten.replace_all_uses_with(node, lambda user, at=position[node]: position[user] > at)


def drop_unused(graph: fx.Graph) -> None:
    """Erase what no output, check or change of a buffer needs: auxiliary heads, as a rule."""
    needed = {graph.output_node(), next(iter(graph.nodes))}
    for node in reversed(graph.nodes):
        overwrites = node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__")
        if node in needed or node.target in (torch._assert, check_path) or overwrites:
            needed.add(node)
            needed.update(node.all_input_nodes)
        else:
            graph.erase_node(node)


def dependent_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value depends on the input, even if only on its size."""
    dependent: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or dependent.intersection(node.all_input_nodes):
            dependent.add(node)
    return dependent
