"""What a run learns from, as YAML names it: `labels`, or the one key of an objective that is registered.

The objectives themselves are in `stitching.training.objectives`, each with its schema.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import GetCoreSchemaHandler, model_serializer
from pydantic_core import core_schema

from stitching.config.errors import shortened
from stitching.config.field_descriptions import described_schema
from stitching.config.named_schemas import NamedSchemas
from stitching.config.parts import BasePart
from stitching.config.schema import Schema, complaint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LABELS", "OBJECTIVES", "Objective", "ObjectiveField"]

LABELS = "labels"  # the default, which needs no entry


class Objective(Schema):
    """What a run learns from besides the labels; a subclass's fields are its keys in YAML.

    Attributes:
        registered_name: as in YAML.
        needs_teacher: whether `loss` cannot do without the scores of another network.
    """

    registered_name: ClassVar[str]
    needs_teacher: ClassVar[bool] = False

    def teacher_part(self, reference: BasePart | None) -> BasePart | None:
        """The frozen network whose scores of the same images `loss` needs; `reference` is the job's. None for none."""
        return None

    @property
    def label_weight(self) -> float:
        """How much the job's own loss for the labels counts beside `loss`."""
        return 1.0

    @abstractmethod
    def loss(self, scores: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        """The loss of each image of a batch; its mean is added to the job's own loss times `label_weight`.

        Args:
            scores: of the network that learns, before the softmax (N, classes).
            labels: (N).
            teacher: the scores of the network that `teacher_part` names, (N, classes).

        Returns:
            (N).
        """

    @model_serializer(mode="plain")
    def _as_yaml(self) -> dict[str, Any]:
        return {self.registered_name: {key: value for key, value in self if value is not None}}


OBJECTIVES: NamedSchemas[Objective] = NamedSchemas(
    "objective", "stitching.training.objectives", attribute="registered_name"
)


def _validated_objective(value: Any) -> Objective | None:
    if value is None or value == LABELS or isinstance(value, Objective):
        return None if value == LABELS else value
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, dict) or len(value) != 1:
        raise complaint(
            f"an objective is one name with its arguments, found {shortened(value)}", f"{LABELS}, or `distill: {{...}}`"
        )
    return OBJECTIVES.validated(value, [LABELS])


class _AnyObjective:
    """The type of a field that holds an objective: whatever is registered when a document is validated."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(_validated_objective)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        with_arguments = {
            "type": "object",
            "properties": {name: described_schema(objective) for name, objective in OBJECTIVES.items()},
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        }
        return {"anyOf": [{"enum": [LABELS, *OBJECTIVES]}, with_arguments]}


ObjectiveField = Annotated[Objective, _AnyObjective]
