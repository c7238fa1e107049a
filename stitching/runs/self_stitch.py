"""The check of self-stitches: a network that is cut and joined by an identity is the network that it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from stitching.runs.columns import ACCURACY, AGREEMENT

__all__ = ["failed_self_stitch"]


def failed_self_stitch(control: object, final: Mapping[Any, Any], accuracies: Collection[float] = ()) -> str:
    """What is wrong with a finished run if it is a self-stitch, in words; blank if nothing is.

    Args:
        control: of the run's metadata.
        final: what its last test gave, by column.
        accuracies: what the network has by itself; empty where that is not known.
    """
    agreement, accuracy = final.get(AGREEMENT), final.get(ACCURACY)
    if control != "self":
        return ""
    if agreement is not None and agreement < 1:
        return f"it should be the network that it was cut from, and predicts the same for {agreement:.4%} only"
    if accuracies and accuracy == accuracy and accuracy not in accuracies:
        alone = " or ".join(f"{value:.6g}" for value in sorted(accuracies))
        return f"it should be the network that it was cut from, and has test accuracy {accuracy:.6g}, not {alone}"
    return ""
