"""Processes stop together without waiting for the device in each batch."""

import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy

from sparsetrain.lightning.callbacks.ask_all import AskAll

ALONE = SimpleNamespace(world_size=1, strategy=SingleDeviceStrategy(torch.device("cpu")))


def test_one_process_answers_itself_at_once():
    ask = AskAll()
    assert [ask(ALONE, yes) for yes in (False, True, False)] == [False, True, False]


TWO = """
import sys
from types import SimpleNamespace
import torch
from sparsetrain.lightning.callbacks.ask_all import AskAll
rank, port = map(int, sys.argv[1:])
torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
ask = AskAll()
print([ask(trainer, rank == 1 and step == 2) for step in range(5)])
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_all_processes_hear_of_one_that_says_yes_a_call_later():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(rank), port], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [run.communicate(timeout=120)[0].strip() for run in runs]
    assert said == [str([False, False, False, True, False])] * 2
