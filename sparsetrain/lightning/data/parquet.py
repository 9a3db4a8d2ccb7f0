"""Parquet files in the Hugging Face image layout: a column of encoded images, one of labels.

`image` is struct<bytes: binary, path: string> (or plain binary), `label` an integer; see the
`datasets` documentation, "Image dataset". Files are told apart by their path below `root`:
"train", then "val", then "test".

Read by pyarrow. Not by `datasets`: that converts Parquet into a second copy in a cache of its own
before it reads rows in any order, or streams them, where a run cannot be resumed in the middle of
a shuffled epoch.
"""

from collections.abc import Sequence
from pathlib import Path

from sparsetrain.lightning.data.augmented import AugmentedData
from sparsetrain.lightning.data.base import Splits, check_class_count, check_labels
from sparsetrain.lightning.data.decode import WHITE
from sparsetrain.lightning.data.files import existing_root, split_files
from sparsetrain.lightning.data.transforms import Augment

WANTED = (
    "*train*.parquet and *val*.parquet or *test*.parquet, or *.parquet and data.val_fraction=0.1"
)


class Parquet(AugmentedData):
    """Image classification from Parquet files below `root`.

    Args (besides those of `ImageData` and `AugmentedData`):
        image_column, label_column: their names in the files.
        memory_gb: a split of up to so many GiB of files is kept in memory, per training process.

    Raises:
        FileNotFoundError: `root`, or a split of it, is not there.
        ValueError: a column that is missing or wrong, the wrong number of classes, a label
            outside them; pyarrow is not installed.
    """

    def __init__(
        self,
        root: str | Path | None,
        *,
        batch_size: int,
        num_workers: int,
        img_size: int,
        num_classes: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        prefetch_factor: int = 2,
        augment: Augment | None = None,
        crop_pct: float = 0.875,
        image_column: str = "image",
        label_column: str = "label",
        memory_gb: float = 4.0,
        cache: str | None = None,
        background: Sequence[int] = WHITE,
        val_fraction: float = 0.0,
        gpu: str | None = None,
    ) -> None:
        super().__init__(
            root,
            batch_size=batch_size,
            num_workers=num_workers,
            img_size=img_size,
            num_classes=num_classes,
            mean=mean,
            std=std,
            seed=seed,
            prefetch_factor=prefetch_factor,
            augment=augment,
            crop_pct=crop_pct,
            cache=cache,
            background=background,
            val_fraction=val_fraction,
            gpu=gpu,
        )
        self.image_column = image_column
        self.label_column = label_column
        self.memory_gb = memory_gb

    def load(self) -> Splits:
        try:
            from sparsetrain.lightning.data.parquet_rows import ParquetSource, read_class_names
        except ModuleNotFoundError as error:
            needs = f"data=parquet needs {error.name}"
            raise ValueError(f"{needs}: pip install 'sparsetrain[parquet]'") from error
        root = existing_root(self.root, WANTED)
        self.label = f"parquet {root.resolve().name}"
        train_files, val_files = split_files(root, ".parquet", self.val_fraction)
        names = read_class_names(train_files[0], self.label_column)
        columns = self.image_column, self.label_column, self.memory_gb
        train = ParquetSource(train_files, *columns)
        if names is not None:
            check_class_count(len(names), self.wanted_classes, f"data.root={root}")
        counted = int(train.labels.max()) + 1 if names is None else len(names)
        classes = self.wanted_classes or counted
        check_labels(train.labels, classes, f"{train_files[0]}…")
        if self.val_fraction:
            return self.divided(train, names, classes)
        val = ParquetSource(val_files, *columns)
        check_labels(val.labels, classes, f"{val_files[0]}…")
        return self.transformed(train, val, names, classes)
