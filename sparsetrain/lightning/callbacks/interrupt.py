"""Stopping well when asked to."""

from __future__ import annotations

import signal
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from sparsetrain.lightning.callbacks.ask_all import AskAll, in_several
from sparsetrain.lightning.flavour import Checkpoint, SLURMEnvironment, WeightAveraging, pl

_SIGHUP, _SIGUSR1 = (getattr(signal, name, -1) for name in ("SIGHUP", "SIGUSR1"))
"""-1 on Windows, which has neither."""
PASSED_ON = 1.0
"""Seconds in which a second signal is the first one passed on: `timeout` gives its command what a
signal to the whole job (SLURM, docker) gave it already."""
_SIGNALS = [n for n in (signal.SIGINT, signal.SIGTERM, _SIGHUP, _SIGUSR1) if n > 0]


class SaveOnInterrupt(Checkpoint):
    """On Ctrl-C, SIGTERM (docker, SLURM's end of a job), SIGHUP (the terminal closes) or SIGUSR1:
    finish the optimizer step, save `interrupted.ckpt`, stop. A second one, a second or more later,
    stops at once, but not under torchrun, which sends its processes what they got already. A signal
    that is ignored, as under nohup, stays ignored.

    A validation is not finished, which may take minutes: it is left before its next batch, and what
    resumes does it from its first one.

    Several processes stop at the same step. They ask each other after each step and before each
    batch of a validation, so all need as many of them, and stop one later: nothing waits for the
    answer. Lightning's own question, for which every batch waits, is left out meanwhile.

    In a SLURM job whose `--signal=USR1@90` comes before its time is up, Lightning saves the run and
    queues the job again. It would do so amid a step; here that waits for the step's end as well.

    asked: the signal that stopped the run that ended last, None if none did; the same in all
    processes that stopped together, whichever got it. saved: whether `interrupted.ckpt` was written
    for it. together: whether all processes stopped at the same step. requeued: whether SLURM was
    told to queue the job again, upon which it sends SIGTERM.

    A `Checkpoint`, because Lightning runs those last: what other callbacks do at the end of a
    batch (averaging the weights) is in the file.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / "interrupted.ckpt"
        self.saved = self.together = self.requeued = False
        self.asked: int | None = None
        self._asked_at = 0.0
        self._ask_all = AskAll()
        self._previous: dict[int, Any] = {}
        self._step = 0
        self._requeues = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved = self.together = self.requeued = False
        self.asked, self._step, self._ask_all = None, trainer.global_step, AskAll()
        slurm = _SIGUSR1 in _SIGNALS and SLURMEnvironment.detect()
        self._requeues = slurm and callable(signal.getsignal(_SIGUSR1))
        signals = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._ask) for number in signals}
        # It asks whether SIGTERM came, which comes to `_ask`.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._step:
            # Between the batches of one step: their gradients are in no checkpoint.
            return
        self._step = trainer.global_step
        if not _validates_now(trainer) and self._is_asked(trainer):
            # Lightning does so after this hook.
            trainer._logger_connector.update_train_step_metrics()  # pyright: ignore[reportAttributeAccessIssue]
            self._save_and_stop(trainer)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self._is_asked(trainer):
            return
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, WeightAveraging):
                # A checkpoint is of the weights that train; the averages are in their place.
                callback.on_validation_epoch_end(trainer, pl_module)
        _forget_batches(trainer)
        self._save_and_stop(trainer)

    def _is_asked(self, trainer: pl.Trainer) -> bool:
        asked = self._ask_all(trainer, self.asked or 0)
        if asked:
            self.asked = asked  # all have to save the same, and to queue again or not
        return asked > 0

    def _save_and_stop(self, trainer: pl.Trainer) -> None:
        self.together = True
        if self.asked == _SIGUSR1 and self._requeues:
            self.requeued = True
            self._previous[_SIGUSR1](_SIGUSR1, None)  # Lightning's: save, queue again
        else:
            trainer.save_checkpoint(self.path)
            self.saved = True
        raise KeyboardInterrupt

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._release(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if self.together:
            # It ends already; Lightning puts its handlers back when it has torn down.
            for number in self._previous:
                signal.signal(number, signal.SIG_IGN)
        self._release(trainer)
        if self.together and in_several(trainer):
            # Before Lightning kills the processes that it started: NCCL would wait for them.
            torch.distributed.destroy_process_group()

    def _ask(self, signum: int, frame: Any) -> None:
        if self.asked is None or (signum == _SIGUSR1 and self._requeues):
            self.asked, self._asked_at = signum, monotonic()
        elif (
            monotonic() - self._asked_at >= PASSED_ON
            # which passes on what all get, when it likes
            and not torch.distributed.is_torchelastic_launched()
        ):
            raise KeyboardInterrupt

    def _release(self, trainer: pl.Trainer) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._ask:  # not put back by Lightning already
                signal.signal(number, handler)
        self._previous = {}
        vars(trainer.fit_loop.epoch_loop).pop("_broadcast_sigterm_tensor", None)


def _validates_now(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the batch that ends."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def _forget_batches(trainer: pl.Trainer) -> None:
    """Have a checkpoint say that a validation is at its first batch: what the batches before gave
    is in no checkpoint."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.reset()
    progress.increment_ready()
    progress.increment_started()
