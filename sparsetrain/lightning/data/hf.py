"""A Hugging Face data set on disk, as `datasets.Dataset.save_to_disk` writes it.

root/dataset_dict.json, root/train/*.arrow, root/validation/*.arrow    a DatasetDict
root/state.json, root/*.arrow                                          one Dataset: val_fraction

Read by `datasets` from memory-mapped Arrow files, which gives any row at once. Nothing is fetched,
unpickled or decoded there: images are taken as bytes, and a path or an address is not followed.
"""

import json
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsetrain.lightning.data.augmented import AugmentedData
from sparsetrain.lightning.data.base import Splits, check_class_count, check_labels
from sparsetrain.lightning.data.decode import WHITE, Encoded
from sparsetrain.lightning.data.files import existing_root, listing, other_kind, some
from sparsetrain.lightning.data.folders import split_name
from sparsetrain.lightning.data.transforms import Augment

if TYPE_CHECKING:
    from datasets import Dataset

WANTED = "what datasets.save_to_disk writes"


class RowSource:
    """The rows of a `Dataset`: encoded images and integer labels.

    Raises:
        ValueError: a label column that is not of integers, or has none for a row.
    """

    def __init__(self, rows: "Dataset", image_column: str, label_column: str, where: str) -> None:
        from datasets import Image

        if isinstance(rows.features[image_column], Image):
            rows = rows.cast_column(image_column, Image(decode=False))
        labels = rows.with_format("arrow")[:][label_column]
        if labels.null_count:
            raise ValueError(
                f"{where} has {labels.null_count} row(s) without {label_column}; drop them"
            )
        self.labels = labels.to_numpy().astype(np.int64)
        self.images = rows.select_columns([image_column]).with_format(None)
        self.image_column = image_column
        self.where = where

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Encoded, int]:
        image: Any = self.images[index][self.image_column]
        data = image["bytes"] if isinstance(image, dict) else image
        where = f"in row {index:,} of {self.where}"
        if data is None:
            raise ValueError(
                f"no image bytes {where}, only a path or nothing; embed the images in the data set"
            )
        return Encoded(data, where), int(self.labels[index])


class HuggingFace(AugmentedData):
    """Image classification from a data set that `datasets` saved in `root`.

    Args (besides those of `AugmentedData`):
        image_column: of type `Image`, or of encoded bytes; None is the only one of type `Image`.
        label_column: of type `ClassLabel`, or integers; None is the only `ClassLabel`.

    Raises:
        FileNotFoundError: `root`, or a split of it, is not there.
        ValueError: `datasets` is not installed, a column that is missing or wrong, the wrong number
            of classes, a label outside them.
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
        cache: str | None = None,
        background: Sequence[int] = WHITE,
        val_fraction: float = 0.0,
        gpu: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
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

    def load(self) -> Splits:
        root = existing_root(self.root, WANTED)
        self.label = f"hf {root.resolve().name}"
        splits = saved_splits(root)
        train, val = choose_splits(splits, self.val_fraction, root)
        features = splits[train].features
        image = pick(features, "image_column", self.image_column, ("Image", "binary"), root)
        label = pick(features, "label_column", self.label_column, ("ClassLabel", "int"), root)
        names = getattr(features[label], "names", None)
        if names is not None:
            check_class_count(len(names), self.wanted_classes, f"data.root={root}")
        sources = [
            RowSource(splits[split], image, label, f"{root}{f': {split}' if split else ''}")
            for split in (train, val)
            if split is not None
        ]
        counted = int(sources[0].labels.max()) + 1 if names is None else len(names)
        classes = self.wanted_classes or counted
        for source in sources:
            check_labels(source.labels, classes, source.where)
        if self.val_fraction:
            return self.divided(sources[0], names, classes)
        return self.transformed(sources[0], sources[1], names, classes)


def saved_splits(root: Path) -> "dict[str, Dataset]":
    """The data sets in `root` by their split; a single one has the name ""."""
    if not any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        raise FileNotFoundError(
            f"data.root={root} has no dataset_dict.json or state.json, only "
            f"{some(listing(root))}; wanted {WANTED}{other_kind(root)}"
        )
    try:
        from datasets import DatasetDict, load_from_disk

        from sparsetrain.lightning.data.arrow import named
    except ModuleNotFoundError as error:
        raise ValueError(f"data=hf needs {error.name}: pip install 'sparsetrain[hf]'") from error
    check_names(root)
    with named(root):
        found = load_from_disk(str(root))
    if isinstance(found, DatasetDict):
        return {str(name): rows for name, rows in found.items()}
    return {"": found}


def check_names(root: Path) -> None:
    """Raise ValueError where the set's own files name others outside their folder."""
    dictionary = root / "dataset_dict.json"
    splits = _listed(dictionary, "splits")
    for folder in [root / str(name) for name in splits] if splits else [root]:
        files = [file.get("filename") for file in _listed(folder / "state.json", "_data_files")]
        for name in [*splits, *files]:
            if not isinstance(name, str) or Path(name).name != name:
                raise ValueError(f"{root} names {reprlib.repr(name)}, which is outside its folder")


def _listed(path: Path, key: str) -> list[Any]:
    try:
        return json.loads(path.read_text("utf-8"))[key] if path.is_file() else []
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): fetch or write it again") from error


def choose_splits(
    splits: "dict[str, Dataset]", val_fraction: float, root: Path
) -> tuple[str, str | None]:
    """The names of the training split and, unless a fraction of that is held out, of the other.

    Raises FileNotFoundError for one that is not there.
    """
    train, val = split_name(splits, "train"), split_name(splits, "val")
    if train is None and len(splits) == 1:
        (train,) = splits
        val = None
    there = some(sorted(splits)) if "" not in splits else "one data set without splits"
    if train is None:
        raise FileNotFoundError(f"data.root={root} has no train split, only {there}; rename one")
    if val_fraction:
        return train, None
    if val is None:
        raise FileNotFoundError(
            f"data.root={root} has no validation split, only {there}; set data.val_fraction=0.1 to "
            "validate on a tenth of the training images"
        )
    return train, val


def pick(
    features: Any, argument: str, wanted: str | None, kinds: tuple[str, str], root: Path
) -> str:
    """The name of the column: `wanted`, or else the only one whose feature is kinds[0].

    kinds: a feature's class, and the beginning of a plain dtype that will do if it is named.
    Raises ValueError for a column that is missing, ambiguous, or of another type.
    """
    fits = [name for name, feature in features.items() if type(feature).__name__ == kinds[0]]
    there = ", ".join(f"{name} ({type_name(feature)})" for name, feature in features.items())
    if wanted is None:
        if len(fits) == 1:
            return fits[0]
        raise ValueError(
            f"data.{argument} is not set and {len(fits)} columns of {root} are {kinds[0]}: set it "
            f"to one of {there}"
        )
    if wanted not in features:
        raise ValueError(f"data.{argument}={wanted!r} is not a column of {root}: {there}")
    named_type = type_name(features[wanted])
    if wanted not in fits and not named_type.removeprefix("u").startswith(kinds[1]):
        strings = argument == "label_column" and named_type in ("string", "large_string")
        fix = f"; save it after .class_encode_column({wanted!r})" if strings else ""
        raise ValueError(
            f"data.{argument}={wanted!r} has type {named_type} in {root}; want {kinds[0]} or "
            f"{kinds[1]}{fix}"
        )
    return wanted


def type_name(feature: Any) -> str:
    """As "ClassLabel", "int64"."""
    name = type(feature).__name__
    return feature.dtype if name == "Value" else name
