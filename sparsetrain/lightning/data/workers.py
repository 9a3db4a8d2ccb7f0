"""Loading processes, and the signal that asks a whole job to end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader

_CAN_WAIT = hasattr(signal, "sigwaitinfo")  # not on macOS


class Loader(DataLoader):
    """A DataLoader whose processes start with SIGTERM blocked, as `outlast_sigterm` needs it.

    The signal must be blocked in all threads of a loading process; a thread inherits this from the
    thread that starts it. `worker_init_fn` runs too late: after `torch.set_num_threads` in the
    training process, PyTorch starts a pool of threads in each forked process at once.
    """

    def __iter__(self) -> Any:
        if not _CAN_WAIT:
            return super().__iter__()
        if (self.multiprocessing_context or multiprocessing).get_start_method() != "fork":
            resource_tracker.ensure_running()  # else it starts with the first process and unblocks
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlast_sigterm(worker: int) -> None:
    """A `worker_init_fn` of `Loader`: SIGTERM ends a loading process only if the training process
    sends it. SLURM sends it to every process of a job, and the step that is under way, after which
    the run saves, would end with an error where a loading process is gone."""
    if not _CAN_WAIT:
        return
    parent = multiprocessing.parent_process()
    assert parent is not None, "worker_init_fn is called in a process of multiprocessing"
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a fork server may be an older one
    threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Wait for the parent's SIGTERM."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
