"""From a sweep's YAML to a plan of its runs.

Others may use `make_plan` and `study_of` (`studies`, the seam for kinds of study), `Plan` and `PlannedRun` (`plan`),
`PlanCache` (`plan_cache`), `STITCHERS` (`stitchers`, the seam for recipes of stitching) and `score` (`scores`). The
rest is how our two studies plan: staged models, stitches and variants for gaps, `grid_values` for both.
"""
