"""The key=value words of `prune`: what they may be, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsetrain.cli.known import base_config
from sparsetrain.cli.overrides import check_form, split_word, values_of, with_quotes
from sparsetrain.cli.prune_pattern import flag, pattern_words
from sparsetrain.recipe import nearest

METHODS = ("magnitude", "weightnorm", "wanda", "sparsegpt")

_KEYS = (
    "checkpoint", "method", "pattern", "density", "balanced", "selection", "include", "exclude",
    "refit", "sequential", "images", "out", "permute",
)  # fmt: skip
_DATA = ("data", "demo", "recipe")


@dataclass(frozen=True)
class Words:
    """What was asked for. include, exclude: globs, None for those of the run. sparsity: the option
    of configs/sparsity that trains such a model, and what is set in it. images: of calibration.
    data: further words, of the data."""

    checkpoint: str
    method: str
    sparsity: str
    values: dict[str, Any]
    include: list[str] | None
    exclude: list[str] | None
    refit: bool
    sequential: bool
    permute: bool
    images: int
    out: str | None
    data: list[str]

    @property
    def reads_data(self) -> bool:
        return self.refit or self.method in ("wanda", "sparsegpt")

    def node(self, include: list[str], exclude: list[str]) -> dict[str, Any]:
        """The `sparsity` node of the pruned checkpoint's config. include, exclude: of the run."""
        node = base_config({"sparsity": self.sparsity})["sparsity"]
        for key, value in self.values.items():
            *path, name = key.split(".")
            inside = node
            for part in path:
                inside = inside[part]
            inside[name] = value
        node["include"] = include if self.include is None else self.include
        node["exclude"] = exclude if self.exclude is None else self.exclude
        return node

    def overrides(self, node: dict[str, Any]) -> list[str]:
        """The words that have `fit` compose such a node."""
        values = [f"sparsity.{key}={_text(value)}" for key, value in self.values.items()]
        plain = base_config({"sparsity": self.sparsity})["sparsity"]
        globs = [
            f"sparsity.{key}=[{','.join(map(_quoted, node[key]))}]"
            for key in ("include", "exclude")
            if node[key] != plain[key]
        ]
        return [f"sparsity={self.sparsity}", *values, *globs]


def prune_words(words: list[str]) -> Words:
    """Read them. Raises ValueError in one line for an unknown one, or a value that does not fit."""
    check_form(words)
    options: dict[str, str] = {}
    data = []
    for word in words:
        key, value = split_word(word)
        if key.partition(".")[0] in _DATA or word[:1] == "~":
            data.append(word)
        elif key not in _KEYS:
            raise ValueError(f"{key}= is no option of prune: {nearest(key, (*_KEYS, 'data'))}")
        else:
            options[key] = value
    if not options.get("checkpoint"):
        raise ValueError("checkpoint= is missing: give a file that `fit` wrote")
    method = options.get("method")
    if method not in METHODS:
        said = "method= is missing" if not method else f"method={method!r} is unknown"
        raise ValueError(f"{said}: {nearest(method or '', METHODS)}")
    sparsity, values = pattern_words(options)
    asked = Words(
        checkpoint=options["checkpoint"],
        method=method,
        sparsity=sparsity,
        values=values,
        include=_globs(options, "include"),
        exclude=_globs(options, "exclude"),
        refit=flag(options, "refit", "false"),
        sequential=flag(options, "sequential", "true"),
        permute=_permute(options),
        images=_count(options, "images", 512),
        out=options.get("out"),
        data=data,
    )
    unused = [
        *data,
        *(f"{key}={options[key]}" for key in ("images", "sequential") if key in options),
    ]
    if unused and not asked.reads_data:
        raise ValueError(
            f"{unused[0]} with method={method}, which looks at weights alone: leave it out, or "
            "give refit=true"
        )
    return asked


def _permute(options: dict[str, str]) -> bool:
    asked, pattern = flag(options, "permute", "false"), options.get("pattern", "2:4")
    if asked and pattern != "2:4":
        raise ValueError(
            f"permute=true with pattern={pattern}: fours of units are of 2:4; leave it out"
        )
    return asked


def _count(options: dict[str, str], key: str, default: int) -> int:
    text = options.get(key, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{key}={text!r}: give a whole number, at least 1")
    return int(text)


def _globs(options: dict[str, str], key: str) -> list[str] | None:
    if key not in options:
        return None
    return [str(value) for _, value in values_of(with_quotes([f"{key}={options[key]}"]))]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(glob: str) -> str:
    return "'" + glob.replace("\\", "\\\\").replace("'", "\\'") + "'"
