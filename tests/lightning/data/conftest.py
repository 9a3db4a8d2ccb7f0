"""A data set whose labels are its indices, and tiny files of every layout."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sparsetrain.lightning.data import ImageData, SeededImages, Splits

COMMON = {
    "batch_size": 2,
    "num_workers": 0,
    "img_size": 16,
    "num_classes": 2,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "seed": 7,
}


class Counting:
    """Sample i is ([i], label i)."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def read(self, index):
        return torch.full((1,), float(index)), index


def add_noise(image):
    return image + torch.rand(1) + float(np.random.rand())


class Numbered(ImageData):
    """Labels are indices, images [1] are index + noise from the sample's own random numbers."""

    label = "numbered"

    def __init__(self, length=24, val_length=5, batch_size=4, num_workers=0, seed=3):
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            img_size=1,
            num_classes=1,
            mean=(0,),
            std=(1,),
            seed=seed,
        )
        self.lengths = length, val_length

    def load(self):
        train, val = (SeededImages(Counting(n), add_noise, self.seed) for n in self.lengths)
        return Splits(train, val, None)


def encoded(seed, kind="JPEG", size=(20, 24)):
    pixels = np.random.RandomState(seed).randint(0, 256, (*size, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


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


def write_shard(path, members):
    with tarfile.open(path, "w") as shard:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two training shards of 3 samples, one of 2 for validation; .json members to be skipped."""
    root = tmp_path / "shards"
    root.mkdir()
    seed = 0
    for name, count in (("in-train-0", 3), ("in-train-1", 3), ("in-val-0", 2)):
        members = []
        for i in range(count):
            members += [
                (f"./n0.{'jpg' if i % 2 else 'png'}".replace("n0", f"n{i}"), None),
                (f"./n{i}.cls", str(seed % 2).encode()),
                (f"./n{i}.json", b"{}"),
            ]
            kind = "JPEG" if i % 2 else "PNG"
            members[-3] = (members[-3][0], encoded(seed, kind))
            seed += 1
        write_shard(root / f"{name}.tar", members)
    return root


def write_parquet(path, images, labels, metadata=None, rows=2, struct=True):
    column = (
        pa.array(
            [{"bytes": image, "path": None} for image in images],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        if struct
        else pa.array(images, pa.binary())
    )
    table = pa.table({"image": column, "label": pa.array(labels, pa.int64())})
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=rows)


@pytest.fixture
def parquet(tmp_path) -> Path:
    """Two training files of 3 rows in groups of 2, one of 2 rows for validation."""
    root = tmp_path / "parquet"
    (root / "data").mkdir(parents=True)
    for n, (name, count) in enumerate((("train-0", 3), ("train-1", 3), ("validation-0", 2))):
        images = [encoded(10 * n + i) for i in range(count)]
        write_parquet(root / "data" / f"{name}.parquet", images, [i % 2 for i in range(count)])
    return root
