"""Loading processes, and the signal that asks a whole job to end."""

from __future__ import annotations

import os
import signal
import threading


def outlast_sigterm(worker: int) -> None:
    """A `worker_init_fn` of DataLoader: SIGTERM ends a loading process only if the training process
    sends it. SLURM sends it to every process of a job, and the step that is under way, after which
    the run saves, would end with an error where a loading process is gone."""
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """Wait for the parent's SIGTERM."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
