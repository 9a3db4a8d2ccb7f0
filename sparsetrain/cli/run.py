"""Handing `fit` to Hydra: overrides, sweeps, the run folder."""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

from sparsetrain.cli.explain import explained
from sparsetrain.cli.fit import fit
from sparsetrain.cli.overrides import check, with_demo_data, with_recipe_file
from sparsetrain.recipe import data_folder, store_recipes


def run_fit(args: list[str]) -> None:
    """`fit` with Hydra's own flags (-m, --cfg job, …) and overrides."""
    store_recipes()
    flags, words = _split(args)
    words = with_recipe_file(words)
    words, demo = with_demo_data(words)
    check(words)
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0:
        # Only the first process of a run writes: the others share its folder by name alone.
        words += ["hydra.run.dir=.", "hydra.output_subdir=null"]

    whole = sys.argv

    @hydra.main(version_base="1.3", config_path=str(data_folder("configs")), config_name="config")
    def task(config: DictConfig) -> None:
        # Lightning's launcher starts further processes with the whole command line.
        sys.argv = whole
        # Here, because Hydra would print a traceback first.
        with explained():
            fit(config, demo)

    sys.argv = [whole[0], *flags, *words]
    task()


def _split(args: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the override words."""
    with_value = ("--cfg", "-c", "--package", "-p", "--info", "-i")
    flags, words = [], []
    for previous, arg in zip(["", *args], args, strict=False):
        is_flag = arg.startswith("-") or previous in with_value
        (flags if is_flag else words).append(arg)
    return flags, words
