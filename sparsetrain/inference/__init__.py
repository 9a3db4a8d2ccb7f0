"""Models for inference: 2:4 weights packed once, in 8 bits with scales or in 16.

`quantize` turns a model into one; `export/packed.py` writes it into a folder and reads it back.
"""

from sparsetrain.inference.linear import DTYPES, PackedLinear
from sparsetrain.inference.mlp import PackedMlp
from sparsetrain.inference.quantize import packed_linears, put_packed, quantize

__all__ = [
    "DTYPES",
    "PackedLinear",
    "PackedMlp",
    "packed_linears",
    "put_packed",
    "quantize",
]
