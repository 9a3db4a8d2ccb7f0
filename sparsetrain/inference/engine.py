"""What multiplies the packed layers of inference, and why."""

from __future__ import annotations

import torch

from sparsetrain.nn.engine import Engines, sm, why_not_native
from sparsetrain.products import ATEN, NATIVE, Product
from sparsetrain.products.aten import FEATURES
from sparsetrain.reference.pack24 import EIGHT_BITS

_IN_PYTORCH = "native: its definition in plain PyTorch"


def engine_of(
    engines: Engines, dtype: torch.dtype, name: str, shape: tuple[int, ...]
) -> tuple[Product, str]:
    """The product of a layer, of weights [O, I] in that dtype, and a line that says which.

    engines: as `nn.engine.find_engines` finds them where the weights are. Raises ValueError on a
    GPU that has no products for the dtype or shape.
    """
    if engines.gpu is None:
        return NATIVE, _IN_PYTORCH
    obstacle = why_not_native(engines.gpu, engines.library)
    if not obstacle:
        return NATIVE, f"native: {sm(engines.gpu)}"
    if dtype == torch.int8:
        return NATIVE, f"{_IN_PYTORCH}, slowly: {obstacle}"
    narrow = dtype not in EIGHT_BITS
    if narrow and engines.gpu[0] == 8 and not any(size % FEATURES for size in shape):
        return ATEN, f"aten: {sm(engines.gpu)}"
    fix = engines.library.fix or "quantize a model that is on the CPU"
    raise ValueError(f"dtype={dtype}: {name} would run on {sm(engines.gpu)}: {obstacle}; {fix}")
