"""A data set whose labels are its indices, and writers of tiny files."""

import io
import tarfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from sparsetrain.lightning.data import ImageData, SeededImages, Splits

COMMON: dict[str, Any] = {
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
        return Splits(train, val, None, self.lengths[0])


def encoded(seed, kind="JPEG", size=(20, 24)):
    pixels = np.random.RandomState(seed).randint(0, 256, (*size, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_shard(path, members):
    with tarfile.open(path, "w") as shard:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


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
