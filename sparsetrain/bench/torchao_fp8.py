"""Dense linear layers in fp8 by torchao's float8 training: a peer in `bench step`.

Its recipe `rowwise` quantizes both operands of all three products to e4m3, with power-of-two scales
by row. Converting changes how Inductor writes minimum and maximum, for all that this process
compiles later (torchao/float8/_inductor_patch.py at 0.18.0).
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from torch import nn

from sparsetrain.bench.dense_fp8 import is_named

RECIPE = "rowwise"
INSTALL = "pip install --no-deps torchao==0.18.0"

REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError)
"""How it refuses a device, a dtype or a torch: it has no error of its own."""


def make_torchao_fp8(model: nn.Module, include: tuple[str, ...]) -> None:
    """Put torchao's Float8Linear in place of the linear layers that a glob of `include` names.

    Raises ValueError, with what to install, where there is no torchao.
    """
    float8 = load_torchao("torchao.float8")
    float8.convert_to_float8_training(
        model,
        module_filter_fn=lambda layer, path: is_named(layer, path, include),
        config=float8.Float8LinearConfig.from_recipe_name(RECIPE),
    )


def load_torchao(module: str) -> Any:
    """Import a module of torchao. Raises ValueError, with what to install, if it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torchao
            return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"it needs torchao: {INSTALL} ({error})") from error
