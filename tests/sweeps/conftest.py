"""The fixtures of these tests, which those of tests/launch use, too."""

from cluster_here import sweep, without_processes

__all__ = ["sweep", "without_processes"]
