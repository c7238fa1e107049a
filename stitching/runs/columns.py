"""The columns of results that more than tables are made of. Naming them loads no pandas."""

from __future__ import annotations

__all__ = ["ACCURACY", "AGREEMENT"]

ACCURACY = "Overall/Test Accuracy"  # 0 to 1
AGREEMENT = "Overall/Test Agreement"  # the fraction of test images on which the network and its reference say the same
