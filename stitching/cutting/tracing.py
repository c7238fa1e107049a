"""A model's graphs: what it computes in train and in eval mode, as dotted, named nodes in the order of computation."""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torchvision
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from stitching.config.errors import UserError, reason_of
from stitching.cutting.graph_passes import (
    dependent_nodes,
    drop_pinned_inputs,
    drop_unused,
    keep_main_output,
    without_in_place,
)

__all__ = ["ModeGraph", "Shape3", "TracedModel", "all_tensors", "default_input_shape", "made_from", "trace"]

Shape3 = tuple[int, int, int]

_LEAF_OPS = [op for _, op in inspect.getmembers(torchvision.ops, inspect.isclass) if issubclass(op, nn.Module)]


class ModeGraph:
    """One mode's graph, cleaned to what its main output needs, with what depends on the input and for how long.

    Attributes:
        nodes: everything but the output node, in trace order; the first is the input.
        names: the dotted name of each node; `by_name` is the reverse.
        owners: the path of the module that each node belongs to ("" is the model itself).
        dependent: the nodes whose value depends on the input.
        result: the node of the model's (main) output.
    """

    def __init__(self, graph: fx.Graph, names: dict[fx.Node, str], owners: dict[fx.Node, str]) -> None:
        self.graph = graph
        self.nodes = [node for node in graph.nodes if node.op != "output"]
        self.names = {node: names[node] for node in self.nodes}
        self.owners = {node: owners[node] for node in self.nodes}
        self.by_name = {name: node for node, name in self.names.items()}
        self.place = {node: place for place, node in enumerate(self.nodes)}
        self.result: fx.Node = graph.output_node().args[0]  # type: ignore[assignment]
        self.dependent = dependent_nodes(graph)
        self.last_use = {
            node: max((self.place.get(user, len(self.nodes)) for user in node.users), default=-1) for node in self.nodes
        }

    @property
    def input(self) -> fx.Node:
        """The node of the model's input."""
        return self.nodes[0]

    def crossing(self, place: int) -> list[fx.Node]:
        """The values that depend on the input, are there once node number `place` has run, and are used later."""
        return [n for n in self.nodes[: place + 1] if n in self.dependent and self.last_use[n] > place]

    def only_values(self) -> list[fx.Node]:
        """The nodes that are the only value crossing where they have just been computed: one liveness scan."""
        found: list[fx.Node] = []
        closing: dict[int, int] = {}  # place -> how many open values are used there for the last time
        is_open = 0
        for place, node in enumerate(self.nodes):
            is_open -= closing.pop(place, 0)
            if node in self.dependent and self.last_use[node] > place:
                is_open += 1
                closing[self.last_use[node]] = closing.get(self.last_use[node], 0) + 1
                if is_open == 1:
                    found.append(node)
        return found

    def of_module(self, path: str) -> list[fx.Node]:
        """The input-dependent nodes of a module and all its children, in trace order."""
        inside = path + "."
        return [n for n in self.nodes if n in self.dependent and (self.owners[n] + ".").startswith(inside)]


@dataclass(eq=False)
class TracedModel:
    """A model with its train- and eval-mode graphs. The model itself is untouched: cutting copies out of it.

    Attributes:
        model: the model; its parameters are read, never changed.
        graphs: the graph of train mode under True, that of eval mode under False.
        constants: tensors that the model made while it was traced, by the name the graphs know them under.
        input_shape: (C, H, W) of the images that shapes and formats are given for where nobody says otherwise.
        cache: what `cut_points` and the like have worked out already.
    """

    model: nn.Module
    graphs: dict[bool, ModeGraph]
    constants: dict[str, Tensor]
    input_shape: Shape3
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        """What messages call the model."""
        return type(self.model).__name__

    @property
    def input_name(self) -> str:
        """The name of the model's input."""
        graph = self.graphs[False]
        return graph.names[graph.input]


def default_input_shape(model: nn.Module) -> Shape3 | None:
    """(C, H, W) of the images that a model is for: what its source noted, or timm and torchvision say; None: unsaid."""
    if noted := getattr(model, "default_input_shape", None):
        return tuple(noted)
    if size := getattr(model, "default_cfg", {}).get("input_size"):
        return tuple(size)
    side = getattr(model, "image_size", None)
    return (3, side, side) if isinstance(side, int) else None


def trace(model: nn.Module, input_shape: Shape3 | None = None) -> TracedModel:
    """The train- and eval-mode graphs of `model`, whose main output is its output, or the first tensor in it.

    Forward arguments after the first are pinned at their defaults. Operations in place are traced as what they
    compute, so that no tensor of the graph is ever overwritten.

    Args:
        model: any network that takes images. Modules of the classes in its attribute `untraced_modules`, if it has
            one, are one node each.
        input_shape: (C, H, W) of images for it; by default those that it says it is for, or 224x224 of the channels
            that its first convolution takes.

    Raises:
        UserError: if the model's forward cannot be followed (it branches on values of its input, say).
    """
    constants: dict[str, Tensor] = {}
    graphs = {mode: _trace_mode(model, mode, constants) for mode in (True, False)}
    if (shape := input_shape or default_input_shape(model)) is None:
        first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
        shape = (first.in_channels if first else 3, 224, 224)
    return TracedModel(model, graphs, constants, shape)


def made_from(model: nn.Module) -> str:
    """The model's name and arguments, as `models.sources` noted them; else the name of its class."""
    return getattr(model, "made_from", type(model).__name__)


def all_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Every tensor that the modules hold: parameters, buffers, and those in plain attributes and caches."""
    for module in model.modules():
        for value in vars(module).values():
            for item in value.values() if isinstance(value, dict) else (value,):
                if isinstance(item, Tensor):
                    yield item


class _Tracer(NodePathTracer):
    """`NodePathTracer` with timm's own leaves, that also remembers which module each node belongs to.

    One name differs: a leaf module is called what it is called. `NodePathTracer` drops a number at the end, by which
    torchvision's `encoder_layer_0.ln_2` would become `ln_1`, the name of another module.
    """

    def __init__(self, untraced: Iterable[type[nn.Module]], *, proxy_buffers: bool) -> None:
        super().__init__(
            leaf_modules=[*_LEAF_OPS, *get_notrace_modules(), *untraced],
            autowrap_modules=(math, torchvision.ops),
            autowrap_functions=tuple(get_notrace_functions()),
        )
        self.proxy_buffer_attributes = proxy_buffers
        self.names: dict[fx.Node, str] = {}
        self.owners: dict[fx.Node, str] = {}
        self._taken: set[str] = set()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        owner = self.current_module_qualname
        base = owner if node.op == "call_module" else f"{owner}." * bool(owner) + re.sub(r"_\d+$", "", node.name)
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        self.names[node], self.owners[node] = name, owner
        return node

    def _get_node_qualname(self, module_qualname: str, node: fx.Node) -> str:
        return self.names[node]


def _trace_mode(model: nn.Module, mode: bool, constants: dict[str, Tensor]) -> ModeGraph:
    # Tracing leaves things behind in a model (constants, caches filled with proxies), so a shell of it is traced that
    # shares the tensors alone. Buffers become nodes where that works, as what is computed from them should follow them.
    for proxy_buffers in (True, False):
        shell = copy.deepcopy(model, {id(tensor): tensor for tensor in all_tensors(model)}).train(mode)
        for name, constant in constants.items():
            setattr(shell, name, constant)
        tracer = _Tracer(getattr(model, "untraced_modules", ()), proxy_buffers=proxy_buffers)
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
    """The defaults of all arguments of forward but the first."""
    _, *rest = inspect.signature(model.forward).parameters.values()
    return {p.name: p.default for p in rest if p.default is not p.empty}
