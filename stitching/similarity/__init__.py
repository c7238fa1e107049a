"""How similar two representations are (CKA, Procrustes), and the least-squares map from one to the other.

`measures` is about pairs of tensors alone; `least_squares` is about the adapters of networks. Others use the measures,
`build_stitched_network` (builds a network and checks that its adapter can be fitted), `fit_of` and `Fit`.
"""
