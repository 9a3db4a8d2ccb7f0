"""`validate`: accuracy, density and throughput of a checkpoint."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Collection
from itertools import zip_longest

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from sparsetrain.cli.check import check
from sparsetrain.cli.console import console, show_values
from sparsetrain.cli.fit import classifier
from sparsetrain.cli.known import FILES
from sparsetrain.cli.load import load_trained, saved_config
from sparsetrain.cli.overrides import (
    check_single,
    parsed,
    split_word,
    take,
    take_allowed,
    with_demo_off,
    with_quotes,
    with_recipe_file,
)
from sparsetrain.cli.quiet import quiet_lightning
from sparsetrain.cli.show import show_lines
from sparsetrain.cli.workers import limit_workers
from sparsetrain.lightning import read_checkpoint
from sparsetrain.lightning.flavour import pl
from sparsetrain.nn import density
from sparsetrain.recipe import recipe_names
from sparsetrain.targets import checked
from sparsetrain.upgrade import upgraded_words


def validate(words: list[str]) -> None:
    """Validate `checkpoint=…` on the data of its run, or on what further key=value say."""
    quiet_lightning()
    allowed, words = take_allowed(with_demo_off(words))
    path, rest = take(words, "checkpoint")
    rest = with_quotes(rest)
    for word in rest:
        if path is not None and _is_fixed(split_word(word)[0]):
            raise ValueError(
                f"{word} changes nothing that validate does: model and sparsity are those of the "
                "checkpoint; it takes data.*, demo=, recipe= and trainer.*"
            )
    check_single(rest, "call validate for each")
    if not path:
        _check_the_other_words(with_recipe_file(rest), allowed)
        raise ValueError("checkpoint= is missing: give a file that `fit` wrote")
    trained = load_trained(path, allowed)
    config = config_with(trained.config, path, with_recipe_file(rest), allowed)
    show_lines(limit_workers(config, rest))
    data = instantiate(config.data, num_classes=trained.config.model.num_classes, _convert_="all")
    data.setup("validate")
    show_lines(data.notes)
    check_classes(data.class_names, trained.classes, path)
    module = classifier(trained.network, trained.config, data.num_classes)
    with console.status(f"validating on {data.name}"):
        timer = _Timer()
        trainer = _trainer(config, timer)
        (metrics,) = trainer.validate(module, datamodule=data, verbose=False)
    images = len(data.splits.val)
    phase = (trained.phase or "dense").replace("_", " ")
    show_values(
        (
            ("data", data.name),
            ("top-1", f"{100 * metrics['val/top1']:.2f} %"),
            ("top-5", f"{100 * metrics['val/top5']:.2f} %"),
            ("loss", f"{metrics['val/loss']:.4f}"),
            ("density", f"{density(trained.network):.3f} ({phase})"),
            ("throughput", f"{images / timer.seconds:,.0f} images/s"),
        )
    )


def _is_fixed(key: str) -> bool:
    return key.partition(".")[0] in _OF_THE_CHECKPOINT or key == "data.num_classes"


_OF_THE_CHECKPOINT = (
    "model", "sparsity", "optimizer", "mix", "callbacks", "logger", "permute", "engine", "compile",
    "run_dir", "hydra",
)  # fmt: skip
"""Groups and keys that are fixed by a checkpoint, or that are of training alone."""


def check_classes(names: list[str] | None, trained: list[str] | None, path: str) -> None:
    """Raise ValueError in one line where both are known and differ: a label would mean another
    class than the one that was learnt."""
    if names is None or trained is None or names == trained:
        return
    pairs = zip_longest(trained, names)
    label, (old, new) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    raise ValueError(
        f"checkpoint={path} was trained on other classes: {label} is {_class(old)} there and "
        f"{_class(new)} in this data; give data with the {len(trained)} classes of the run"
    )


def _class(name: str | None) -> str:
    return "no class" if name is None else repr(name)


def _check_the_other_words(words: list[str], allowed: Collection[str]) -> None:
    """checkpoint= may be among them, misspelt."""
    if take(words, "recipe")[0] is None:
        # Every recipe has the same keys, but for those of its groups.
        words = [f"recipe={recipe_names()[0]}", *words]
    check(words, allowed)


class _Timer(pl.Callback):
    seconds: float = 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = -time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds += time.perf_counter()


_MADE = ("model", "sparsity", "data", "optimizer", "mix", "trainer")  # or read here


def config_with(
    trained: DictConfig, path: str, words: list[str], allowed: Collection[str]
) -> DictConfig:
    """The config of the run, composed anew where the command line changes something."""
    if not words:
        return trained
    changed = {split_word(word)[0] for word in words}
    before = [today for word in _words_of_the_run(path) for today in upgraded_words(word)]
    kept = [word for word in before if split_word(word)[0] not in {*changed, "checkpoint"}]
    if "recipe" in changed:  # what the run changed of its own recipe may not fit into another
        kept = [word for word in kept if not _of_training(split_word(word)[0])]
    if "data" in changed or "demo" in changed:
        kept = [
            word for word in kept if split_word(word)[0].partition(".")[0] not in ("data", "demo")
        ]
    config = check([*kept, *words], allowed)
    OmegaConf.update(config, "model", trained.model, merge=False)
    return checked(config, FILES, allowed, _MADE)


def _of_training(key: str) -> bool:
    return key.partition(".")[0] in _OF_THE_CHECKPOINT or key == "trainer.max_epochs"


def _words_of_the_run(path: str) -> list[str]:
    """The overrides in a checkpoint. Hydra's own are refused: they could bring in folders."""
    before = saved_config(read_checkpoint(path), path)["overrides"]
    for word in before if isinstance(before, list) else [before]:
        plain = isinstance(word, str) and word and "hydra" not in split_word(word)[0]
        if not plain or parsed([word])[0].is_sweep_override():
            raise ValueError(
                f"checkpoint={path}: {reprlib.repr(word)} in its overrides is no word of a recipe"
            )
    return before


def _trainer(config: DictConfig, timer: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        precision=config.trainer.precision,
        logger=False,
        callbacks=[timer],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
