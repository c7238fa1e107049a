"""From a sweep's YAML to a plan: staged models, stitchers, controls, variants, names."""
