"""Two processes in one gloo group, started once, that tests have run functions."""

from __future__ import annotations

import os
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch._C._distributed_c10d import FileStore

N_RANKS = 2
PATIENCE = timedelta(seconds=30)
STARTING = timedelta(minutes=5)
"""Each rank imports torch, which a cold disk or a busy machine makes slow."""


class Ranks:
    """Calls functions of importable modules on every rank; their failures are the test's.

    What a function raises on one rank leaves the other alone in a collective until PATIENCE ends,
    and the group out of step: no later call runs.
    """

    def __init__(self, folder: Path) -> None:
        spawn = mp.get_context("spawn")
        self._failed = ""
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(N_RANKS):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(rank, folder, theirs), daemon=True)
            process.start()
            # Ours alone keeps the pipe open, so that a rank that dies is the end of it.
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(STARTING.total_seconds()), f"rank {rank} does not start"
            pipe.recv()

    def __call__(self, check: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            pytest.fail(f"not run: {self._failed} failed on the same processes")
        for pipe in self._pipes:
            pipe.send((check, arguments))
        errors = [_answer(pipe) for pipe in self._pipes]
        if any(errors):
            self._failed = check.__name__
            pytest.fail("\n".join(f"rank {i}: {error}" for i, error in enumerate(errors)))

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(10)
            process.kill()


def _answer(pipe: Connection) -> str:
    if not pipe.poll(2 * PATIENCE.total_seconds()):
        return "no answer"
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return "the process died"


def _serve(rank: int, folder: Path, pipe: Connection) -> None:
    torch.set_num_threads(1)
    store = FileStore(str(folder / "store"), N_RANKS)
    dist.init_process_group("gloo", timeout=PATIENCE, world_size=N_RANKS, rank=rank, store=store)
    # Ours; Dynamo meets warnings of torch itself.
    warnings.filterwarnings("error", "SR-STE")
    pipe.send("ready")
    while True:
        try:
            check, arguments = pipe.recv()
        except (EOFError, ConnectionResetError):
            dist.destroy_process_group()
            return
        try:
            check(*arguments)
        except BaseException:
            pipe.send(traceback.format_exc())
        else:
            pipe.send("")


def gathered(value: Any) -> list[Any]:
    """`value` of every rank, on every rank."""
    values = [None] * N_RANKS
    dist.all_gather_object(values, value)
    return values


def assert_same_on_every_rank(tensor: torch.Tensor) -> None:
    first, *others = gathered(tensor.detach().clone())
    assert all(torch.equal(first, other) for other in others), "the ranks differ"


def own_half(batch: torch.Tensor) -> torch.Tensor:
    """The part of a batch that is this rank's."""
    return batch.chunk(N_RANKS)[dist.get_rank()]


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@contextmanager
def launched(port: str) -> Iterator[None]:
    """The environment in which Lightning takes these processes for those of torchrun."""
    environment = {
        "RANK": str(dist.get_rank()),
        "LOCAL_RANK": str(dist.get_rank()),
        "WORLD_SIZE": str(N_RANKS),
        "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": str(N_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "test",
    }
    with patch.dict(os.environ, environment):
        yield
