"""A model's graphs: what it computes in train and in eval mode, as dotted, named nodes in the order of computation."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor, fx, nn

from stitching.config.errors import UserError, reason_of
from stitching.cutting.graph_passes import (
    dependent_nodes,
    drop_pinned_inputs,
    drop_unused,
    keep_main_output,
    without_in_place,
)
from stitching.cutting.tracer import GraphTracer

__all__ = ["ModeGraph", "Shape3", "TracedModel", "all_tensors", "default_input_shape", "made_from", "paths_to", "trace"]

Shape3 = tuple[int, int, int]


class ModeGraph:
    """One mode's graph, reduced to what its main output needs.

    Attributes:
        nodes: everything but the output node, in trace order; the first is the input.
        names: the dotted name of each node; `by_name` is the reverse.
        owners: the path of the module that each node belongs to ("" for the model itself).
        position: the number of each node in `nodes`.
        dependent: the nodes whose value depends on the input, even if only on its size.
        result: the node of the model's (main) output.
    """

    def __init__(self, graph: fx.Graph, names: dict[fx.Node, str], owners: dict[fx.Node, str]) -> None:
        self.graph = graph
        self.nodes = [node for node in graph.nodes if node.op != "output"]
        self.names = {node: names[node] for node in self.nodes}
        self.owners = {node: owners[node] for node in self.nodes}
        self.by_name = {name: node for node, name in self.names.items()}
        self.position = {node: position for position, node in enumerate(self.nodes)}
        self.result: fx.Node = graph.output_node().args[0]  # type: ignore[assignment]
        self.dependent = dependent_nodes(graph)

    @property
    def input(self) -> fx.Node:
        """The node of the model's input."""
        return self.nodes[0]

    def of_module(self, path: str) -> list[fx.Node]:
        """The input-dependent nodes of a module and all its children, in trace order."""
        inside = path + "."
        return [n for n in self.nodes if n in self.dependent and (self.owners[n] + ".").startswith(inside)]


@dataclass(eq=False)
class TracedModel:
    """A model with its train- and eval-mode graphs. The model itself is never changed: pieces are copies.

    Attributes:
        model: the model; its parameters are read, never changed.
        graphs: the train-mode graph under True, the eval-mode graph under False.
        constants: tensors created during tracing, by their names in the graphs.
        input_shape: (C, H, W) of the images that shapes and formats are for by default.
        cache: results of `cut_points` and the like.
    """

    model: nn.Module
    graphs: dict[bool, ModeGraph]
    constants: dict[str, Tensor]
    input_shape: Shape3
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        """The model's name in messages."""
        return type(self.model).__name__

    @property
    def input_name(self) -> str:
        """The name of the model's input."""
        graph = self.graphs[False]
        return graph.names[graph.input]


def default_input_shape(model: nn.Module) -> Shape3 | None:
    """(C, H, W) of the images that a model is for, as its source, timm or torchvision says; None if none does."""
    if shape := getattr(model, "default_input_shape", None):
        return tuple(shape)
    if size := getattr(model, "default_cfg", {}).get("input_size"):
        return tuple(size)
    side = getattr(model, "image_size", None)
    return (3, side, side) if isinstance(side, int) else None


def trace(model: nn.Module, input_shape: Shape3 | None = None) -> TracedModel:
    """The train- and eval-mode graphs of `model`. Of several outputs the first tensor counts.

    Forward arguments after the first are pinned at their defaults. In-place operations are traced as
    ordinary ones, so that no tensor of the graph is overwritten.

    Args:
        model: any network that takes images. Modules of the classes in its attribute `untraced_modules`, if it has
            that, become one node each.
        input_shape: (C, H, W) of its images; by default those that the model states, or 224x224 with the channels of
            its first convolution.

    Raises:
        UserError: if the model's forward cannot be followed (it branches on values of its input, say).
    """
    constants: dict[str, Tensor] = {}
    if (shape := input_shape or default_input_shape(model)) is None:
        first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
        shape = (first.in_channels if first else 3, 224, 224)
    graphs = {mode: _trace_mode(model, mode, constants, shape) for mode in (True, False)}
    return TracedModel(model, graphs, constants, shape)


def made_from(model: nn.Module) -> str:
    """The model's name and arguments if it was built by name, else the name of its class."""
    return getattr(model, "made_from", type(model).__name__)


def all_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Every tensor that the modules hold: parameters, buffers, and those in plain attributes and caches."""
    for module in model.modules():
        for value in vars(module).values():
            for item in value.values() if isinstance(value, dict) else (value,):
                if isinstance(item, Tensor):
                    yield item


def _trace_mode(model: nn.Module, mode: bool, constants: dict[str, Tensor], input_shape: Shape3) -> ModeGraph:
    # Tracing leaves constants and caches of proxies behind in a model, so trace a copy that shares only the tensors.
    # Buffers become nodes where that works, so that values computed from them follow them.
    for proxy_buffers in (True, False):
        shell = copy.deepcopy(model, {id(tensor): tensor for tensor in all_tensors(model)}).train(mode)
        for name, constant in constants.items():
            setattr(shell, name, constant)
        tracer = GraphTracer(getattr(model, "untraced_modules", ()), input_shape, proxy_buffers=proxy_buffers)
        try:
            graph = tracer.trace(shell, concrete_args=_defaults(model))
            break
        except Exception as error:  # a model built with a user's arguments can raise anything
            reason = reason_of(error)
    else:
        raise UserError(
            f"the graph of {made_from(model)} cannot be traced: {reason}",
            do="Only models whose forward runs, and does not branch on the values of its input, can be cut.",
        )
    owned = {name for name, _ in chain(model.named_parameters(), model.named_buffers())}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target.startswith("_tensor_constant") and node.target not in owned:
            constants[node.target] = getattr(shell, node.target)
    drop_pinned_inputs(graph)
    keep_main_output(graph)
    without_in_place(graph, shell)
    drop_unused(graph)
    return ModeGraph(graph, tracer.names, tracer.owners)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """The defaults of the arguments of forward after the first."""
    _, *rest = inspect.signature(model.forward).parameters.values()
    return {p.name: p.default for p in rest if p.default is not p.empty}


def paths_to(path: str) -> list[str]:
    """A module's path and those above it, outermost first, without the model itself."""
    parts = path.split(".") if path else []
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]
