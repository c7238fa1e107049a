"""Where tasks run: this machine, and Slurm."""
