"""Every op in plain PyTorch: its definition, its test oracle and the kernel where no other is.

One module per op, or for a few that belong together, imported by its full name: `from
sparsetrain.reference.pack24 import pack24`.
The functions trust their arguments; the checks are in sparsetrain/ops.
"""
