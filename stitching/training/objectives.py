"""What a run learns from: labels, and the registered objectives."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import torch.nn.functional as F
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from torch import Tensor

from stitching.config.objective_schema import OBJECTIVES, Objective
from stitching.config.parts import PART_COMMENT, BasePart, PartField
from stitching.config.schema import Neutral, complaint
from stitching.training.distributed import ProcessGroup
from stitching.training.losses import Loss, share_of_mean

__all__ = ["OBJECTIVES", "Distill", "Objective", "TrainingLoss"]

TEMPERATURE = 4.0


class TrainingLoss:
    """The loss that a run's gradients come from: the job's own for the labels, and its objective's."""

    def __init__(self, label_loss: Loss, objective: Objective | None) -> None:
        self.label_loss = label_loss
        self.objective = objective

    def share(self, scores: Tensor, labels: Tensor, teacher: Tensor | None, world: ProcessGroup) -> Tensor:
        """What this process's images of a batch add to the mean loss of the whole batch.

        Args:
            scores: (N, classes).
            labels: (N).
            teacher: scores (N, classes) of the network that the objective needs.
        """
        if self.objective is None:
            return self.label_loss.share(scores, labels, world)
        losses = self.objective.loss(scores.float(), labels, None if teacher is None else teacher.float())
        loss = share_of_mean(losses, world)
        if weight := self.objective.label_weight:
            loss = loss + weight * self.label_loss.share(scores, labels, world)
        return loss


def _named_network(value: Any) -> Any:
    return {"Net": {"model_name": value}} if isinstance(value, str) else value


@OBJECTIVES.register("distill")
class Distill(Objective):
    """Learn from another network's scores of the same images, beside the labels.

    With w the weight, T the temperature, z the scores of the network that learns and t those of the teacher, the loss
    of an image with label y is

    - soft: (1 - w) CE(z, y) + w T^2 KL(softmax(t / T) || softmax(z / T)). Hinton et al., "Distilling the knowledge in a
      neural network" (2015), arXiv:1503.02531, section 2: T^2 keeps the gradient's size as T changes. The divergence
      and the cross entropy with the soft labels, which the paper has, have the same gradient.
    - hard: (1 - w) CE(z, y) + w CE(z, argmax t). Touvron et al., "Training data-efficient image transformers &
      distillation through attention" (2021), arXiv:2012.12877, equation 3 (DeiT), where w is 1/2.

    CE(z, y) is the job's own loss, with its label smoothing. The teacher is frozen, in eval mode, and sees the images
    as they are augmented for the network that learns.

    Attributes:
        teacher: any network, by name or as a part; left out, the job's `reference`: in a sweep the destination.
        temperature: of soft labels; left out, 4.
    """

    needs_teacher: ClassVar[bool] = True

    teacher: Annotated[
        PartField | None,
        BeforeValidator(_named_network),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"$comment": PART_COMMENT}]}),
    ] = None
    kind: Literal["soft", "hard"] = "soft"
    temperature: Annotated[float | None, Field(gt=0, le=1000), Neutral(TEMPERATURE)] = None
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _temperature_of_soft_labels(self) -> Self:
        if self.kind == "hard" and self.temperature is not None:
            raise complaint(
                f"temperature is {self.temperature:g}, and hard labels have none", "kind: soft", key="temperature"
            )
        return self

    def teacher_part(self, reference: BasePart | None) -> BasePart | None:
        return self.teacher or reference

    @property
    def label_weight(self) -> float:
        return 1 - self.weight

    def loss(self, scores: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        assert teacher is not None
        if self.kind == "hard":
            return self.weight * F.cross_entropy(scores, teacher.argmax(1), reduction="none")
        temperature = self.temperature or TEMPERATURE
        log_probs, teacher_log_probs = (F.log_softmax(z / temperature, dim=1) for z in (scores, teacher))
        divergence = F.kl_div(log_probs, teacher_log_probs, reduction="none", log_target=True).sum(1)
        return self.weight * temperature**2 * divergence
