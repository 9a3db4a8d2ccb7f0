"""ImageNet and anything else in its usual layouts.

root/train/<class>/*.JPEG, root/val/<class>/*.JPEG        folders ("validation" and "test" are fine)
root/<class>/*.JPEG                                        no splits: with data.val_fraction
root/**/*train*.tar, root/**/*val*.tar                     WebDataset shards, see shards.py
"""

from pathlib import Path

from sparsetrain.lightning.data.augmented import AugmentedData
from sparsetrain.lightning.data.base import Splits, check_class_count, check_labels
from sparsetrain.lightning.data.files import (
    existing_root,
    listing,
    only,
    other_kind,
    some,
    split_files,
)
from sparsetrain.lightning.data.folders import FolderSource, has_class_folders, split_folder
from sparsetrain.lightning.data.shards import ShardSource

WANTED = (
    "train/ and val/ (a folder per class), or *train*.tar and *val*.tar shards, or a folder per "
    "class and data.val_fraction=0.1"
)


class ImageNet(AugmentedData):
    """Image classification from class folders or from WebDataset shards below `root`.

    Raises:
        FileNotFoundError: `root`, or a split of it, is not there.
        ValueError: an empty split or class, the wrong number of classes, a label outside them.
    """

    label = "imagenet"

    def load(self) -> Splits:
        root = existing_root(self.root, WANTED)
        self.label = " ".join(dict.fromkeys(("imagenet", root.resolve().name)))
        folder = split_folder(root, "train")
        if folder is not None and not any(folder.glob("*.tar")):
            return self._load_folders(root, folder)
        if any(root.rglob("*.tar")):
            return self._load_shards(root)
        if self.val_fraction and has_class_folders(root):
            return self._load_folders(root, root)
        fix = f"wanted {WANTED}{other_kind(root)}".replace(
            "data=imagenet reads what is there", "put its images into a folder for each class"
        )
        if has_class_folders(root):
            fix = "if these are classes, set data.val_fraction=0.1 to validate on a tenth of them"
        raise FileNotFoundError(f"data.root={root} has no train split{only(listing(root))}; {fix}")

    def _load_folders(self, root: Path, folder: Path) -> Splits:
        train = FolderSource(folder)
        self.skip_note(folder, train.skipped)
        check_class_count(len(train.classes), self.wanted_classes, f"data.root={folder}")
        if self.val_fraction:
            return self.divided(train, train.classes, len(train.classes))
        val_folder = split_folder(root, "val")
        if val_folder is None:
            raise FileNotFoundError(
                f"data.root={root} has {folder.name}/ but no val/, validation/ or test/, only "
                f"{some(listing(root))}; add one, or set data.val_fraction=0.1"
            )
        val = FolderSource(val_folder)
        self.skip_note(val_folder, val.skipped)
        if differing := sorted(set(train.classes) ^ set(val.classes)):
            raise ValueError(
                f"data.root={root}: {folder.name}/ has {len(train.classes)} classes and "
                f"{val_folder.name}/ {len(val.classes)}; only one has {some(differing)}; make them "
                "the same"
            )
        return self.transformed(train, val, train.classes, len(train.classes))

    def _load_shards(self, root: Path) -> Splits:
        train_files, val_files = split_files(root, ".tar", self.val_fraction)
        train = ShardSource(train_files)
        val = ShardSource(val_files) if val_files else None
        classes = self.wanted_classes or int(train.labels.max()) + 1
        for source, split in ((train, "train"), (val, "val")):
            if source is not None:
                check_labels(source.labels, classes, f"data.root={root}: {split} shards")
                self.skip_note(f"{split} shards", source.skipped)
        if val is None:
            return self.divided(train, None, classes)
        return self.transformed(train, val, None, classes)
