"""Submitting a plan as tasks of a scheduler, and finding out how they ended.

Others may use `orders` (a plan, the state of its runs on disk, and a cluster), `submit`, `retry`, `cancel`, `status`,
`logs`, `explain`, `estimate`, `leftovers`; `schedulers` is the seam for where tasks run. The rest is how these do it:
`records` and `submitted` know what was submitted; `tasks` and `start` run in the tasks, from `snapshots`.
"""
