"""The numbers that the field reports of a stitched network, each a function of accuracies (0 to 1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

__all__ = ["relative_accuracy", "stitching_penalty", "wilson_interval"]

Numbers = Any  # a number, an array or a Series of them


def stitching_penalty(stitched: Numbers, base: Numbers) -> Numbers:
    """What stitching costs: base accuracy minus stitched accuracy, in fractions; below 0 where stitching gained.

    The base is the destination, whose own front the stitched network must do without. Against the source, the same
    formula tells what the source's representation loses by being read through another network.

    Source: Bansal, Nakkiran and Barak, "Revisiting Model Stitching to Compare Neural Representations", NeurIPS 2021.
    """
    return base - stitched


def relative_accuracy(stitched: Numbers, base: Numbers) -> Numbers:
    """Stitched accuracy over base accuracy: 1 where nothing was lost.

    It puts pairs of base networks that differ in accuracy on one scale. Chance is not taken off, so that a network that
    guesses has 1 / (classes · base), not 0.
    """
    return stitched / base


def wilson_interval(accuracy: Numbers, images: Numbers, level: float = 0.95) -> tuple[Numbers, Numbers]:
    """Within what the accuracy on all images may lie, given that on `images` test images that were drawn from them.

    With z the normal quantile of the level, p the accuracy and n the images:
    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). Unlike p ± z √(p(1-p)/n) it stays within 0 and 1.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
    """
    z = stats.norm.ppf(0.5 + level / 2)
    centre = accuracy + z**2 / (2 * images)
    half = z * np.sqrt(accuracy * (1 - accuracy) / images + z**2 / (4 * images**2))
    return (centre - half) / (1 + z**2 / images), (centre + half) / (1 + z**2 / images)
