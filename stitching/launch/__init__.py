"""From a plan to tasks in a scheduler, and back to what became of them.

What others may use: `orders` (a plan, what is on disk of it, and a cluster), `submit`, `retry`, `cancel`, `status`,
`logs`, `explain`, `estimate`, `leftovers`; `schedulers` is the seam for where tasks run. The rest is how these do it:
`records` and `submitted` know what was handed over, `tasks` and `start` run on the other side, from `snapshots`.
"""
