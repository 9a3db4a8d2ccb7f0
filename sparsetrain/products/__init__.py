"""Sparse operands and what multiplies them: the packed value, its products, the fastest way to run
each on this machine."""

from sparsetrain.products.activation import (
    for_gradient,
    squared_relu_gradient,
    squared_relu_packed,
)
from sparsetrain.products.dense import dense_mm
from sparsetrain.products.fp8 import FP8
from sparsetrain.products.packed import BOTH, Forms, Packed, Spec, pack, pack_columns, unpruned
from sparsetrain.products.problem import (
    BLayout,
    Config,
    Entry,
    Problem,
    ProductEngine,
)
from sparsetrain.products.product import (
    ATEN,
    ENGINES,
    MASKED,
    NATIVE,
    PORTABLE,
    Engine,
    Product,
    product_of,
)
from sparsetrain.products.table import (
    Key,
    Table,
    expected_us,
    install,
    load_table,
    machine_key,
    native_configs,
    read_table,
    table_path,
    tile_names,
    write_table,
)

__all__ = [
    "ATEN",
    "BOTH",
    "ENGINES",
    "FP8",
    "MASKED",
    "NATIVE",
    "PORTABLE",
    "BLayout",
    "Config",
    "Engine",
    "Entry",
    "Forms",
    "Key",
    "Packed",
    "Problem",
    "Product",
    "ProductEngine",
    "Spec",
    "Table",
    "dense_mm",
    "expected_us",
    "for_gradient",
    "install",
    "load_table",
    "machine_key",
    "native_configs",
    "pack",
    "pack_columns",
    "product_of",
    "read_table",
    "squared_relu_gradient",
    "squared_relu_packed",
    "table_path",
    "tile_names",
    "unpruned",
    "write_table",
]
