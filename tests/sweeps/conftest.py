"""The fixtures of these tests, which those of tests/launch use, too."""

from cluster_here import here, sweep

__all__ = ["here", "sweep"]
