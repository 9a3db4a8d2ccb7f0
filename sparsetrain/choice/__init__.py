"""What runs a 2:4 product on this machine, and why: from a measured table, else from its shape."""

from sparsetrain.choice.problem import (
    BLayout,
    Choice,
    Config,
    Entry,
    Problem,
    ProductEngine,
    choose,
)
from sparsetrain.choice.table import (
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
    "BLayout",
    "Choice",
    "Config",
    "Entry",
    "Key",
    "Problem",
    "ProductEngine",
    "Table",
    "choose",
    "expected_us",
    "install",
    "load_table",
    "machine_key",
    "native_configs",
    "read_table",
    "table_path",
    "tile_names",
    "write_table",
]
