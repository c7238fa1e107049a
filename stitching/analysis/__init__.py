"""From run folders to a tidy table, statistics, figures, the report and notebooks. It only reads; no user's code runs.

`load` makes the table, `statistics` and `tables` compute from it, `plots` draws (each figure is registered there once),
and `report` makes the page. What notebooks use is in `stitching`; the commands use `load`, `tables`, `plots`, `report`,
`collect` and `checks`.
"""
