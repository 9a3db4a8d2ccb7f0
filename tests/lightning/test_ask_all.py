"""Processes stop together without waiting for the device in each batch."""

import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sparsetrain.lightning.callbacks.ask_all import AskAll

ALONE: Any = SimpleNamespace(world_size=1)


def test_one_process_answers_itself_at_once():
    ask = AskAll()
    assert [ask(ALONE, number) for number in (0, 15, 0)] == [0, 15, 0]


TWO = """
import sys
from types import SimpleNamespace
import torch
from sparsetrain.lightning.callbacks.ask_all import AskAll
rank, port = map(int, sys.argv[1:])
torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
ask = AskAll()
print([ask(trainer, (0, 10 + 5 * rank)[step == 2]) for step in range(5)])
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_all_processes_hear_the_largest_number_a_call_later():
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
    assert said == [str([0, 0, 0, 15, 0])] * 2
