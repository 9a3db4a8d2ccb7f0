"""ImageNet and anything else in its usual layouts.

root/train/<class>/*.JPEG, root/val/<class>/*.JPEG        folders (other names: folders.py)
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
    reader,
    some,
    split_files,
)
from sparsetrain.lightning.data.folders import FolderSource, image_folders, split_folder
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
        train = split_folder(root, "train")
        if train is not None and image_folders(train):
            return self._load_folders(root, train)
        classes = image_folders(root) if train is None else []
        if len(classes) < 2 and any(root.rglob("*.tar")):  # else archives beside their images
            return self._load_shards(root)
        inner = root / classes[0] if len(classes) == 1 else None
        if inner is not None and image_folders(inner):
            raise FileNotFoundError(
                f"data.root={root} has all images in {inner.name}/; set data.root={inner}"
            )
        if self.val_fraction and classes:
            return self._load_folders(root, root)
        kind = reader(root)
        if train is not None and kind in (None, "imagenet"):
            return self._load_folders(root, train)  # which says what is wrong
        fix = f"wanted {WANTED}"
        if classes:
            fix = "if these are classes, set data.val_fraction=0.1 to validate on a tenth of them"
        elif kind == "imagenet":
            fix += "; put its images into a folder for each class"
        else:
            fix += other_kind(root)
        what = "no train split" if train is None else "no images in folders"
        raise FileNotFoundError(f"data.root={root} has {what}{only(listing(root))}; {fix}")

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
        val = FolderSource(val_folder, ", or set data.val_fraction=0.1")
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
