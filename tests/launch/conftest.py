"""The fixtures of the tests of sweeps: a cluster without processes, and a small sweep to run on it."""

from cluster_here import here, sweep

__all__ = ["here", "sweep"]
