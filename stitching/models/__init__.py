"""Where models come from: timm, torchvision, ours and a user's own; their weights, and downloading these.

Others use `ModelSpec` (`spec`: which model), `build`, `build_meta` and `input_shape` (`building`), `traced_model`
(`traced_models`: a model with its graphs, cached), `fetch` (`prefetch`) and `ImageSample` (`random_networks`).
`sources` has a file for each source of models.
"""
