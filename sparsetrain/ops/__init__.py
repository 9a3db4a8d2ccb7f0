"""The operators, in the namespace `sparsetrain` of torch.library.

No autograd here: a backward through an op warns and gives no gradient. The functions with gradients
are in sparsetrain/autograd.

One file per op: check, schema, fake, kernel, documented function (register.py). The kernel here is
the reference and serves every device; a kernel built for CUDA takes the place of it there (csrc/).
Matrices are 2-D, strides are free, results are contiguous. Values are float32, bfloat16, float16 or
float64; kernels for CUDA have no float64. The packed form is described in reference/pack24.py, that
of float8_e4m3fn and int8, which have scales, in reference/quantize24.py too.
"""

from sparsetrain import native
from sparsetrain.ops.add_mask24_ import add_mask24_
from sparsetrain.ops.apply24 import apply24
from sparsetrain.ops.column_sums import column_sums
from sparsetrain.ops.flips24 import flips24
from sparsetrain.ops.gelu import gelu
from sparsetrain.ops.gelu_backward import gelu_backward
from sparsetrain.ops.gelu_backward_quantize import gelu_backward_quantize
from sparsetrain.ops.gelu_quantize import gelu_quantize
from sparsetrain.ops.mask24 import mask24
from sparsetrain.ops.matmul24 import matmul24
from sparsetrain.ops.mvue24 import mvue24
from sparsetrain.ops.narrow24 import narrow24
from sparsetrain.ops.pack24 import pack24
from sparsetrain.ops.pack_into24 import Forms24, empty_forms24, pack_into24
from sparsetrain.ops.quantize import quantize
from sparsetrain.ops.quantize24 import quantize24
from sparsetrain.ops.quantize_across24 import quantize_across24
from sparsetrain.ops.quantize_both24 import quantize_both24
from sparsetrain.ops.random24 import random24
from sparsetrain.ops.scaled_gelu_matmul24 import scaled_gelu_matmul24
from sparsetrain.ops.scaled_matmul24 import scaled_matmul24
from sparsetrain.ops.select24 import select24
from sparsetrain.ops.soft_threshold24 import soft_threshold24
from sparsetrain.ops.sparsify24 import sparsify24
from sparsetrain.ops.squared_relu24 import squared_relu24
from sparsetrain.ops.squared_relu24_backward import squared_relu24_backward
from sparsetrain.ops.squared_relu24_backward_quantize import squared_relu24_backward_quantize
from sparsetrain.ops.squared_relu24_quantize import squared_relu24_quantize
from sparsetrain.ops.unpack24 import unpack24

native.load()

__all__ = [
    "Forms24",
    "add_mask24_",
    "apply24",
    "column_sums",
    "empty_forms24",
    "flips24",
    "gelu",
    "gelu_backward",
    "gelu_backward_quantize",
    "gelu_quantize",
    "mask24",
    "matmul24",
    "mvue24",
    "narrow24",
    "pack24",
    "pack_into24",
    "quantize",
    "quantize24",
    "quantize_across24",
    "quantize_both24",
    "random24",
    "scaled_gelu_matmul24",
    "scaled_matmul24",
    "select24",
    "soft_threshold24",
    "sparsify24",
    "squared_relu24",
    "squared_relu24_backward",
    "squared_relu24_backward_quantize",
    "squared_relu24_quantize",
    "unpack24",
]
