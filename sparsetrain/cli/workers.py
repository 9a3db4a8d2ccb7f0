"""How many loading processes a machine is asked for."""

from __future__ import annotations

import os

from omegaconf import DictConfig

from sparsetrain.cli.overrides import split_word


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_workers(config: DictConfig, words: list[str]) -> tuple[str, ...]:
    """Lower `data.num_workers` to the cores of this machine, unless the command line sets it.

    What is loaded does not depend on it. Returns a line that says so, or nothing.
    """
    wanted, most = config.data.num_workers, cores()
    if wanted <= most or "data.num_workers" in {split_word(word)[0] for word in words}:
        return ()
    config.data.num_workers = most
    return (f"data.num_workers={most}, as many as this machine has cores (the config's: {wanted})",)
