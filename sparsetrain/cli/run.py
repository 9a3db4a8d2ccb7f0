"""Handing `fit` to Hydra: overrides, sweeps, the run folder."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import hydra
import torch
from omegaconf import DictConfig

from sparsetrain.cli.explain import explained
from sparsetrain.cli.overrides import check, with_demo, with_recipe_file
from sparsetrain.recipe import data_folder, store_recipes


def run_fit(args: list[str]) -> None:
    """`fit` with Hydra's own flags (-m, --cfg job, …) and overrides."""
    store_recipes()
    flags, words = _split(args)
    words = with_recipe_file(words)
    words = with_demo(words, has_gpu=torch.cuda.is_available())
    check(words)
    whole = sys.argv

    @hydra.main(version_base="1.3", config_path=str(data_folder("configs")), config_name="config")
    def task(config: DictConfig) -> None:
        # Lightning's launcher starts further processes with the whole command line.
        sys.argv = whole
        # Here, because Hydra would print a traceback first.
        with explained():
            # Lightning takes seconds to import; a wrong word is told before.
            from sparsetrain.cli.fit import fit

            fit(config)

    with _scratch_of_a_helper() as scratch:
        sys.argv = [whole[0], *flags, *words, *scratch]
        task()


@contextmanager
def _scratch_of_a_helper() -> Iterator[list[str]]:
    """Overrides by which only the first process of a run makes a run folder."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")
    if all(int(os.environ.get(name, "0")) == 0 for name in ranks):
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="sparsetrain-") as folder:
        dirs = [f"hydra.{kind}.dir={folder}" for kind in ("run", "sweep")]
        yield [*dirs, "hydra.output_subdir=null"]


def _split(args: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the override words."""
    with_value = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--config-dir", "-cd")
    flags, words = [], []
    for previous, arg in zip(["", *args], args, strict=False):
        is_flag = arg.startswith("-") or previous in with_value
        (flags if is_flag else words).append(arg)
    return flags, words
