"""Images in one folder per class, at any depth below it.

Not torchvision's `ImageFolder`: it does not count what it skips, and its list of 1.3 million Python
strings is copied into every loading process as reference counts are touched.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sparsetrain.lightning.data.decode import SUFFIXES, Encoded
from sparsetrain.lightning.data.files import listing, only

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}


class FolderSource:
    """The images of one folder per class. Labels follow the sorted class names.

    Names that begin with a dot are left out; `skipped` counts other files by their suffix, as
    {".txt": 2}.

    Raises:
        ValueError: no class folders, or a class folder without images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = listing(folder)
        self.classes = [name for name in names if (folder / name).is_dir()]
        if not self.classes:
            raise ValueError(
                f"{folder} has no class folders{only(names)}; "
                f"move every image into {folder.name}/<class>/"
            )
        beside = set(names) - set(self.classes)
        self.skipped = Counter(suffix(name) for name in beside)
        paths: list[bytes] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            files = list(files_below(folder / name))
            found = [file for file in files if is_image(file)]
            if not found:
                raise ValueError(
                    f"class folder {folder / name} has no images "
                    f"({', '.join(SUFFIXES)}){only(files)}; fill or remove it"
                )
            self.skipped.update(suffix(file) for file in files if not is_image(file))
            paths += [os.fsencode(f"{name}/{file}") for file in found]
            labels += [label] * len(found)
        self.paths = np.array(paths)
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Encoded, int]:
        path = self.folder / os.fsdecode(self.paths[index])
        if not path.exists():
            raise ValueError(f"{path} is gone: data.root has changed since training began")
        if not path.is_file():  # a pipe is waited for without end
            raise ValueError(f"{path} is no regular file: remove it")
        return Encoded(path.read_bytes(), str(path)), int(self.labels[index])


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of "train" or "val" in `root`, by the usual names."""
    return next((root / name for name in SPLIT_NAMES[split] if (root / name).is_dir()), None)


def has_class_folders(root: Path) -> bool:
    """Whether a folder in `root` holds an image, at any depth."""
    folders = (root / name for name in listing(root))
    return any(any(map(is_image, files_below(path))) for path in folders if path.is_dir())


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files below `folder`, relative to it, in a fixed order."""
    seen = set()  # links may lead back
    for here, folders, files in os.walk(folder, followlinks=True):
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = os.path.relpath(here, folder)
        for file in sorted(files):
            if not file.startswith("."):
                yield file if within == "." else f"{within}/{file}"


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "no suffix"
