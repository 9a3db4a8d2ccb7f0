"""Find a data set's files under `root`, and say what was found when they are not there."""

from difflib import get_close_matches
from pathlib import Path

from sparsetrain.lightning.data.decode import SUFFIXES

VAL_WORDS = ("val", "test")


def existing_root(root: str | Path | None, wanted: str) -> Path:
    """`root` as a folder that exists.

    Raises:
        FileNotFoundError: naming what was `wanted` and the nearest names that do exist.
    """
    if root is None or not str(root).strip():  # an empty path is the folder of the process
        state = "not set" if root is None else "empty"
        raise FileNotFoundError(f"data.root is {state}; set data.root=<folder> with {wanted}")
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"data.root={root} is a file; give the folder with {wanted}")
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    near = get_close_matches(path.relative_to(parent).parts[0], listing(parent), n=3, cutoff=0.5)
    there = f"did you mean {', '.join(near)}?" if near else f"it has {some(listing(parent))}"
    raise FileNotFoundError(
        f"data.root={root} does not exist; wanted {wanted}. In {parent}: {there}"
    )


def split_files(
    root: Path, suffix: str, val_fraction: float = 0.0
) -> tuple[list[Path], list[Path]]:
    """(train, validation) files below `root` that end in `suffix`, sorted.

    The split is a word in the path below `root`: "train"; else "val"; else, when no file says
    "val", "test" (published test labels are often withheld). With a `val_fraction` there are no
    validation files, and files that say none of these words are for training where none says
    "train".

    Raises:
        FileNotFoundError: a split without files, saying what there is.
    """
    files = sorted(path for path in root.rglob(f"*{suffix}") if path.is_file())
    names = {path: path.relative_to(root).as_posix().lower() for path in files}
    train = [path for path in files if "train" in names[path]]
    rest = [path for path in files if path not in train]
    val = next(filter(None, ([f for f in rest if w in names[f]] for w in VAL_WORDS)), [])
    unnamed = [f for f in rest if not any(word in names[f] for word in VAL_WORDS)]
    if val_fraction:
        train, val = train or unnamed, []
    for split, found in (("train", train), ("val", val)):
        if not found and not (split == "val" and val_fraction):
            divide = split == "val" or (unnamed and not val_fraction)
            fix = ", or set data.val_fraction=0.1" if divide else ""
            raise FileNotFoundError(
                f"data.root={root} has no {split} split{only(listing(root))}; wanted "
                f"*train*{suffix} and *val*{suffix} or *test*{suffix}{fix}"
                f"{'' if files else other_kind(root)}"
            )
    return train, val


def reader(root: Path) -> str | None:
    """Which data= reads what is in `root`."""
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return "hf"
    endings = {path.suffix.lower() for path in root.rglob("*")}
    if ".parquet" in endings:
        return "parquet"
    return "imagenet" if endings & {".tar", *SUFFIXES} else None


def other_kind(root: Path) -> str:
    """Which data= reads what is in `root`, for the end of an error; empty where none does."""
    kind = reader(root)
    return f"; data={kind} reads what is there" if kind else ""


def listing(folder: Path) -> list[str]:
    """Names in `folder`, sorted, those that start with a dot left out."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def only(names: list[str]) -> str:
    """What a folder without the wanted holds, after that sentence."""
    return f", only {some(names)}" if names else " and is empty"


def some(names: list[str], most: int = 6) -> str:
    """The first few of `names`, for one line of an error."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
