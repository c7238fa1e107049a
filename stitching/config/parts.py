"""The schema that all parts of networks share, and the registry of parts: a part is one name with its arguments.

The parts themselves are in `stitching.nets.parts`, each with its schema beside its module.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, GetCoreSchemaHandler, field_validator, model_serializer, model_validator
from pydantic_core import core_schema

from stitching.config.bounds import PathText
from stitching.config.errors import did_you_mean, shortened
from stitching.config.format_syntax import TUPLE, FormatField
from stitching.config.model_sources import SOURCES, ModelSource
from stitching.config.named_schemas import NamedSchemas
from stitching.config.registries import NameIn
from stitching.config.schema import Schema, complaint

__all__ = ["PARTS", "PART_COMMENT", "BasePart", "ModelFields", "PartField"]

PART_COMMENT = "a part"  # marks the places of parts in a JSON schema


class BasePart(Schema):
    """The keys of every part.

    Attributes:
        kind: the name that the part is registered under.
        is_assembly: whether it is other parts in a row.
        is_head: whether it is what comes after the features: class scores.
        is_whole_model, is_subnet: whether it is a whole model, or a piece that is cut out of one.
        revision: raised when the part computes something else for the same arguments; runs with it are new then.
    """

    kind: ClassVar[str]
    revision: ClassVar[int] = 1
    is_assembly: ClassVar[bool] = False
    is_head: ClassVar[bool] = False
    is_whole_model: ClassVar[bool] = False
    is_subnet: ClassVar[bool] = False

    frozen: bool = False
    """Do not train the part: no parameter and no buffer changes."""
    in_format: FormatField | None = None
    """Format that the input is converted to, such as `[img, [256, 14, 14]]`, to resize it. `tuple`, for a `Subnet`
    only: it begins where several values cross, and takes all of them.
    """
    out_format: FormatField | None = None
    """Format that the output is converted to. `tuple`, for a `Subnet` only: it ends where several values cross, and
    gives all of them to a `Subnet` with `in_format: tuple`.
    """

    @field_validator("in_format", "out_format")
    @classmethod
    def _tuple_of_subnets_only(cls, value: Any) -> Any:
        if value == TUPLE and not cls.is_subnet:
            raise complaint(
                f"{cls.kind} works on one tensor, not on a tuple",
                "`out_format: tuple` on a Subnet, and `in_format: tuple` on the Subnet right behind it",
            )
        return value

    def first_part(self) -> BasePart:
        """The part that the images go into first: itself, if it is not made of parts in a row."""
        return self

    @model_serializer(mode="plain")
    def _as_yaml(self) -> dict[str, Any]:
        return {self.kind: {key: value for key, value in self if value is not None}}


PARTS: NamedSchemas[BasePart] = NamedSchemas("part", "stitching.nets.parts", attribute="kind")


class ModelFields(Schema):
    """A model by name; further keys are passed to the model's constructor (`img_size`, `num_classes`, ...)."""

    model_config = {"extra": "allow", "strict": True}
    open_to: ClassVar[str | None] = "model arguments"

    backend: Annotated[str, NameIn("stitching.config.model_sources:SOURCES")] | None = None
    """Source of the model: `timm`, `torchvision` (also `pytorch`), `satlas` or `retccl`; without one, it is one of
    ours.
    """
    model_name: Annotated[str, Field(min_length=1)] | None = None
    """Name of the model at its source; or with the source in front, such as `timm/resnet50.a1_in1k`."""
    module: Annotated[str, Field(min_length=1)] | None = None
    """A model of your own instead: `FILE:FUNCTION`, such as `my_models.py:make_net`. The function gives the model."""
    pretrained: bool | None = None
    """Whether it has published weights; by default yes where its source publishes some."""
    weights: str | None = None
    """Which of torchvision's published weights, by the name that torchvision gives them."""
    ckp_path: PathText | None = None
    """File of weights that the model gets instead of published ones."""

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if self.model_name is None and self.module is None:
            raise complaint(
                "'model_name' is missing", "`model_name`, or `module: FILE:FUNCTION` for a model of your own"
            )
        if self.model_name is not None and self.module is not None:
            raise complaint("both model_name and module given", "one of them", key="module")
        if self.module is not None:
            if self.backend or self.pretrained:
                key = "backend" if self.backend else "pretrained"
                raise complaint(f"{key} is of a library's model", "`module` without it", key=key)
            file, colon, function = self.module.rpartition(":")
            if not colon or not file or not function.isidentifier():
                raise complaint(
                    f"{shortened(self.module)} names no function", "FILE:FUNCTION, e.g. my_models.py:make_net",
                    key="module",
                )  # fmt: skip
        elif self.backend is not None and self.backend not in SOURCES:
            hint = did_you_mean(self.backend, SOURCES)
            raise complaint(f"there is no backend {shortened(self.backend)}{hint}", ", ".join(SOURCES), key="backend")
        return self

    @property
    def source_and_name(self) -> tuple[str, str]:
        """The name of the model's source, and that of the model there."""
        for source, entry in SOURCES.items():
            if entry.key and (named := getattr(self, entry.key)):
                return source, named
        assert self.model_name is not None
        if self.backend is None and "/" in self.model_name:
            source, _, name = self.model_name.partition("/")
            return source, name
        return self.backend or next(name for name, entry in SOURCES.items() if entry.is_default), self.model_name

    @property
    def source(self) -> ModelSource:
        """Where the model comes from. Raises `UserError` if there is no such backend."""
        return SOURCES[self.source_and_name[0]]

    @property
    def title(self) -> str:
        """`timm/resnet50`, `torchvision/swin_t`, `local/smallnet`, `module/my_models.make_net`."""
        source, name = self.source_and_name
        return SOURCES[source].title(name) if source in SOURCES else f"{source}/{name}"

    @property
    def naming_keys(self) -> dict[str, Any]:
        """The keys that name the model, in one spelling."""
        return self.source.keys(self.source_and_name[1])

    @property
    def wants_pretrained(self) -> bool:
        """Whether published weights are asked for: by default where the model's source publishes some."""
        if self.pretrained is not None:
            return self.pretrained
        source = self.source_and_name[0]
        return self.ckp_path is None and source in SOURCES and SOURCES[source].publishes_weights

    @property
    def model_args(self) -> dict[str, Any]:
        """The keys that are the model's own."""
        return dict(self.model_extra or {})


def _validated_part(value: Any) -> BasePart:
    """`{Subnet: {...}}` as the part that it names."""
    if isinstance(value, BasePart):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        problem = (
            f"a mapping with the keys {', '.join(map(str, value))}" if isinstance(value, dict) else shortened(value)
        )
        raise complaint(
            f"a part is one class name with its arguments, found {problem}", "e.g. `Subnet: {model_name: ...}`"
        )
    return PARTS.validated(value)


class _AnyPart:
    """The type of a field that holds a part: whatever is registered when a document is validated."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(_validated_part)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {"$comment": PART_COMMENT}  # `stitching.config.json_schema` puts in what is registered


PartField = Annotated[BasePart, _AnyPart]
