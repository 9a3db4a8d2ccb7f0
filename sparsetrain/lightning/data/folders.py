"""Images in one folder per class, at any depth below it.

Not torchvision's `ImageFolder`: it does not count what it skips, and its list of 1.3 million Python
strings is copied into every loading process as reference counts are touched.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sparsetrain.lightning.data.decode import SUFFIXES, Encoded
from sparsetrain.lightning.data.files import listing, only

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"),
}
"""In upper or lower case, the first that is there; as in the `datasets` documentation."""


class FolderSource:
    """The images of one folder per class. Labels follow the sorted class names.

    Names that begin with a dot are left out; `skipped` counts other files by their suffix, as
    {".txt": 2}. `otherwise` is another fix, for the error where there are no class folders.

    Raises:
        ValueError: no class folders, or a class folder without images.
    """

    def __init__(self, folder: Path, otherwise: str = "") -> None:
        self.folder = folder
        names = listing(folder)
        self.classes = [name for name in names if (folder / name).is_dir()]
        if not self.classes:
            raise ValueError(
                f"{folder} has no class folders{only(names)}; "
                f"move every image into {folder.name}/<class>/{otherwise}"
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


def split_name(names: Iterable[str], split: str) -> str | None:
    """Which of the names says "train" or "val", by the usual words."""
    by_word = {name.lower(): name for name in sorted(names)}  # of Train and train the latter
    return next((by_word[word] for word in SPLIT_NAMES[split] if word in by_word), None)


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of "train" or "val" in `root`."""
    name = split_name((name for name in listing(root) if (root / name).is_dir()), split)
    return None if name is None else root / name


def image_folders(root: Path) -> list[str]:
    """Names of the folders in `root` that hold an image, at any depth."""
    return [
        name
        for name in listing(root)
        if (root / name).is_dir() and any(map(is_image, files_below(root / name)))
    ]


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
