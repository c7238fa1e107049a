"""Networks from parts: adapters, blocks, heads and subnets, with the formats between them converted.

Others use `build_network` and `BuildOptions` (`build`), `Network` and `Part` (`network`), `Reformat` (`conversions`).
`python_api` has the functions of `import stitching`. A new part goes into `parts`, a user's own into a plugin.
"""
