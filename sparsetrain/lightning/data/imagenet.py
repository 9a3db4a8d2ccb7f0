"""ImageNet and anything else in its two usual layouts.

root/train/<class>/*.JPEG, root/val/<class>/*.JPEG        folders ("validation" is fine too)
root/**/*train*.tar, root/**/*val*.tar                     WebDataset shards, see shards.py
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from sparsetrain.lightning.data.augmented import AugmentedData
from sparsetrain.lightning.data.base import Splits, check_class_count, check_labels
from sparsetrain.lightning.data.dataset import decode
from sparsetrain.lightning.data.files import (
    IMAGE_SUFFIXES,
    existing_root,
    listing,
    some,
    split_files,
)
from sparsetrain.lightning.data.shards import ShardSource

WANTED = "train/ and val/ (a folder per class) or *train*.tar and *val*.tar shards"


class FolderSource:
    """The images of one folder per class. Labels follow the sorted class names.

    Paths are kept in one byte array, not as Python strings: those would be copied into every
    worker as their reference counts are touched (1.3 million for ImageNet).

    Raises:
        ValueError: no class folders, or a class folder without images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.classes = [name for name in listing(folder) if (folder / name).is_dir()]
        if not self.classes:
            raise ValueError(
                f"{folder} has no class folders, only {some(listing(folder))}; "
                f"move every image into {folder.name}/<class>/"
            )
        paths: list[bytes] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            found = [file for file in listing(folder / name) if is_image(file)]
            if not found:
                raise ValueError(
                    f"class folder {folder / name} has no images "
                    f"({', '.join(IMAGE_SUFFIXES)}), only {some(listing(folder / name))}; "
                    "fill or remove it"
                )
            paths += [os.fsencode(f"{name}/{file}") for file in found]
            labels += [label] * len(found)
        self.paths = np.array(paths)
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Image.Image, int]:
        path = self.folder / os.fsdecode(self.paths[index])
        return decode(path.read_bytes(), str(path)), int(self.labels[index])


class ImageNet(AugmentedData):
    """Image classification from class folders or from WebDataset shards below `root`.

    Raises:
        FileNotFoundError: `root`, or a split of it, is not there.
        ValueError: an empty split or class, the wrong number of classes, a label outside them.
    """

    label = "imagenet"

    def load(self) -> Splits:
        root = existing_root(self.root, WANTED)
        if (root / "train").is_dir() and not any((root / "train").glob("*.tar")):
            return self._load_folders(root)
        return self._load_shards(root)

    def _load_folders(self, root: Path) -> Splits:
        val_folder = next((root / n for n in ("val", "validation") if (root / n).is_dir()), None)
        if val_folder is None:
            raise FileNotFoundError(
                f"data.root={root} has train/ but no val/ or validation/, only "
                f"{some(listing(root))}; add the validation folder"
            )
        train, val = FolderSource(root / "train"), FolderSource(val_folder)
        check_class_count(len(train.classes), self.wanted_classes, f"data.root={root}: train/")
        if differing := sorted(set(train.classes) ^ set(val.classes)):
            raise ValueError(
                f"data.root={root}: train/ has {len(train.classes)} classes and {val_folder.name}/ "
                f"{len(val.classes)}; only one has {some(differing)}; make them the same"
            )
        return self.transformed(train, val, train.classes, len(train.classes))

    def _load_shards(self, root: Path) -> Splits:
        train_files, val_files = split_files(root, ".tar")
        for split, files in (("train", train_files), ("val", val_files)):
            if not files:
                raise FileNotFoundError(
                    f"data.root={root} has no {split} split: found neither {split}/ nor "
                    f"*{split}*.tar, only {some(listing(root))}; wanted {WANTED}"
                )
        train, val = ShardSource(train_files), ShardSource(val_files)
        classes = self.wanted_classes or int(train.labels.max()) + 1
        for source, split in ((train, "train"), (val, "val")):
            check_labels(source.labels, classes, f"data.root={root}: {split} shards")
        return self.transformed(train, val, None, classes)


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)
