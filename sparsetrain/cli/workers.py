"""How many loading processes a machine is asked for."""

from __future__ import annotations

import os

import torch
from omegaconf import DictConfig

from sparsetrain.cli.overrides import split_word
from sparsetrain.cores import cores


def processes(config: DictConfig) -> int:
    """Training processes of a run on this machine."""
    if torch.distributed.is_torchelastic_launched():
        return int(os.environ["LOCAL_WORLD_SIZE"])
    devices = config.trainer.devices
    if devices in ("auto", -1, "-1"):
        on_cpu = config.trainer.accelerator == "cpu"
        return 1 if on_cpu else max(1, torch.cuda.device_count())
    if isinstance(devices, int):
        return max(1, devices)
    if isinstance(devices, str) and "," not in devices:
        return max(1, int(devices)) if devices.isdigit() else 1
    return max(1, len(devices.split(",") if isinstance(devices, str) else devices))


def limit_workers(config: DictConfig, words: list[str]) -> tuple[str, ...]:
    """Lower `data.num_workers` to this machine's cores for each training process, unless the
    command line sets it.

    What is loaded does not depend on it. Returns a line that says so, or nothing.
    """
    wanted, there, trained = config.data.num_workers, cores(), processes(config)
    most = max(1, there // trained)
    if wanted <= most or "data.num_workers" in {split_word(word)[0] for word in words}:
        return ()
    config.data.num_workers = most
    shared = "" if trained == 1 else f" for each of {trained} training processes"
    return (f"data.num_workers={most}, of {there} cores{shared} (the config's: {wanted})",)
