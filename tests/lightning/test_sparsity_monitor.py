"""What a sparse run logs: the keys, and that their values are right."""

import time
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_helpers import (
    CHATTER,
    Probe,
    Stranger,
    make_trainer,
    vectors,
    weights24,
)
from pytorch_lightning.loggers import Logger

from sparsetrain import SRSTE, STE, Block, Combined, SparsifyModel, Sparsity, SparsityMonitor
from sparsetrain.lightning import MaskSnapshots
from sparsetrain.lightning.callbacks import monitor as monitor_file
from sparsetrain.lightning.callbacks.snapshots import spread
from sparsetrain.nn import flops, set_sparse, sparsify
from sparsetrain.reference.masks24 import unpack_bits

pytestmark = CHATTER

LAYERS = {f"sparsity/kept_energy/body_{i}" for i in (0, 2)}
SPARSITY = {"sparsity/density", "sparsity/kept_energy"} | LAYERS
STEP = {"perf/step_ms", "perf/images_per_s", "perf/elapsed_s", "perf/memory_gib", "train/grad_norm"}
PHASE = {"sparsity/phase"}
FLIPS = {"sparsity/flip_rate"} | {f"sparsity/flip_rate/body_{i}" for i in (0, 2)}
CHOICE = {"perf/sparsify_ms"}
FORWARD_FLOPS = 2 * (8 * 16 + 16 * 4)  # of Stranger, for one vector


class Kept(Logger):
    """Keeps the rows it is given, by step."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    @property
    def name(self):
        return "kept"

    @property
    def version(self):
        return 0

    def log_metrics(self, metrics, step=None):
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, params):
        pass


def logged(folder, sparsity, *callbacks, lr=3.0, module=None, **settings):
    """The rows of a run of 4 steps an epoch that logs every step."""
    kept = Kept()
    settings = {"log_every_n_steps": 1, "max_epochs": 2, **settings}
    callbacks = [SparsifyModel(sparsity), SparsityMonitor(), *callbacks]
    trainer = make_trainer(folder, *callbacks, logger=kept, **settings)
    trainer.fit(module or Stranger(lr=lr), vectors())
    return kept.rows


def masks_of(trainer, module):
    layers = (module.body[0], module.body[2])
    return [unpack_bits(layer.current_mask(), layer.in_features) for layer in layers]


def test_the_keys_are_those_documented_and_flips_begin_with_the_second_choice(tmp_path):
    rows = logged(tmp_path, weights24(STE()))
    assert sorted(rows) == list(range(8))
    assert rows[0].keys() == SPARSITY | STEP | PHASE | CHOICE
    assert all(
        rows[step].keys() == SPARSITY | STEP | PHASE | CHOICE | FLIPS for step in range(1, 8)
    )


def test_density_and_kept_energy_are_those_of_the_weights(tmp_path):
    module = Stranger(lr=0.0)
    [row] = logged(tmp_path, weights24(STE()), module=module, max_steps=1).values()
    assert row["sparsity/density"] == 0.5
    energies = []
    for layer, mask in zip((0, 2), masks_of(None, module), strict=True):
        weight = module.body[layer].weight.detach()
        energies.append(float((weight * mask).square().sum() / weight.square().sum()))
        assert row[f"sparsity/kept_energy/body_{layer}"] == pytest.approx(energies[-1])
    assert row["sparsity/kept_energy"] == pytest.approx(sum(energies) / 2)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_the_flip_rate_counts_what_changed_of_real_and_of_virtual_masks(tmp_path, warmup):
    probe = Probe(masks_of)
    rows = logged(tmp_path, weights24(STE(), dense_warmup=warmup), probe)
    assert rows[1]["sparsity/density"] == (1.0 if warmup else 0.5)
    for step in range(1, 8):
        pairs = list(zip(probe.seen[step - 1], probe.seen[step], strict=True))
        flips = sum(int((a ^ b).sum()) for a, b in pairs)
        assert rows[step]["sparsity/flip_rate"] == pytest.approx(flips / (8 * 16 + 16 * 4))
        for layer, (a, b) in zip((0, 2), pairs, strict=True):
            rate = rows[step][f"sparsity/flip_rate/body_{layer}"]
            assert rate == pytest.approx(int((a ^ b).sum()) / a.numel())
    assert any(row.get("sparsity/flip_rate") for row in rows.values())


@pytest.mark.parametrize("every", [2, 3])
def test_the_flip_rate_is_that_of_the_step_however_seldom_it_is_logged(tmp_path, every):
    all_rows = logged(tmp_path, weights24(STE(), freeze_at=0.75))
    rows = logged(tmp_path, weights24(STE(), freeze_at=0.75), log_every_n_steps=every)
    assert sorted(rows) == list(range(every - 1, 8, every))
    for step, row in rows.items():
        assert row["sparsity/flip_rate"] == all_rows[step]["sparsity/flip_rate"]


def test_a_loop_that_makes_several_steps_of_a_batch_logs_the_flips_of_the_last(tmp_path):
    class Thrice(Stranger):
        def training_step(self, batch):
            optimizer: Any = self.optimizers()
            for _ in range(3):
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch))
                optimizer.step()

    module = Thrice(lr=1.0)
    module.automatic_optimization = False
    rows = logged(tmp_path, weights24(STE()), module=module, log_every_n_steps=3)
    assert sorted(rows) == list(range(2, 24, 3))
    assert all("sparsity/flip_rate" in row for row in rows.values())
    assert rows[2]["sparsity/flip_rate"] > 0


def test_frozen_masks_have_a_flip_rate_of_zero_at_every_logging_step(tmp_path):
    rows = logged(tmp_path, weights24(STE(), freeze_at=0.5))
    assert rows[3]["sparsity/flip_rate"] > 0
    assert all(rows[step]["sparsity/flip_rate"] == 0.0 for step in range(4, 8))
    assert all(rows[step].keys() == SPARSITY | STEP | PHASE | FLIPS for step in range(4, 8))


def test_sparsity_is_logged_once_per_choice_of_the_masks_and_where_a_phase_begins(tmp_path):
    rows = logged(tmp_path, weights24(STE(), mask_every=3, dense_tail=0.5))
    said = {step: row["sparsity/density"] for step, row in rows.items() if row.keys() >= SPARSITY}
    assert said == {0: 0.5, 3: 0.5, 4: 1.0, 6: 1.0}
    assert FLIPS.isdisjoint(rows[4])


def test_a_dense_run_logs_nothing_of_sparsity(tmp_path):
    rows = logged(tmp_path, Sparsity(weight=None))
    assert all(row.keys() == STEP for row in rows.values())


def test_the_phase_is_that_of_the_step_by_its_place(tmp_path):
    rows = logged(tmp_path, weights24(STE(), dense_warmup=0.25, dense_tail=0.5))
    assert [rows[step]["sparsity/phase"] for step in range(8)] == [0, 0, 1, 1, 2, 2, 2, 2]


def test_the_gradient_norm_is_that_before_clipping(tmp_path):
    norms = []

    class Norms(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            grads = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
            norms.append(float(torch.cat(grads).norm()))

    rows = logged(tmp_path, weights24(STE()), Norms(), gradient_clip_val=1e-3)
    assert [rows[step]["train/grad_norm"] for step in range(8)] == pytest.approx(norms)


def test_time_runs_on_through_validation_and_from_a_checkpoint(tmp_path):
    class SlowToValidate(Stranger):
        def validation_step(self, batch):
            time.sleep(0.2)

    def run(**settings):
        kept, monitor = Kept(), SparsityMonitor()
        trainer = make_trainer(tmp_path, monitor, logger=kept, log_every_n_steps=2, **settings)
        path = settings and tmp_path / "first.ckpt"
        trainer.fit(SlowToValidate(), vectors(), vectors(length=4), ckpt_path=path or None)
        return kept.rows, trainer

    rows, trainer = run()
    assert rows[1]["perf/elapsed_s"] < rows[3]["perf/elapsed_s"] - 0.2
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    later, _ = run(max_epochs=2)
    assert later[5]["perf/elapsed_s"] > rows[3]["perf/elapsed_s"]
    assert all(0.01 < row["perf/memory_gib"] < 100 for row in (*rows.values(), *later.values()))


def test_logging_never_is_logging_never(tmp_path):
    assert logged(tmp_path, weights24(STE()), log_every_n_steps=0) == {}


def test_throughput_is_that_of_the_wall_clock(tmp_path):
    class Slow(Stranger):
        def training_step(self, batch):
            time.sleep(0.03)
            return super().training_step(batch)

    start = time.perf_counter()
    rows = logged(
        tmp_path,
        weights24(SRSTE()),
        module=Slow(),
        max_epochs=3,
        accumulate_grad_batches=2,
        log_every_n_steps=2,
    )
    wall = time.perf_counter() - start
    assert sorted(rows) == [1, 3, 5]
    # Two steps of two batches of 4 vectors.
    for row in rows.values():
        assert 60 <= row["perf/step_ms"] < 1000 * wall
        assert row["perf/images_per_s"] == pytest.approx(8000 / row["perf/step_ms"])


def test_the_time_of_a_step_has_the_wait_for_its_gradients(tmp_path, monkeypatch):
    read = SparsityMonitor._gradients

    def slowly(monitor):
        time.sleep(0.1)  # as a GPU that is behind the host
        return read(monitor)

    monkeypatch.setattr(SparsityMonitor, "_gradients", slowly)
    rows = logged(tmp_path, weights24(SRSTE()), max_epochs=1, log_every_n_steps=4)
    assert [row["perf/step_ms"] >= 25 for row in rows.values()] == [True]


def test_validation_is_not_training_time(tmp_path):
    class SlowToValidate(Stranger):
        def validation_step(self, batch):
            time.sleep(0.2)

    kept = Kept()
    trainer = make_trainer(
        tmp_path, SparsityMonitor(), logger=kept, log_every_n_steps=1, val_check_interval=1
    )
    trainer.fit(SlowToValidate(), vectors(), vectors(length=4))
    assert sorted(kept.rows) == [0, 1, 2, 3]
    assert all(row["perf/step_ms"] < 150 for row in kept.rows.values())


def test_utilisation_is_dense_flops_over_the_dense_peak(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor_file, "dense_peak_flops", lambda device: 1e12)
    rows = logged(tmp_path, weights24(STE()))
    for row in rows.values():
        expected = row["perf/images_per_s"] * 3 * FORWARD_FLOPS / 1e12
        assert row["perf/mfu"] == pytest.approx(expected)


def test_flops_of_a_training_step_are_three_forwards_and_leave_the_module_alone():
    module = Stranger()
    sparsify(module, weights24(STE()))
    set_sparse(module.body[2], False)
    module.body[1].eval()
    assert flops.training_flops_per_image(module, torch.zeros(5, 8)) == 3 * FORWARD_FLOPS
    assert [module.body[0].sparse, module.body[2].sparse] == [True, False]
    assert [layer.training for layer in module.body] == [True, False, True]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_dense_peak_goes_by_the_name_of_the_device(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert flops.dense_peak_flops(torch.device("cuda")) == peak
    assert flops.dense_peak_flops(torch.device("cpu")) is None


def test_snapshots_hold_corners_of_the_masks_before_and_after(tmp_path):
    snapshots = MaskSnapshots(layers=2, side=8)
    first = Probe(masks_of)
    module = Stranger(lr=3.0)
    trainer = make_trainer(tmp_path, SparsifyModel(weights24(STE())), snapshots, first)
    trainer.fit(module, vectors())
    after = snapshots.now(module)
    for i, name in enumerate(("body.0", "body.2")):
        assert torch.equal(snapshots.before[name], first.seen[0][i][:8, :8])
        assert torch.equal(after[name], masks_of(None, module)[i][:8, :8])
    assert not torch.equal(snapshots.before["body.0"], after["body.0"])


def test_snapshots_are_spread_over_the_layers(tmp_path):
    module = Stranger(torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(7))))
    sparsify(module, weights24(STE()))
    assert list(MaskSnapshots(layers=3).now(module)) == ["body.0", "body.3", "body.6"]


@pytest.mark.parametrize("pattern", [Block(4, 4, 0.5), Combined(Block(4, 4, 0.5))], ids=str)
def test_snapshots_of_blocks_have_a_place_for_each(pattern):
    module = Stranger(torch.nn.Sequential(torch.nn.Linear(8, 16)))
    sparsify(module, Sparsity(pattern=pattern))
    snapshots = MaskSnapshots(side=3)
    [(name, shown)] = snapshots.now(module).items()
    mask = unpack_bits(module.body[0].current_mask(), 8)
    blocks = mask.unflatten(0, (4, 4)).unflatten(2, (2, 4)).any(3).any(1)
    assert torch.equal(shown, blocks[:3])
    assert snapshots.units(module) == {name: "blocks of 4×4"}


def test_snapshots_are_of_every_kind_of_layer():
    names = [f"blocks.{i}.mlp.{fc}" for i in range(12) for fc in ("fc1", "fc2")]
    expected = [f"blocks.{i}.mlp.{fc}" for i in (0, 6, 11) for fc in ("fc1", "fc2")]
    assert spread(names, 6) == expected
    assert spread([*names, "head"], 2) == ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "head"]
    assert spread([], 6) == []
