"""What a training leaves besides weights: masks and phases, in checkpoints and across processes."""

from __future__ import annotations

import warnings
from typing import Any, get_args

import torch

from sparsetrain.file_format import CHECKPOINT_KEY, FORMAT, check_format
from sparsetrain.lightning.flavour import pl
from sparsetrain.nn import (
    Attached,
    SparseLinear,
    load_sparse_state,
    phased_layers,
    sparse_linears,
    sparse_state,
)
from sparsetrain.patterns import NM
from sparsetrain.plain import plain
from sparsetrain.schedule import Phase
from sparsetrain.upgrade import upgraded_layers

_PHASES = get_args(Phase)


class TrainedState:
    """The sparse state of a trainer's checkpoints, and the phase in which other processes ended.

    `ddp_spawn` and `ddp_notebook` copy weights back to the process that started them, and nothing
    else of callbacks; memory that they share holds the phase. A process that trains by itself has
    its model, so it reads nothing there.
    """

    def __init__(self) -> None:
        self._read: dict[str, Any] | None = None
        self._settled = False  # what the checkpoint says, or does not say, is dealt with
        self._end = torch.full((), -1).share_memory_()
        self._ended_here = False
        self._masks_left = False  # in processes that are no more

    def forget(self) -> None:
        """Drop what was read from a checkpoint and not restored."""
        self._read, self._settled = None, False

    def write(self, model: pl.LightningModule, attached: Attached | None) -> dict[str, Any]:
        """What a checkpoint of the model is to hold."""
        phase = None if attached is None else attached.phase
        trained = None if phase is None else phase.trained
        layers = sparse_state(model)
        return {CHECKPOINT_KEY: FORMAT, "sparsetrain_state": {"layers": layers, "phase": trained}}

    def read(self, checkpoint: dict[str, Any], path: Any) -> None:
        """Keep what a checkpoint holds until `restore`: the model may still move to its device."""
        where = f"ckpt_path={path}"
        check_format(checkpoint.get(CHECKPOINT_KEY), where)
        self._read, self._settled = plain(checkpoint.get("sparsetrain_state"), where), False

    def restore(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Give the model what was read; warn, once, where its checkpoint holds none."""
        if self._read is not None:
            load_sparse_state(model, upgraded_layers(self._read, trainer.global_step))
            self._read, self._settled, self._masks_left = None, True, False
        elif trainer.ckpt_path is not None and not self._settled and phased_layers(model):
            self._settled = True
            warnings.warn(
                f"ckpt_path={trainer.ckpt_path} holds no masks and no phase (a dense run's, or "
                "saved with weights only): masks are chosen anew from its weights",
                stacklevel=3,
            )
        elif self._masks_left:
            self._masks_left = False
            warnings.warn(
                "the masks stayed in the processes that trained (ddp_spawn, ddp_notebook), and "
                "others are chosen from the weights: give ckpt_path= of a checkpoint that has them",
                stacklevel=3,
            )

    def end(self, attached: Attached) -> None:
        """Tell the process that started this one in which phase training ended."""
        if attached.phase is not None:
            self._end.fill_(_PHASES.index(attached.phase.trained))
            self._ended_here = True

    def restore_end(self, model: pl.LightningModule) -> None:
        """Put a model in the phase in which other processes, which are no more, ended."""
        if (number := int(self._end)) < 0 or self._ended_here:
            return
        for phase in {layer.phase for layer in phased_layers(model)}:
            phase.name = phase.trained = _PHASES[number]
        self._masks_left = any(map(_evaluated_as_trained, sparse_linears(model).values()))


def _evaluated_as_trained(layer: SparseLinear) -> bool:
    """Whether an evaluation takes the masks of training; else it chooses them from the weights."""
    return not isinstance(layer.pattern, NM) or layer.phase.schedule.freeze_at is not None
