"""The table that `tune` measured on this machine: kept as JSON, one file for each machine."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sparsetrain import native
from sparsetrain.products.problem import DTYPES, Config, Entry, Problem

FORMAT = 1


@dataclass(frozen=True)
class Key:
    """What a measured time depends on, apart from the problem.

    gpu: its name. driver: of NVIDIA. library: the folder of the kernel library, which is named
    after its sources, compiler and architectures.
    """

    gpu: str
    driver: str
    torch: str
    cuda: str
    library: str

    @property
    def file_name(self) -> str:
        """'NVIDIA-H200-3f2a91c0b7d4.json'."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]
        return f"{self.gpu.replace(' ', '-').replace('/', '-')}-{digest}.json"


@dataclass(frozen=True)
class Table:
    """Measured problems of one machine."""

    key: Key
    entries: Mapping[Problem, Entry] = field(default_factory=dict)

    def with_entry(self, problem: Problem, entry: Entry) -> Table:
        return Table(self.key, {**self.entries, problem: entry})


def machine_key(library: Path) -> Key:
    """The key of the current CUDA device and a loaded library. Starts CUDA."""
    name = torch.cuda.get_device_name()
    return Key(name, _driver(), torch.__version__, str(torch.version.cuda), library.parent.name)


def tables_folder() -> Path:
    """Where tables are kept: `tables`, beside the builds. Raises ValueError without a home."""
    try:
        return native.cache_folder().parent / "tables"
    except native.BuildError as error:
        raise ValueError(f"no place for measured tables: {error}") from error


def table_path(key: Key) -> Path:
    """The file of a machine's table, whether or not it exists."""
    return tables_folder() / key.file_name


def load_table() -> Table | None:
    """The table of this machine; None if there is none, or no library.

    Starts CUDA only if any table exists. Raises ValueError for a file that is broken or belongs
    to another machine.
    """
    library = native.load()
    if library.path is None or not torch.cuda.is_available():
        return None
    if not any(tables_folder().glob("*.json")):
        return None
    key = machine_key(library.path)
    path = table_path(key)
    return read_table(path, key) if path.is_file() else None


def read_table(path: Path, key: Key) -> Table:
    """Read a table of the machine `key`.

    Raises ValueError naming the file for what is no table, and for another machine's.
    """
    remedy = f"remove {path} and run `python -m sparsetrain tune` again"
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
        written = Key(**content["key"])
        entries = dict(_entry(row) for row in content["entries"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"the measured table is broken ({what}): {remedy}") from error
    if written != key:
        differ = [
            f"{name} {ours!r} there, {here!r} here"
            for (name, ours), here in zip(
                asdict(written).items(), asdict(key).values(), strict=True
            )
            if ours != here
        ]
        raise ValueError(f"the table was measured elsewhere ({'; '.join(differ)}): {remedy}")
    return Table(key, entries)


def write_table(table: Table) -> Path:
    """Write a table to its place, whole or not at all. Returns the file."""
    path = table_path(table.key)
    rows = [{"problem": _plain(p), "entry": asdict(e)} for p, e in table.entries.items()]
    content = {"format": FORMAT, "key": asdict(table.key), "units": "µs", "entries": rows}
    native.make_folder(path.parent)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    os.replace(unfinished, path)
    return path


def install(configs: Mapping[Problem, Config]) -> bool:
    """Have the library run these problems so, and any other as it likes.

    Returns False, and does nothing, where no library with a table is loaded. Raises ValueError
    for a tile that the library does not have.
    """
    if not torch._C._dispatch_has_kernel("sparsetrain::_matmul24_table"):
        return False
    tiles = tile_names()
    rows = [problem.numbers() + config.numbers(tiles) for problem, config in configs.items()]
    torch.ops.sparsetrain._matmul24_table(torch.tensor(rows, dtype=torch.int64).reshape(-1, 12))
    return True


def native_configs(table: Table | None) -> dict[Problem, Config]:
    """The configs of a table that `install` takes: where the native kernel won.

    A gradient of a float32 weight is float32, and runs as its twin of 16 bits was measured to.
    """
    entries = {} if table is None else table.entries
    configs = {p: e.config for p, e in entries.items() if e.config is not None}
    twins = {replace(p, wide=True): c for p, c in configs.items() if p.b_layout == "rows"}
    return configs | {p: config for p, config in twins.items() if p not in configs}


def expected_us(problem: Problem, multiprocessors: int) -> float:
    """Microseconds that the library's model expects of the native kernel; needs no GPU."""
    numbers = torch.tensor([problem.numbers()])
    return torch.ops.sparsetrain._matmul24_expected(numbers, multiprocessors).item() / 1000


def tile_names() -> list[str]:
    """The tiles of the loaded library by index: '128x256'."""
    return [
        f"{rows}x{columns}" for rows, columns in torch.ops.sparsetrain._matmul24_tiles().tolist()
    ]


def _plain(problem: Problem) -> dict[str, Any]:
    return {**asdict(problem), "dtype": str(problem.dtype).removeprefix("torch.")}


def _entry(row: dict[str, Any]) -> tuple[Problem, Entry]:
    problem = Problem(**{**row["problem"], "dtype": DTYPES[row["problem"]["dtype"]]})
    config = row["entry"]["config"]
    return problem, Entry(
        **{**row["entry"], "config": None if config is None else Config(**config)}
    )


def _driver() -> str:
    """The driver's version from its management library, which torch does not tell."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "unknown"
    version = ctypes.create_string_buffer(80)
    if nvml.nvmlInit_v2() != 0:
        return "unknown"
    try:
        found = nvml.nvmlSystemGetDriverVersion(version, len(version)) == 0
        return version.value.decode() if found else "unknown"
    finally:
        nvml.nvmlShutdown()
