"""What a run was: command, commit, versions, hardware. For its report and for W&B."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import sparsetrain
from sparsetrain.cli.workers import cores
from sparsetrain.lightning.flavour import pl
from sparsetrain.lightning.report import Run

_PACKAGES = ("torchvision", "timm", "pytorch-lightning", "lightning")


def about(
    config: DictConfig,
    values: dict[str, Any],
    trainer: pl.Trainer,
    data: Any,
    notes: tuple[str, ...],
    permuted: str,
) -> Run:
    """What is known of a run before it trains. values: the config, plain. permuted: what a
    permutation won, empty without one."""
    job = HydraConfig.get()
    choices, words = job.runtime.choices, list(job.overrides.task)
    return Run(
        title=f"{choices['recipe']}: {config.model.name}",
        label="",
        facts=facts(config, trainer, data, words, permuted),
        notes=notes,
        overrides=tuple(words),
        config=values,
    )


def facts(
    config: DictConfig, trainer: pl.Trainer, data: Any, words: list[str], permuted: str = ""
) -> tuple[tuple[str, str], ...]:
    """Labels and values; what is not known is left out."""
    rows = [
        ("command", shlex.join(["python", "-m", "sparsetrain", "fit", *words])),
        ("started", time.strftime("%Y-%m-%d %H:%M:%S %z")),
        ("commit", commit()),
        ("versions", versions()),
        ("hardware", hardware(trainer.strategy.root_device, trainer.world_size)),
        ("precision", f"{config.trainer.precision}, compile={config.compile}"),
        ("seed", str(config.seed)),
        ("data", data.name),
        ("batch", _batch(trainer, data)),
        ("goes on from", str(config.checkpoint or "")),
        ("permuted", permuted),
    ]
    return tuple((label, value) for label, value in rows if value)


def commit() -> str:
    """The commit of the checkout that sparsetrain runs from, and whether files differ from it;
    empty for an installed package."""
    root = Path(sparsetrain.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(root), *words],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for words in (
                ("rev-parse", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        )
    except (OSError, subprocess.SubprocessError):  # no git here, or not this user's checkout
        return ""
    return f"{head}, with changes" if changed else head


def versions() -> str:
    known = [f"sparsetrain {sparsetrain.__version__}", f"Python {platform.python_version()}"]
    known.append(f"torch {torch.__version__}")
    for name in _PACKAGES:
        try:
            known.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(known)


def hardware(device: torch.device, count: int) -> str:
    """Devices of the training, processor and cores."""
    processor = f"{_processor()}, {cores()} cores"
    if device.type != "cuda":
        return processor
    return f"{count} × {torch.cuda.get_device_name(device)}; {processor}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _batch(trainer: pl.Trainer, data: Any) -> str:
    """As the learning rate sees it."""
    each, accumulated = getattr(data, "batch_size", None), trainer.accumulate_grad_batches
    if each is None:
        return ""
    total = each * trainer.world_size * accumulated
    parts = f"{each} × {trainer.world_size} processes × {accumulated} accumulated"
    return f"{total:,} images" + (f" ({parts})" if total != each else "")
