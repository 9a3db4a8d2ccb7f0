"""DDP of `fit`: its buckets, where compiled graphs are cut at them, and that no batch waits."""

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_helpers import CHATTER
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsetrain.lightning.callbacks.compile import try_compiled
from sparsetrain.lightning.ddp import BUCKET_MB, Ddp, register_ddp

pytestmark = CHATTER
WIDTH = 1024  # a layer has 4 MB of gradients


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def group():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    torch.distributed.init_process_group("gloo", address, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("strategy", ["ddp", "auto"])
def test_several_processes_train_under_ours(strategy):
    register_ddp()
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False)
    assert type(trainer.strategy) is Ddp
    wanted = {"bucket_cap_mb": BUCKET_MB, "gradient_as_bucket_view": True}
    assert trainer.strategy._ddp_kwargs == wanted


def test_the_trial_of_compile_auto_cuts_the_graph_where_gradients_are_summed(group):
    """Else its graph, with one backward, would be the training step's too."""
    network = Layers()
    ddp = DistributedDataParallel(network, bucket_cap_mb=8)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    network.compile(backend=backend)
    precision = SimpleNamespace(forward_context=torch.enable_grad)
    strategy = SimpleNamespace(model=ddp)
    trainer: Any = SimpleNamespace(precision_plugin=precision, strategy=strategy)
    images = torch.randn(2, WIDTH)
    module: Any = SimpleNamespace(network=network, to_compile=lambda: [network])
    assert try_compiled(module, images, trainer) is None
    # DDP's first bucket has 1 MB, which the last layer fills.
    assert len(graphs) == 3
    ddp(images).sum().backward()
    assert len(graphs) == 3, "the training step is compiled already"


@pytest.mark.gpu
def test_no_batch_of_two_gpus_waits_for_them():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    script = Path(__file__).with_name("waits_in_ddp.py")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
