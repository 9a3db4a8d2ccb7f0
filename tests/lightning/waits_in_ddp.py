"""Run by torchrun on two GPUs: fails if a batch between the logged ones waits for its GPU."""

import tempfile

import torch
from test_waits_on_gpu import fit_strictly

from sparsetrain.lightning.ddp import register_ddp

register_ddp()
fit_strictly(tempfile.mkdtemp(), length=96, accelerator="gpu", devices=2, strategy="ddp")
torch.distributed.barrier()
