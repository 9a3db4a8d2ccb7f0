"""`prune`: a trained checkpoint pruned, as a checkpoint that validates, exports and retrains."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor, nn

from sparsetrain.cli.console import console, relative, show_values
from sparsetrain.cli.folder import make_folder
from sparsetrain.cli.load import Trained, load_trained, saved_config
from sparsetrain.cli.overrides import split_word, take_allowed, with_demo_off, with_recipe_file
from sparsetrain.cli.prune_words import Words, prune_words
from sparsetrain.cli.quiet import quiet_lightning
from sparsetrain.cli.show import show_lines
from sparsetrain.cli.validate import check_classes, config_with
from sparsetrain.file_format import CHECKPOINT_KEY, FORMAT
from sparsetrain.lightning import AtomicCheckpointIO, read_checkpoint
from sparsetrain.lightning.data.dataset import SeededImages
from sparsetrain.methods import ActivationDropout24
from sparsetrain.nn import Sparsity, densify, sparse_state
from sparsetrain.permutation import permute
from sparsetrain.pruning import (
    FinishedLayers,
    Magnitude,
    Method,
    PrunedLayer,
    PruneReport,
    SparseGPT,
    Wanda,
    WeightNorm,
    prune,
)
from sparsetrain.recipe import instantiate_sparsity

_METHODS: dict[str, Method] = {
    "magnitude": Magnitude(),
    "weightnorm": WeightNorm(),
    "wanda": Wanda(),
    "sparsegpt": SparseGPT(),
}


def prune_checkpoint(words: list[str]) -> None:
    """Prune `checkpoint=…` by `method=…`, and write a checkpoint of optimizer step 0."""
    quiet_lightning()
    allowed, words = take_allowed(with_demo_off(words))
    asked = prune_words(words)
    trained = load_trained(asked.checkpoint, allowed)
    out = _out(asked)
    before = trained.config.sparsity
    check_activations(instantiate_sparsity(trained.config), asked.checkpoint)
    include, exclude = (list(before.get(key) or default) for key, default in _GLOBS)
    node = asked.node(include, exclude)
    sparsity = instantiate_sparsity(OmegaConf.create({"sparsity": node}))
    calibration, name = _calibration(asked, trained, allowed)
    finished = None
    if calibration:
        of = f"{name} {_digest(calibration)}"
        finished = FinishedLayers(out.parent / f".{out.name}.layers", of)
    model: Any = nn.Module()
    # What it evaluates as: a run that ended sparse has weights that nothing multiplied by.
    model.network = densify(trained.network, apply_masks=True)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    permuted = permute(model, sparsity) if asked.permute else None
    with _told(finished), _bar() as on_layer:
        report = prune(
            model,
            _METHODS[asked.method],
            sparsity,
            calibration=calibration,
            forward=_forward,
            refit=asked.refit,
            sequential=asked.sequential,
            engine="masked",
            finished=finished,
            on_layer=on_layer,
        )
    words = asked.overrides(node)
    line = "" if permuted is None else permuted.summary()
    _write(model.to("cpu"), asked, trained, node, words, line, out)
    if finished is not None:
        finished.delete()
    _show(report, line, asked, name, words, out)


def check_activations(sparsity: Sparsity, checkpoint: str) -> None:
    """Raise ValueError where a model evaluates 2:4 activations, in any part. 2:4 dropout is of
    training alone."""
    kinds = (type(part.activation) for part in sparsity.rules if part.activation is not None)
    if any(kind is not ActivationDropout24 for kind in kinds):
        raise ValueError(
            f"checkpoint={checkpoint} was trained with 2:4 activations, which prune does not keep: "
            "give one that was trained with activation=null"
        )


_GLOBS = (("include", ("*",)), ("exclude", ()))


def _forward(model: Any, images: Tensor) -> Tensor:
    return model.network(images)


def _out(asked: Words) -> Path:
    source = Path(asked.checkpoint)
    name = f"{source.stem}{'-permuted' * asked.permute}-{asked.method}{'-refit' * asked.refit}"
    out = Path(asked.out or source.with_name(f"{name}.ckpt"))
    if out.is_dir():
        raise ValueError(f"out={out} is a folder: give a file in it, as {out}/pruned.ckpt")
    if out.resolve() == source.resolve():
        raise ValueError(f"out={out} is the checkpoint that is pruned: give another file")
    make_folder(out.parent, f"out={out}")
    return out


def _calibration(
    asked: Words, trained: Trained, allowed: frozenset[str]
) -> tuple[list[Tensor] | None, str]:
    """Training images in batches, as validation sees them, the same ones always, and their name."""
    if not asked.reads_data:
        return None, ""
    config = config_with(trained.config, asked.checkpoint, with_recipe_file(asked.data), allowed)
    data = instantiate(config.data, num_classes=trained.config.model.num_classes, _convert_="all")
    data.setup("fit")
    show_lines(data.notes)
    check_classes(data.class_names, trained.classes, asked.checkpoint)
    train = data.splits.train
    images = SeededImages(train.source, data.splits.val.transform, data.seed)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(data.seed))
    batches = [
        torch.stack([images[0, index][0] for index in part.tolist()])
        for part in order[: asked.images].split(data.batch_size)
    ]
    return batches, f"{sum(map(len, batches))} training images of {data.name}"


def _digest(batches: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.numpy().data)
    return digest.hexdigest()


@contextmanager
def _told(finished: FinishedLayers | None) -> Iterator[None]:
    """Say after Ctrl-C that nothing finished is lost."""
    try:
        yield
    except KeyboardInterrupt:
        if finished is not None:
            show_lines((f"finished layers are in {finished.folder}: the same command goes on",))
        raise


@contextmanager
def _bar() -> Iterator[Any]:
    """What draws the layers that are done, on a terminal."""
    columns = (
        TextColumn("{task.fields[name]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[rest]}"),
    )
    bar = Progress(*columns, console=console, transient=True, expand=True)
    task = bar.add_task("", total=None, name="prunes", rest="")

    def on_layer(layer: PrunedLayer, count: int) -> None:
        done = int(bar.tasks[0].completed) + 1
        name = layer.name.removeprefix("network.")
        bar.update(task, total=count, completed=done, name=name, rest=f"{done}/{count} layers")

    if not console.is_terminal:
        yield on_layer
        return
    with bar:
        yield on_layer


def _write(
    model: nn.Module,
    asked: Words,
    trained: Trained,
    node: dict[str, Any],
    words: list[str],
    permuted: str,
    out: Path,
) -> None:
    """A checkpoint of step 0, from which a run of any length goes on under the masks."""
    source = read_checkpoint(asked.checkpoint)
    saved = saved_config(source, asked.checkpoint)
    config = OmegaConf.to_container(trained.config)
    assert isinstance(config, dict), "a config is"
    kept = [w for w in saved["overrides"] if split_word(w)[0].partition(".")[0] not in _REPLACED]
    AtomicCheckpointIO().save_checkpoint(
        {
            "state_dict": model.state_dict(),
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": source["pytorch-lightning_version"],
            "optimizer_states": [],
            "lr_schedulers": [],
            "callbacks": {},  # without, Lightning asks no callback to load its part
            CHECKPOINT_KEY: FORMAT,
            "sparsetrain_state": {"layers": sparse_state(model), "phase": "sparse"},
            "sparsetrain_config": {
                "config": config | {"sparsity": node},
                "overrides": [*kept, *words],
                "classes": trained.classes,
                "permuted": permuted or saved.get("permuted", ""),
            },
        },
        out,
    )


_REPLACED = ("sparsity", "checkpoint")


def _show(
    report: PruneReport,
    permuted: str,
    asked: Words,
    data: str,
    words: list[str],
    out: Path,
) -> None:
    errors = [layer.error for layer in report.layers if layer.error is not None]
    rows = [
        ("written", f"{relative(out)} ({out.stat().st_size / 1e6:.1f} MB)"),
        ("layers", f"{len(report.layers)}, density {report.density:.3f}"),
        *(("dense", line.removeprefix("network.")) for line in report.dense),
    ]
    if permuted:
        rows.append(("permuted", permuted))
    if data:
        rows.append(("calibration", data))
    if errors:
        mean, worst = sum(errors) / len(errors), max(errors)
        rows.append(("output error", f"{mean:.4f} of a layer on average, at most {worst:.4f}"))
    rows.append(("validate", f"python -m sparsetrain validate checkpoint={relative(out)}"))
    given = " ".join(f'"{word}"' if "'" in word else word for word in words)
    retrain = f"python -m sparsetrain fit recipe=… checkpoint={relative(out)} {given}"
    prose = ("dense", "permuted", "calibration", "output error")
    show_values((*rows, ("retrain", retrain)), prose)
