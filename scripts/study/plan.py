"""What a study trains: variants and data sets of variants.yaml, and one run as a value."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_name("variants.yaml")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Variant:
    """words: overrides. twin: what it is compared with, dense, or of fp8 in 16 bits. goal: points
    it may lose, None where nothing is promised."""

    words: tuple[str, ...]
    twin: str | None = None
    goal: float | None = None


@dataclass(frozen=True)
class DataSet:
    """checks: validations of a run that makes choices."""

    recipe: str
    epochs: int
    choose_epochs: int
    checks: int = 5


@dataclass(frozen=True)
class Run:
    """One training run. choose: validates on held-out training images, `checks` times, and never
    reads the test."""

    data: str
    recipe: str
    recipe_digest: str
    variant: str
    seed: int
    epochs: int
    choose: bool
    root: str
    words: tuple[str, ...]
    checks: int = 5

    @property
    def name(self) -> str:
        """Of its folder; other words give another one."""
        words = hashlib.sha256(" ".join(self.words).encode()).hexdigest()[:6]
        kind = "choose" if self.choose else "final"
        return f"{self.data}-{self.variant}-s{self.seed}-e{self.epochs}-{kind}-{words}"

    @property
    def key(self) -> tuple[Any, ...]:
        """What a row must agree in to be of this run."""
        return (
            self.data, self.recipe_digest, self.variant, self.seed, self.epochs, self.choose,
            tuple(self.words)
        )  # fmt: skip


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """The key of the run that a row is of."""
    names = ("data", "recipe_digest", "variant", "seed", "epochs", "choose")
    return (*(row[name] for name in names), tuple(row["words"]))


OF_VARIANTS = ("sparsity", "~sparsity", "engine", "compile")
"""Groups of config in which runs that are compared may differ; `compile` changes their speed."""


def setting(row: dict[str, Any]) -> tuple[Any, ...]:
    """What rows have in common that are compared: (data, digest, epochs, choose, words of the
    command line that change the recipe)."""
    words = [word for word in row["words"] if word.split("=")[0].split(".")[0] not in OF_VARIANTS]
    return (*(row[name] for name in ("data", "recipe_digest", "epochs", "choose")), tuple(words))


def variants() -> dict[str, Variant]:
    table = yaml.safe_load(TABLE.read_text())["variants"]
    return {
        name: Variant(**{**entry, "words": tuple(entry["words"].split())})
        for name, entry in table.items()
    }


def data_sets() -> dict[str, DataSet]:
    table = yaml.safe_load(TABLE.read_text())["data"]
    return {name: DataSet(**entry) for name, entry in table.items()}


def recipe_digest(recipe: str, root: Path = ROOT) -> str:
    """Of what a recipe and its model's config say, comments aside: six letters. Rows of a recipe
    as it was before a change are of other runs."""
    content = yaml.safe_load((root / "recipes" / f"{recipe}.yaml").read_text())
    (model,) = (d["override /model"] for d in content["defaults"] if "override /model" in d)
    network = yaml.safe_load((root / "configs" / "model" / f"{model}.yaml").read_text())
    return hashlib.sha256(json.dumps([content, network]).encode()).hexdigest()[:6]
