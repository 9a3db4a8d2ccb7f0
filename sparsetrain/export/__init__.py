"""Weights as other tools read them: folders of safetensors and JSON, dense or sparse.

`save_pretrained` writes one, `load_weights` reads it, `load_packed` makes a model of a packed one;
`check_tensorrt` says whether TensorRT's sparse kernels take a model.
"""

from sparsetrain.export.folder import FORMATS, load_weights, save_pretrained
from sparsetrain.export.packed_model import load_packed
from sparsetrain.export.two_of_four import check_semi_structured, check_tensorrt

__all__ = [
    "FORMATS",
    "check_semi_structured",
    "check_tensorrt",
    "load_packed",
    "load_weights",
    "save_pretrained",
]
