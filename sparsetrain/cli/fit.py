"""`fit`: train a recipe, from its config to the summary."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from sparsetrain.cli.console import relative
from sparsetrain.cli.explain import one_line
from sparsetrain.cli.facts import about
from sparsetrain.cli.interrupt import resumable
from sparsetrain.cli.load import changes_since, check_sparsity, check_weights, first_masks
from sparsetrain.cli.overrides import NOTES, split_word
from sparsetrain.cli.permuted import permute_once
from sparsetrain.cli.quiet import quiet_lightning
from sparsetrain.cli.show import ShowLayers, show_banner, show_line, show_lines, show_summary
from sparsetrain.cli.summary import summary_of
from sparsetrain.cli.tracking import give_files, name_run, own_wandb_run
from sparsetrain.cli.workers import limit_workers
from sparsetrain.lightning import (
    AtomicCheckpointIO,
    Classifier,
    SparsifyModel,
    read_checkpoint,
)
from sparsetrain.lightning.callbacks.compile import (
    CompileWhereItWorks,
    EagerValidation,
    cache_sparse_graphs,
    compile_classifier,
)
from sparsetrain.lightning.callbacks.config import SaveConfig
from sparsetrain.lightning.callbacks.record import KeepRecord
from sparsetrain.lightning.callbacks.wandb_run import WandbRun
from sparsetrain.lightning.cudnn import leave_out_cudnn
from sparsetrain.lightning.ddp import register_ddp
from sparsetrain.lightning.flavour import pl
from sparsetrain.lightning.fsdp2 import FSDP2, ShardedClassifier, fsdp2_strategy
from sparsetrain.lightning.report import read_run, write_report
from sparsetrain.nn import count_tokens
from sparsetrain.recipe import instantiate_sparsity, nearest

AUTO = "auto"


def fit(config: DictConfig, swept: Collection[str] = ()) -> None:
    """Train as the composed config says. swept: the keys that differ between runs of a sweep."""
    quiet_lightning()
    words = list(HydraConfig.get().overrides.task)
    demo = HydraConfig.get().runtime.choices.get("demo")
    notes = (NOTES[demo],) if demo in NOTES else ()
    show_banner(notes)
    show_lines(limit_workers(config, words))
    run_dir = Path(config.run_dir)
    saved = None if config.checkpoint is None else read_checkpoint(config.checkpoint)
    pl.seed_everything(config.seed, verbose=False)
    torch.set_float32_matmul_precision(config.matmul_precision)
    if config.cpu_threads is not None:
        torch.set_num_threads(config.cpu_threads)

    data = instantiate(config.data, _convert_="all")
    data.setup("fit")
    show_lines(data.notes)
    module = build_module(config, data)
    if config.model.attention == "sdpa":
        show_lines(leave_out_cudnn(module.network, config.model.img_size))
    if saved is not None:
        check_sparsity(saved, config, str(config.checkpoint))
        check_weights(module, saved["state_dict"], str(config.checkpoint))
        show_lines(changes_since(saved, config, str(config.checkpoint)))
    show_lines(first_masks(saved, config))
    tokens = tokens_of(module, config, data.batch_size)
    sparsity = instantiate_sparsity(config)
    sparsify = SparsifyModel(sparsity, engine=config.engine, tokens=tokens)
    save_config = SaveConfig(plain(config), words, data.class_names)
    show = ShowLayers(f"{config.model.name} on {data.name}")
    compiles = []
    if config.compile:
        cache_sparse_graphs()
        compiles = [CompileWhereItWorks(show_line) if config.compile == AUTO else EagerValidation()]
    name_run(config, saved, swept)
    with _named(words):
        trainer = build_trainer(config, [sparsify, save_config, show, *compiles])
    _check_nodes(trainer)
    device = trainer.strategy.root_device
    show_lines(data.placement(device))
    save_config.permuted = permute_once(module, sparsity, config, saved, device)
    known = about(config, plain(config), trainer, data, notes, save_config.permuted)
    told = [KeepRecord(str(run_dir), known), WandbRun(known.config, known.facts)]
    trainer.callbacks.extend(told)  # pyright: ignore[reportAttributeAccessIssue]
    if trainer.is_global_zero:
        show_lines(keep_metrics(run_dir / "metrics.csv"))
    with resumable(trainer), own_wandb_run(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=config.checkpoint, weights_only=True)
        check_trained(trainer, 0 if saved is None else saved["global_step"], config)
        if not trainer.is_global_zero:
            return
        run = read_run(run_dir)
        write_report(run_dir / "report.html", [run])
        url = give_files(trainer, run, run_dir)
    show_summary(summary_of(trainer, run, data), run_dir, url)


def build_module(config: DictConfig, data: Any) -> Classifier:
    """The classifier of a config, for the classes of the (set up) data."""
    with open_dict(config):
        config.model.num_classes = data.num_classes
    network = instantiate(config.model, _convert_="all")
    module = classifier(network, config, data.num_classes)
    if config.compile not in (False, AUTO):
        compile_classifier(module, None if config.compile is True else config.compile)
    return module


def classifier(network: nn.Module, config: DictConfig, num_classes: int) -> Classifier:
    """A network under the optimizer and the mixing of a config."""
    adamw = instantiate(config.optimizer, _convert_="all")
    kind = ShardedClassifier if config.trainer.strategy == FSDP2 else Classifier
    return kind(network, adamw, instantiate(config.mix), num_classes)


def tokens_of(module: Classifier, config: DictConfig, batch_size: int) -> dict[str, int] | None:
    """Rows that each linear layer multiplies in a step; None where nobody asks, or it cannot be
    told: xFormers' attention takes no meta tensors."""
    asked = config.engine == "auto" and torch.cuda.is_available()
    if not asked or config.model.attention == "xformers":
        return None
    size = config.model.img_size
    return count_tokens(module, torch.empty(batch_size, 3, size, size, device="meta"))


def keep_metrics(path: Path) -> tuple[str, ...]:
    """Rename what a run before left there, which this one's logger would delete; says so."""
    if not path.is_file():
        return ()
    numbered = (path.with_name(f"{path.stem}.{i}{path.suffix}") for i in count(1))
    kept = next(other for other in numbered if not other.exists())
    path.rename(kept)
    return (f"the metrics of the run before are kept in {relative(kept)}",)


def check_trained(trainer: pl.Trainer, start: int, config: DictConfig) -> None:
    """Raise ValueError if a run that began after `start` steps made none, and did not finish a
    validation either."""
    if trainer.global_step > start or "val/loss" in trainer.callback_metrics:
        return
    ends = f"trainer.max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}"
    if config.checkpoint is None:
        raise ValueError(f"no step was trained: {ends}")
    raise ValueError(
        f"checkpoint={config.checkpoint} is of step {start}, where this run ends ({ends}): raise "
        "what ends it, or use `validate`"
    )


def build_trainer(config: DictConfig, first: list[pl.Callback]) -> pl.Trainer:
    """The trainer of a config. `first`: callbacks that come before the configured ones."""
    callbacks = [*first, *_instances(config, "callbacks")]
    arguments = config.trainer.copy()
    if str(arguments.get("strategy")).endswith(("spawn", "fork", "notebook")):
        raise ValueError(
            f"trainer.strategy={arguments.strategy}: its processes do not hand the trained model "
            "back; use ddp"
        )
    elastic = torch.distributed.is_torchelastic_launched()
    if elastic and arguments.devices == "auto":
        with open_dict(arguments):
            arguments.devices = int(os.environ["LOCAL_WORLD_SIZE"])
            arguments.num_nodes = int(os.environ["WORLD_SIZE"]) // arguments.devices
    if arguments.accelerator == "auto" and not torch.cuda.is_available():
        # Not Apple's GPU: masks are chosen in float64, which it does not have.
        arguments.accelerator = "cpu"
    if arguments.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={arguments.accelerator}: PyTorch finds no GPU, and `python -m "
            "sparsetrain doctor` says why; give auto or cpu"
        )
    register_ddp()
    strategy: Any = arguments.strategy
    registry = pl.strategies.StrategyRegistry  # pyright: ignore[reportAttributeAccessIssue]
    known = ("auto", FSDP2, *registry.available_strategies())
    if isinstance(strategy, str) and strategy not in known:
        raise ValueError(f"trainer.strategy={strategy} is unknown: {nearest(strategy, known)}")
    if strategy == FSDP2:
        if config.callbacks.get("ema") is not None:
            raise ValueError("trainer.strategy=fsdp2 averages no weights: add callbacks=default")
        strategy = fsdp2_strategy(_processes(arguments))
    return instantiate(
        arguments,
        strategy=strategy,
        callbacks=callbacks,
        logger=_instances(config, "logger"),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=f"{config.run_dir}/checkpoints",  # what is saved when SLURM's time is up
        _convert_="all",
    )


def _check_nodes(trainer: pl.Trainer) -> None:
    """Raise ValueError for several machines that nothing tells of each other: each would wait for
    the others until a time-out."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    alone = type(environment).__name__ == "LightningEnvironment"  # no SLURM, torchrun, MPI
    if trainer.num_nodes > 1 and alone and "MASTER_ADDR" not in os.environ:
        raise ValueError(
            f"trainer.num_nodes={trainer.num_nodes}: nothing says where the other machines are; "
            f"start it by torchrun --nnodes {trainer.num_nodes} or srun, or set MASTER_ADDR, "
            "MASTER_PORT and NODE_RANK on each"
        )


@contextmanager
def _named(words: list[str]) -> Iterator[None]:
    """Put the trainer.* words before what Lightning says of its arguments, which names no key."""
    try:
        yield
    except InstantiationException as error:
        said = one_line(error)
        given = [word for word in words if split_word(word)[0].startswith("trainer.")]
        named = [word for word in given if split_word(word)[0].partition(".")[2] in said]
        raise ValueError(f"{' '.join(named or given) or 'trainer'}: {said}") from error


def _processes(arguments: DictConfig) -> int:
    """Of the whole run. Raises ValueError where `devices` does not say how many."""
    devices = arguments.devices
    if devices == "auto":
        devices = torch.cuda.device_count() or 1
    if not isinstance(devices, int) or devices < 1:
        raise ValueError(f"trainer.devices={devices}: with strategy=fsdp2 give a number")
    return devices * arguments.num_nodes


def _instances(config: DictConfig, group: str) -> list[Any]:
    """What the nodes of a group make. Raises ValueError that names the one that cannot be made."""
    made = []
    for name, node in config[group].items():
        try:
            made += [] if node is None else [instantiate(node, _convert_="all")]
        except InstantiationException as error:
            raise ValueError(f"{group}.{name}: {one_line(error)}") from error
    return made


def plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain values, interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
