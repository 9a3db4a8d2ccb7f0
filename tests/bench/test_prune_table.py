"""scripts/prune_table: every way to prune is measured once, and the best one is retrained."""

import json
from dataclasses import asdict

import pytest

from scripts.prune_table.__main__ import best_of
from scripts.prune_table.retrain import retrained
from scripts.prune_table.table import table
from scripts.prune_table.variants import INCLUDE, VARIANTS, Variant, rows_of


def row(seed, variant, top1, loss=1.0, train_loss=1.0):
    kind = None if variant is None else asdict(variant)
    return {"seed": seed, "variant": kind, "top1": top1, "loss": loss, "train_loss": train_loss}


WANDA = Variant("wanda", "exact", permute=True, fit=False)
GPT = Variant("sparsegpt", "exact", permute=False, fit=False)
ROWS = [
    *(row(seed, None, 90.0 + seed) for seed in (0, 1)),
    *(row(seed, WANDA, 88.0 + 2 * seed, train_loss=1.5) for seed in (0, 1)),
    *(row(seed, GPT, 85.0 + seed, train_loss=1.2) for seed in (0, 1)),
    *(row(seed, Variant("wanda", "row", False, False), 89.0, train_loss=0.5) for seed in (0, 1)),
]


def test_the_best_exact_masks_on_training_images_are_retrained():
    assert best_of(ROWS) == GPT


def test_differences_are_of_the_same_seed():
    how = {**asdict(GPT), "share": 0.1, "lr": 0.3}
    again = [row(seed, None, 89.9 + seed) | {"retrained": how, "epochs": 20} for seed in (0, 1)]
    lines = table([*ROWS, *again]).splitlines()
    assert "| wanda | exact | – | -1.50 ± 0.50 | – | – |" in lines
    assert "| sparsegpt | exact | -5.00 ± 0.00 | – | – | – |" in lines
    assert lines[0] == "dense: top-1 90.50 ± 0.50 %, loss 1.0000; seeds 0, 1"
    assert lines[-1].endswith("20 epochs (sparsegpt exact): Δ top-1 -0.10 ± 0.00")


@pytest.mark.slow
def test_a_checkpoint_is_pruned_in_every_way_and_retrained(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    dense = tmp_path / "dense"
    from scripts.prune_table.retrain import command

    words = ["recipe=vit_tiny_24", "sparsity=dense", "model.options.depth=1"]
    words += ["trainer.max_epochs=2", "optimizer.warmup_epochs=0", f"hydra.run.dir={dense}"]
    command("fit", words)
    checkpoint = dense / "checkpoints" / "last.ckpt"
    rows = rows_of(checkpoint, tmp_path, None, INCLUDE)
    assert [each["variant"] for each in rows] == [None, *map(asdict, VARIANTS)]
    assert rows_of(checkpoint, tmp_path, None, INCLUDE) == rows, (
        "measured rows are not measured again"
    )
    best = best_of(rows)
    last = retrained(checkpoint, tmp_path, best, 0.5, 0.3, None, INCLUDE)
    assert last["epochs"] == 1
    assert json.loads((tmp_path / "retrained.json").read_text()) == last
    assert last["train_loss"] < rows[0]["train_loss"]
