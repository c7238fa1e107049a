"""The fixtures of the tests of sweeps: a small sweep, and running it in this process."""

from cluster_here import sweep, without_processes

__all__ = ["sweep", "without_processes"]
