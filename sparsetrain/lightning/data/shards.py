"""WebDataset shards (tar files) read at random: index the offsets once, then seek.

A sample is the members that share a key, which is the path up to the first dot of its last part:
`<key>.jpg` (or .jpeg, .png) holds the image and `<key>.cls` the label in ASCII.
Format: the WebDataset README, "The WebDataset Format". Other members are skipped, and counted
where a sample has a label and no image.

Not the `webdataset` package: it reads a shard from its start and shuffles in a buffer, so a run
cannot be resumed at the sample where it stopped, and its basic decoders unpickle .pyd and .pickle
members.
"""

import tarfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import Self

from sparsetrain.lightning.data.decode import SUFFIXES, Encoded

LABEL = 32
"""Bytes of a label that are read."""

SHARD_IMAGES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)


class ShardIndex(NamedTuple):
    """Where one shard's images are: int64 [N] each, in the order of the tar file.

    skipped: samples with a label whose image is missing, or of an unknown kind.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    skipped: int


class ShardSource:
    """All samples of several shards. One seek and one read per image, no file kept open.

    Raises:
        ValueError: a shard that is not a whole tar file, or has no samples, or one without label.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        indices = [index_shard(path) for path in files]
        self.shards = np.repeat(np.arange(len(files)), [len(index.labels) for index in indices])
        self.offsets = np.concatenate([index.offsets for index in indices])
        self.sizes = np.concatenate([index.sizes for index in indices])
        self.labels = np.concatenate([index.labels for index in indices])
        missing = sum(index.skipped for index in indices)
        self.skipped = Counter({"label without image": missing} if missing else {})

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Encoded, int]:
        path = self.files[self.shards[index]]
        offset = int(self.offsets[index])
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(int(self.sizes[index]))
        return Encoded(data, f"at byte {offset:,} of {path}"), int(self.labels[index])


def index_shard(path: Path) -> ShardIndex:
    """Read a shard's headers and labels; image data is seeked over."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:", tarinfo=_Member) as shard:
            for member in shard:
                if member.issparse():
                    raise tarfile.ReadError(f"{member.name} is a sparse file")
                key, kind = split_key(member.name)
                if kind in SHARD_IMAGES:
                    images[key] = member.offset_data, member.size
                elif kind == "cls":
                    labels[key] = read_label(shard, member, path)
            # tarfile takes the end of the file for the end of the archive, which is a block of 0.
            if shard.offset + tarfile.BLOCKSIZE > path.stat().st_size:
                raise tarfile.ReadError("no end-of-archive mark")
    except tarfile.TarError as error:
        raise ValueError(
            f"shard {path} is not a whole tar file ({error}); fetch it again"
        ) from error
    if not images:
        raise ValueError(f"shard {path} has no images ({', '.join(SHARD_IMAGES)}); remove it")
    if unlabelled := [key for key in images if key not in labels]:
        raise ValueError(
            f"shard {path} has {len(unlabelled)} image(s) without a .cls label, the first "
            f"{unlabelled[0]!r}; labels must be <key>.cls in the same shard"
        )
    places = np.array(list(images.values()), dtype=np.int64)
    found = np.array([labels[key] for key in images])
    return ShardIndex(places[:, 0], places[:, 1], found, len(labels.keys() - images.keys()))


class _Member(tarfile.TarInfo):
    """A member whose size is not negative: Python before 3.11.14 read such a file for ever."""

    @classmethod
    def frombuf(cls, *args: Any, **named: Any) -> Self:
        member = super().frombuf(*args, **named)
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name} has a negative size")
        return member


def split_key(name: str) -> tuple[str, str]:
    """("a/b", "jpg") for "a/b.jpg": the sample's key and what the member holds, lower case."""
    folder, _, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return f"{folder}/{stem}", kind.lower()


def read_label(shard: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    """The integer in a .cls member."""
    file = shard.extractfile(member)
    text = b"" if file is None else file.read(LABEL)
    if not text.strip().lstrip(b"-").isdigit():
        raise ValueError(
            f"shard {path}: {member.name} holds {text[:20]!r}, not a class number; "
            "write the label as ASCII digits"
        )
    return int(text)
