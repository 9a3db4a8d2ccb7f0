"""What the benchmarks share: the device, the library, and the words of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sparsetrain import native
from sparsetrain.bench.products import Shape
from sparsetrain.bench.variants import MODES, Mode
from sparsetrain.cli.overrides import check_form, split_word
from sparsetrain.recipe import nearest


def cuda_device() -> torch.device:
    """The current CUDA device. Raises ValueError without one."""
    if not torch.cuda.is_available():
        raise ValueError(
            "bench needs a CUDA device and none was found; `python -m sparsetrain doctor` says why"
        )
    return torch.device("cuda", torch.cuda.current_device())


def library_words() -> str:
    """Load the kernels; the key they were built under, and for which GPUs."""
    library = native.require()
    if library.path is None:
        raise ValueError(
            f"bench times kernels, and there are none: {library.reason}; {library.fix}"
        )
    archs = ", ".join(f"sm_{arch}" for arch in library.archs)
    return f"{library.path.parent.name}/{library.path.name} for {archs}"


def read_options(words: list[str], keys: Sequence[str]) -> dict[str, str]:
    """The key=value words as a dict. Raises ValueError for other words and other keys."""
    check_form(words)
    options = dict(split_word(word) for word in words)
    for key in options:
        if key not in keys:
            raise ValueError(f"{key}= is no option of bench: {nearest(key, keys)}")
    return options


def read_rounds(options: dict[str, str], default: int) -> int:
    """`rounds=`, at least 2."""
    rounds = options.get("rounds", str(default))
    if not rounds.isdecimal() or int(rounds) < 2:
        raise ValueError(f"rounds={rounds!r}: give a number of at least 2")
    return int(rounds)


def read_count(key: str, options: dict[str, str]) -> int | None:
    """A number of at least 1, None where the key is not given."""
    text = options.get(key)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{key}={text!r}: give a number of at least 1")
    return int(text)


def read_dtype(options: dict[str, str], narrow: Mapping[str, torch.dtype]) -> torch.dtype:
    """`dtype=` of a product: bfloat16, float16 or one of `narrow`, those of 8 bits by name."""
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, **narrow}
    name = options.get("dtype", "bfloat16")
    if name not in known:
        raise ValueError(f"dtype={name!r}: choose one of {', '.join(known)}")
    return known[name]


def read_shapes(options: dict[str, str], default: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """`shapes=`, sizes of MLPs."""
    return tuple(_shape(text) for text in split_list(options.get("shapes", ""))) or default


def read_mode(options: dict[str, str]) -> Mode:
    """`compile=`, a mode of torch.compile."""
    name = options.get("compile", MODES[0])
    check_name("compile", name, MODES)
    return next(mode for mode in MODES if mode == name)


def read_names(
    key: str, options: dict[str, str], known: Sequence[str], extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """A list of known names; all of them where the key is not given. extra: known too, but only
    where they are named."""
    names = tuple(split_list(options.get(key, ",".join(known))))
    known = (*known, *extra)
    if not names:
        raise ValueError(f"{key}={options[key]!r}: name at least one of {', '.join(known)}")
    for name in names:
        check_name(key, name, known)
    return names


def check_name(key: str, name: str, known: Sequence[str]) -> None:
    """Raise ValueError for a value that is not among the known ones."""
    if name not in known:
        raise ValueError(f"{key}={name!r} is unknown: {nearest(name, known)}")


def read_path(key: str, options: dict[str, str]) -> Path | None:
    """A file, None where the key is not given or empty."""
    return Path(options[key]) if options.get(key) else None


def _shape(text: str) -> Shape:
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(
            f"shapes={text!r}: give TOKENSxFEATURESxHIDDEN, as in 25216x1024x4096, 1 or more each"
        )
    shape = Shape(*map(int, sizes))
    for size in (shape.features, shape.hidden):
        if size % 4 != 0:
            raise ValueError(f"shapes={text!r}: {size} features are not a multiple of 4")
    return shape


def split_list(text: str) -> list[str]:
    """'[a, b]' or 'a,b' as ['a', 'b']."""
    return [word.strip() for word in text.strip("[]").split(",") if word.strip()]
