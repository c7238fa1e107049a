"""From a plan to tasks on this machine or Slurm: submit, status, retry, cancel, logs, and the code that tasks run."""
