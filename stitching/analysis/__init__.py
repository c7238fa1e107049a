"""From run folders to a tidy table, statistics, figures, the report and notebooks."""
