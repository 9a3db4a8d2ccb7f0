"""Fixtures of the data tests; what makes them is in data_helpers.py."""

from pathlib import Path

import pytest
from data_helpers import encoded, write_parquet, write_shard


@pytest.fixture
def folders(tmp_path) -> Path:
    """train: 3 cats and 3 dogs; val: 1 of each."""
    for split, count in (("train", 3), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.JPEG").write_bytes(encoded(10 * label + i))
    return tmp_path / "set"


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two training shards of 3 samples, one of 2 for validation; .json members to be skipped."""
    root = tmp_path / "shards"
    root.mkdir()
    seed = 0
    for name, count in (("in-train-0", 3), ("in-train-1", 3), ("in-val-0", 2)):
        members = []
        for i in range(count):
            kind = "JPEG" if i % 2 else "PNG"
            members += [
                (f"./n{i}.{'jpg' if i % 2 else 'png'}", encoded(seed, kind)),
                (f"./n{i}.cls", str(seed % 2).encode()),
                (f"./n{i}.json", b"{}"),
            ]
            seed += 1
        write_shard(root / f"{name}.tar", members)
    return root


@pytest.fixture
def parquet(tmp_path) -> Path:
    """Two training files of 3 rows in groups of 2, one of 2 rows for validation."""
    root = tmp_path / "parquet"
    (root / "data").mkdir(parents=True)
    for n, (name, count) in enumerate((("train-0", 3), ("train-1", 3), ("validation-0", 2))):
        images = [encoded(10 * n + i) for i in range(count)]
        write_parquet(root / "data" / f"{name}.parquet", images, [i % 2 for i in range(count)])
    return root
