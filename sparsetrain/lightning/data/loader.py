"""Where a training run goes on, and the loader that Lightning accepts as resumable.

Lightning 2.6 restores its progress counters from a checkpoint, then asks for the train loader and
makes its iterator at once: before it has turned "stopped in the last batch of epoch e" into epoch
e + 1, and before it calls `set_epoch`. Workers start prefetching there, so the position has to be
right when the loader is made. `train_position` draws that conclusion from the same counters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sparsetrain.lightning.data.sampler import EpochSampler
from sparsetrain.lightning.data.workers import Loader
from sparsetrain.lightning.flavour import pl


class Position(NamedTuple):
    """The next training batch: `batch` batches of `epoch` are done."""

    epoch: int
    batch: int


def train_position(trainer: pl.Trainer) -> Position:
    """The batch that `trainer` will train on next, in a fresh or a resumed run.

    A batch counts when its optimizer step is in the checkpoint: `processed` includes the batch
    whose `on_train_batch_end` wrote it, and leaves out one that an exception cut short.
    (`trainer.current_epoch` still names the old epoch in a checkpoint written at its end.)
    """
    loop: Any = trainer.fit_loop  # its counters are typed as their base class, without `processed`
    epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    between_epochs = epochs.ready == epochs.processed
    if between_epochs:
        return Position(epochs.processed, 0)
    last_is_done = batches.is_last_batch and batches.current.processed == batches.current.ready
    if last_is_done:
        return Position(epochs.processed + 1, 0)
    return Position(epochs.processed, batches.current.processed)


def settle_finished_epoch(trainer: pl.Trainer) -> None:
    """Keep Lightning from running an epoch again that a checkpoint says is finished.

    With `max_steps` set, Lightning 2.6 calls every resume unfinished (the setter of
    `_FitLoop.restarting`): it then counts an epoch in which nothing, or one batch, is trained.
    This does what it does itself without `max_steps`.
    """
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress.current
    if loop.restarting and epochs.ready == epochs.processed:
        loop._restarting = False
        loop.epoch_loop.restarting = False


class Resumable:
    """What of an `EpochSampler` a checkpoint in the middle of an epoch must find again.

    The place comes from the trainer's counters, so the state is only what must be the same for
    that place to mean the same samples.
    """

    sampler: Any
    word: str = "null"

    def state_dict(self) -> dict[str, Any]:
        """Samples, seed and global batch size that the order of this epoch rests on, and which
        random numbers augment it."""
        sampler = self.sampler
        assert isinstance(sampler, EpochSampler)
        return {
            "num_train": sampler.length,
            "seed": sampler.seed,
            "global_batch": sampler.batch_size * sampler.world_size,
            "data.gpu": self.word,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a resume in the middle of an epoch finds the order it was saved with.

        Raises:
            ValueError: naming what changed. At an epoch's start anything may have changed.
        """
        sampler = self.sampler
        assert isinstance(sampler, EpochSampler)
        if sampler.skipped[1] == 0:
            return
        before = {"data.gpu": "null", **state_dict}  # checkpoints of before data.gpu
        changed = [
            f"{name} {before.get(name)} -> {value}"
            for name, value in self.state_dict().items()
            if before.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"checkpoint from batch {sampler.skipped[1]} of epoch {sampler.skipped[0]} cannot "
                f"be resumed exactly: {', '.join(changed)}; restore these (global_batch = "
                "data.batch_size x processes) or resume from a checkpoint of an epoch's end"
            )


class TrainLoader(Resumable, Loader):
    """A DataLoader over an `EpochSampler` that a mid-epoch checkpoint can be resumed with."""
