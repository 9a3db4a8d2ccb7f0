"""Every op in plain PyTorch: its definition, its test oracle and the kernel where no other is.

One module per op, imported by its full name: `from sparsetrain.reference.pack24 import pack24`.
The functions trust their arguments; the checks are in sparsetrain/ops.
"""
