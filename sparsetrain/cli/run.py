"""Handing `fit` to Hydra: overrides, sweeps, the run folder."""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sparsetrain.cli.check import check, check_alone, check_ranges
from sparsetrain.cli.explain import explained
from sparsetrain.cli.flags import split_flags
from sparsetrain.cli.folder import check_unused, own_folder
from sparsetrain.cli.known import FILES
from sparsetrain.cli.overrides import (
    check_folders,
    check_single,
    split_word,
    swept,
    take,
    take_allowed,
    values_of,
    with_demo,
    with_demo_off,
    with_quotes,
    with_recipe_file,
)
from sparsetrain.cli.slurm import RUN_DIR, restarted_from, with_job_folder
from sparsetrain.recipe import data_folder, store_recipes
from sparsetrain.targets import checked


def run_fit(args: list[str]) -> None:
    """`fit` with Hydra's own flags (-m, --cfg job, …) and overrides."""
    flags, words = split_flags(args)
    allowed, words = take_allowed(words)
    words = with_quotes(with_recipe_file(words))
    store_recipes(words)  # of a sweep all of them
    if not {"-m", "--multirun"} & {*flags} and take(words, "hydra.mode")[0] is None:
        check_single(words, "a run for each is `fit -m …`")
    check_folders(words)
    folder = RUN_DIR if take(words, "run_dir")[0] is None else "run_dir"
    words = _in_slurm(_with_hydras_folder(words)) if not flags else words
    uncut = with_demo_off(words)
    words = with_demo(uncut, has_gpu=torch.cuda.is_available())
    if words != uncut:
        check_alone(uncut, allowed)
    check(words, allowed)
    if {"--cfg", "-c"} & {*flags} and (demo := take(words, "demo")[0]):
        print(f"# cut down by demo={demo}; demo=null has the recipe's own values", file=sys.stderr)
    whole = sys.argv
    sweep = _Sweep(swept(words))

    @hydra.main(version_base="1.3", config_path=str(data_folder("configs")), config_name="config")
    def task(config: DictConfig) -> None:
        # Lightning's launcher starts further processes with the whole command line.
        sys.argv = whole
        # Here, because Hydra would print a traceback first.
        with sweep.run(), explained():
            check_ranges(config)
            with nullcontext() if held else _own(config.run_dir, config.checkpoint, folder):
                # Lightning takes seconds to import; a wrong word is told before.
                from sparsetrain.cli.fit import fit

                fit(checked(config, FILES, allowed), sweep.values)

    with _scratch_of_a_helper() as scratch, _named(words, flags, folder) as held:
        sys.argv = [whole[0], *flags, *words, *scratch]
        try:
            task()
        finally:
            sweep.tell()
    if sweep.failed:
        raise SystemExit(1)


def _with_hydras_folder(words: list[str]) -> list[str]:
    """The words with the folder of the run as Hydra's own, which writes the config there too."""
    folder, others = take(words, "run_dir")
    if folder is None or take(words, RUN_DIR)[0] is not None:
        return words
    return [*others, f"{RUN_DIR}={folder}"]


def _in_slurm(words: list[str]) -> list[str]:
    """The words with the folder of a SLURM job, and the checkpoint of its last start."""
    words = with_job_folder(words)
    folder, _ = take(words, RUN_DIR)
    newest = restarted_from(Path(folder.strip("'"))) if folder else None
    if newest is None:
        return words
    if not _is_helper():
        print(f"SLURM started this job again: it goes on from {newest}")
    _, others = take(words, "checkpoint")
    return with_quotes([*others, f"checkpoint={newest}"])


@contextmanager
def _named(words: list[str], flags: list[str], key: str) -> Iterator[bool]:
    """Hold a run folder that the words name, before Hydra writes its config there; whether.

    key: how the user wrote it.
    """
    folder = dict(values_of(words)).get(RUN_DIR)
    if flags or folder is None or "${" in folder:
        yield False
        return
    with _own(folder, dict(values_of(words)).get("checkpoint"), key):
        yield True


@contextmanager
def _own(folder: str, checkpoint: str | None, key: str) -> Iterator[None]:
    """Hold a run's folder, in which no other run has left checkpoints."""
    if _is_helper():
        yield
        return
    why = f"{key}={folder}"
    with own_folder(Path(folder), why):
        check_unused(Path(folder), checkpoint, why)
        yield


@dataclass
class _Sweep:
    """The runs of `fit -m`: the next one starts after one that failed, too.

    values: how many each swept key has.
    """

    values: dict[str, int]
    started: int = 0
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def run(self) -> Iterator[None]:
        """Note a run of a sweep that fails; an error that was explained ends here."""
        job = HydraConfig.get()
        if job.mode != RunMode.MULTIRUN:
            yield
            return
        self.started += 1
        words = [word for word in job.overrides.task if split_word(word)[0] in self.values]
        name = f"{job.job.num} ({' '.join(words)})" if words else str(job.job.num)
        try:
            yield
        except SystemExit as end:
            if end.code != 1:
                raise
            self.failed.append(name)
            # The other processes may be waiting for this one.
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                raise
        except BaseException:  # Hydra keeps it to the end of the sweep
            self.failed.append(name)
            raise

    def tell(self) -> None:
        """Say in one line which runs failed, and how many never started."""
        if not self.started or _is_helper():
            return
        total = max(math.prod(self.values.values()), self.started)
        left = total - self.started
        parts = []
        if self.failed:
            parts.append(f"{len(self.failed)} of {total} runs failed: {', '.join(self.failed)}")
        if left:
            parts.append(f"{left} of {total} runs did not start")
        if parts:
            print(f"sparsetrain: {'; '.join(parts)}", file=sys.stderr)


def _is_helper() -> bool:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"):
        rank = os.environ.get(name, "0")
        if not rank.isdecimal():
            raise ValueError(f"{name}={rank} in the environment: give a whole number, or unset it")
        if int(rank):
            return True
    return False


@contextmanager
def _scratch_of_a_helper() -> Iterator[list[str]]:
    """Overrides by which only the first process of a run makes a run folder."""
    if not _is_helper():
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="sparsetrain-") as folder:
        if any(word.startswith(_BY_LIGHTNING) for word in sys.argv):
            # Others may outlive what started them, as a script on another node that ends.
            threading.Thread(target=_end_after, args=(os.getppid(), folder), daemon=True).start()
        dirs = [f"hydra.{kind}.dir={folder}" for kind in ("run", "sweep")]
        yield [*dirs, "hydra.output_subdir=null"]


_BY_LIGHTNING = "hydra.job.name=train_ddp_process_"
"""In the command line of a process that Lightning starts."""


def _end_after(parent: int, folder: str) -> None:
    """End this process some seconds after the one that started it, and its scratch folder: it may
    wait for that one in a collective, for half an hour."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(5)  # where the run ends, both do
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
