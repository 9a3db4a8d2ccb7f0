"""The rows of Parquet files, read by pyarrow: encoded images and integer labels."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparsetrain.lightning.data.arrow import named
from sparsetrain.lightning.data.decode import Encoded
from sparsetrain.lightning.data.files import some


class ParquetSource:
    """The rows of several Parquet files, by number.

    Labels are read at once. Images are read a row group at a time: all of them up front when the
    split is not larger than `memory_gb` (workers then share these buffers), else on demand,
    keeping the last group. On demand, a shuffled read costs a row group per image, so groups
    should be small: Hugging Face writes 100 rows.

    Raises:
        ValueError: a file that is damaged or no Parquet, a missing or wrongly typed column, a
            missing label, or no rows at all.
    """

    def __init__(
        self, files: list[Path], image_column: str, label_column: str, memory_gb: float
    ) -> None:
        self.files = files
        labels: list[np.ndarray] = []
        groups: list[tuple[int, int]] = []
        rows: list[int] = []
        for number, path in enumerate(files):
            with named(path), pq.ParquetFile(path, memory_map=True) as file:
                self.image_leaf = check_columns(file.schema_arrow, image_column, label_column, path)
                labels.append(read_labels(file, label_column, path))
                groups += [(number, group) for group in range(file.num_row_groups)]
                rows += [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        self.labels = np.concatenate(labels)
        if not len(self.labels):
            raise ValueError(f"no rows in {some([str(path) for path in files])}; add images")
        self.groups = np.array(groups)
        self.starts = np.concatenate([[0], np.cumsum(rows)])
        # Of each file the number of its first row, for what errors say.
        self.file_starts = self.starts[np.searchsorted(self.groups[:, 0], range(len(files)))]
        in_memory = sum(path.stat().st_size for path in files) <= memory_gb * 2**30
        self.columns = [self._read_group(n) for n in range(len(groups))] if in_memory else None
        self.last: tuple[int, pa.ChunkedArray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Encoded, int]:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        row = index - int(self.starts[number])
        image = Encoded(self._bytes(number, row), self._where(number, row))
        return image, int(self.labels[index])

    def _bytes(self, number: int, row: int) -> memoryview:
        """The encoded image as a view of Arrow's buffer."""
        if self.columns is not None:
            column = self.columns[number]
        else:
            last = self.last  # another thread may set it meanwhile
            if last is None or last[0] != number:
                last = self.last = (number, self._read_group(number))
            column = last[1]
        data = column[row].as_buffer()
        if data is None:
            raise ValueError(
                f"no image bytes {self._where(number, row)}, only a path or nothing; "
                "embed the images in the file"
            )
        return memoryview(data).cast("B")

    def _read_group(self, number: int) -> pa.ChunkedArray:
        """The image bytes of one row group.

        One thread and a file of its own, so that it also works in a forked worker.
        """
        path, group = self.files[self.groups[number, 0]], int(self.groups[number, 1])
        with named(path), pq.ParquetFile(path, memory_map=True) as file:
            column = file.read_row_group(group, columns=[self.image_leaf], use_threads=False)[0]
        return column.flatten()[0] if pa.types.is_struct(column.type) else column

    def _where(self, number: int, row: int) -> str:
        file = int(self.groups[number, 0])
        in_file = int(self.starts[number] - self.file_starts[file]) + row
        return f"in row {in_file:,} of {self.files[file]}"


def check_columns(schema: pa.Schema, image_column: str, label_column: str, path: Path) -> str:
    """The name of the leaf that holds the image bytes: "image.bytes" or "image".

    Raises:
        ValueError: a column is missing, or is not of a type that can be read.
    """
    for name, column in (("image_column", image_column), ("label_column", label_column)):
        if column not in schema.names:
            raise ValueError(
                f"data.{name}={column!r} is not a column of {path}; set it to one of "
                f"{', '.join(schema.names)}"
            )
    image, label = schema.field(image_column).type, schema.field(label_column).type
    if not pa.types.is_integer(label):
        raise ValueError(
            f"data.label_column={label_column!r} has type {label} in {path}; want integers"
        )
    if pa.types.is_binary(image) or pa.types.is_large_binary(image):
        return image_column
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        return f"{image_column}.bytes"
    raise ValueError(
        f"data.image_column={image_column!r} has type {image} in {path}; "
        "want binary or struct<bytes: binary, ...>"
    )


def read_labels(file: pq.ParquetFile, label_column: str, path: Path) -> np.ndarray:
    """The label column, int64 [rows]. Raises ValueError for a row without label."""
    column = file.read(columns=[label_column], use_threads=False)[label_column]
    if column.null_count:
        raise ValueError(f"{path} has {column.null_count} row(s) without {label_column}; drop them")
    return column.to_numpy().astype(np.int64)


def read_class_names(path: Path, label_column: str) -> list[str] | None:
    """Names from the file's metadata: Hugging Face's features, or a comma separated `classes`."""
    with named(path):
        metadata = pq.read_schema(path, memory_map=True).metadata or {}
    if b"huggingface" in metadata:
        try:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            return features[label_column].get("names")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # written by another program, or cut: labels alone are read
    if b"classes" in metadata:
        return metadata[b"classes"].decode().split(",")
    return None
