"""The schedulers of this package: importing this module registers them."""

from stitching.launch.schedulers import local, slurm

__all__ = ["local", "slurm"]
