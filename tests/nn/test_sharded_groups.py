"""What a training step of `trainer.strategy=fsdp2` sends, on two CPU processes."""

import pytorch_lightning as pl
from lightning_helpers import tiny_vit
from nn_ranks import free_port
from nn_sharded_fit import classifier, fit

from sparsetrain.nn.calls import Calls


class Sent(pl.Callback):
    """Counts the collectives of each batch, its optimizer step included."""

    def __init__(self):
        self.counts = []

    def on_train_batch_start(self, *_):
        self.mode = Calls()
        self.mode.__enter__()

    def on_train_batch_end(self, *_):
        self.mode.__exit__(None, None, None)
        self.counts.append(self.mode.counts())


def a_step_gathers_groups_once(port, folder):
    sent = Sent()
    fit(port, folder, classifier(tiny_vit(depth=4)), sent)
    last = sent.counts[-1]
    # Three blocks, the fourth, and the rest of the network.
    assert last["all_gather_copy_in"] == 3
    assert last["_reduce_scatter_base_"] == 3


def test_a_step_gathers_groups_of_blocks_once(ranks, tmp_path):
    ranks(a_step_gathers_groups_once, free_port(), tmp_path)
