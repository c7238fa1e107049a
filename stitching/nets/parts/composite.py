"""Parts made of parts: in a row, and side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from stitching.config.bounds import Classes, Pixels
from stitching.config.errors import UserError, at
from stitching.config.format_syntax import TUPLE, ReformatOptions, parse_format
from stitching.config.parts import PARTS, BasePart, PartField
from stitching.cutting.formats import TUPLE_GOES_INTO, Format, TupleFormat
from stitching.nets.build import build_part
from stitching.nets.buildable import BuildablePart, BuildOptions
from stitching.nets.network import Network, Parallel, Part

__all__ = ["AssemblyPart", "ParallelPart"]


@PARTS.register("Assembly")
class AssemblyPart(BuildablePart):
    """Parts in a row."""

    is_assembly: ClassVar[bool] = True
    bounds_itself: ClassVar[bool] = True

    parts: Annotated[list[PartField], Field(min_length=1)]
    """The parts, in order. The output of each is converted to the format that the next one takes."""
    head: PartField | None = None
    """A part after the others."""
    input_shape: Annotated[list[Pixels], Field(min_length=3, max_length=3)] | None = None
    """[C, H, W] of the input, to have it checked."""
    num_classes: Classes | None = None
    """Number of classes of the heads inside; by default those of the data set."""
    reformat_options: ReformatOptions | None = None
    """How formats are converted inside; by default as in the job."""

    def first_part(self) -> BasePart:
        return self.parts[0].first_part()

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        if self.input_shape and input_format.shape(1)[1:] != tuple(self.input_shape):
            raise UserError(
                f"input_shape is {self.input_shape}, but the input is {input_format}", path=("input_shape",),
                do="Set train_config.data_preprocessing.image_size, or leave input_shape out.",
            )  # fmt: skip
        inner = replace(
            options,
            num_classes=self.num_classes or options.num_classes,
            class_token=self.reformat_options.class_token if self.reformat_options else options.class_token,
        )
        pieces: list[Part] = []
        for i, child in enumerate(self.parts):
            with at("parts", i):
                pieces.append(self._next_piece(pieces, child, self.parts[i + 1 :], input_format, inner))
        if self.head:
            with at("head"):
                pieces.append(self._next_piece(pieces, self.head, (), input_format, inner))
        return Network(pieces)

    def _next_piece(
        self,
        pieces: list[Part],
        child: BasePart,
        following: Sequence[BasePart],
        input_format: Format,
        options: BuildOptions,
    ) -> Part:
        input_format = pieces[-1].out_format if pieces else input_format
        child = _inherit(child, self)
        if several := _list_behind(pieces):
            with at(child.kind):
                native = child.native_format(options)
            if native is None or native.kind != TUPLE:
                raise UserError(
                    "the part before returns a list (`agg: none`), and this one takes one tensor",
                    do="Join the parts with `agg: avg` or `concat`, or put the ParallelPart last.",
                )
            input_format = several
        if isinstance(child, BuildablePart):
            child = child.in_front_of(following, input_format, options)
        return build_part(child, input_format, options)


@PARTS.register("ParallelPart")
class ParallelPart(BuildablePart):
    """Parts side by side on the same input."""

    bounds_itself: ClassVar[bool] = True

    parts: Annotated[list[PartField], Field(min_length=1)]
    """The parts."""
    agg: Literal["none", "avg", "concat", "concat_channels", "concat_sequence"] = "none"
    """How their outputs are combined. `none` returns a list, one for each task; `concat` is `concat_channels`. Each
    output is converted to `out_format` before, if it has none of its own; channels are those of the result.
    """
    reformat_options: ReformatOptions | None = None
    """How formats are converted inside; by default as in what it is in."""

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        pieces = []
        own = replace(options, class_token=self.reformat_options.class_token) if self.reformat_options else options
        for i, child in enumerate(self.parts):
            inner = own
            if self.agg == "none" and len(self.parts) == len(options.task_classes) > 1:
                inner = replace(own, num_classes=options.task_classes[i], task_classes=())
            branch = _inherit(child, self)
            if branch.out_format is None:
                branch = branch.model_copy(update={"out_format": self._format_of_branches})
            with at("parts", i):
                pieces.append(build_part(branch, input_format, inner))
        self._check_joinable([piece.out_format for piece in pieces])
        return Parallel(pieces, self.agg)

    @property
    def _format_of_branches(self) -> str | list[Any] | None:
        """What each output is converted to before they are joined: `out_format`, as far as it is not of the result."""
        if self.out_format is None:
            return None
        kind, numbers = parse_format(self.out_format)
        sides = (numbers or [])[1:] if self.agg != "concat_sequence" else []
        return [kind, sides] if sides else kind

    def _check_joinable(self, formats: Sequence[Format]) -> None:
        """Raise if the outputs of the parts cannot be joined as `agg` says."""
        for i, output in enumerate(formats):
            if output.kind == TUPLE:
                raise UserError(f"returns {output}", allowed=TUPLE_GOES_INTO, path=("parts", i))
        if self.agg == "none":
            return
        for i, output in enumerate(formats):
            if self.agg == "concat_sequence" and output.kind not in ("token", "bert"):
                raise UserError(f"{output} is no sequence", allowed="token, bert", path=("parts", i))
            may_differ: dict[str, Any] = {"concat_sequence": {"size": None}, "avg": {}}.get(
                self.agg, {"channels": None}
            )
            expected, actual = replace(formats[0], **may_differ), replace(output, **may_differ)
            if expected != actual:
                raise UserError(
                    f"returns {output}, the first part returns {formats[0]}: {self.agg} cannot join them",
                    do="Give the parts the same out_format.", path=("parts", i),
                )  # fmt: skip


def _list_behind(pieces: list[Part]) -> TupleFormat | None:
    """The tensors that the last of the pieces returns as a list; None if it returns none."""
    last: nn.Module | None = pieces[-1].net if pieces else None
    while isinstance(last, Network):
        last = last.pieces[-1].net
    if isinstance(last, Parallel) and last.agg == "none":
        formats = [part.out_format for part in last.parts if isinstance(part, Part)]
        return TupleFormat(shapes=tuple(layout.shape(1) for layout in formats))
    return None


def _inherit(child: BasePart, parent: BasePart) -> BuildablePart:
    """`child`, frozen if `parent` is."""
    assert isinstance(child, BuildablePart)
    return child.model_copy(update={"frozen": True}) if parent.frozen and not child.frozen else child
