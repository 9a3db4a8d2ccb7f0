"""Callbacks work in trainers of `lightning` as in those of `pytorch_lightning`."""

import csv
import subprocess
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_helpers import CHATTER, make_body, vectors

import sparsetrain
from sparsetrain import SRSTE, Schedule, SparsifyModel, Sparsity, SparsityMonitor, density
from sparsetrain.errors import NonFiniteError
from sparsetrain.lightning import (
    EMA,
    AtomicCheckpointIO,
    MaskSnapshots,
    SaveLast,
    SaveOnInterrupt,
    StepSeed,
    StopOnNonFinite,
    flavour,
)
from sparsetrain.nn import sparse_state

pytestmark = CHATTER
PACKAGES = ["pytorch_lightning", "lightning.pytorch"]
# 12 steps: 0 and 1 dense; masks are chosen before 0, 2, 3, 6 and 9.
SPARSITY = Sparsity(weight=SRSTE(decay=1e-2), schedule=Schedule(dense_warmup=0.2, mask_every=3))


@pytest.fixture(params=PACKAGES)
def package(request):
    pytest.importorskip(request.param.split(".")[0])
    return import_module(request.param)


def make_module(package, late=False):
    class Strange(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.body: Any = None if late else make_body()

        def training_step(self, batch):
            return F.cross_entropy(self.body(batch[0]), batch[1])

        def validation_step(self, batch):
            self.log("val/loss", F.cross_entropy(self.body(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    if late:

        def configure_model(self):
            self.body = self.body or make_body()

        Strange.configure_model = configure_model
    return Strange()


def callbacks(folder):
    return [
        SaveLast(str(folder)),
        SaveOnInterrupt(str(folder)),
        SparsifyModel(SPARSITY),
        SparsityMonitor(),
        StepSeed(1),
        StopOnNonFinite(),
        MaskSnapshots(),
        EMA(decay=0.8),
    ]


def make_trainer(package, folder, *more, epochs=3, bare=False):
    return package.Trainer(
        callbacks=[*([] if bare else callbacks(folder)), *more],
        plugins=[AtomicCheckpointIO()],
        logger=package.loggers.CSVLogger(folder, name="", version=""),
        max_epochs=epochs,
        log_every_n_steps=1,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def assert_same(module, other):
    """In every bit of the weights and the sparse state."""
    torch.testing.assert_close(module.state_dict(), other.state_dict(), rtol=0, atol=0)
    states = sparse_state(module), sparse_state(other)
    assert str(states[0]) == str(states[1])
    for name, state in states[0].items():
        assert torch.equal(state["mask"], states[1][name]["mask"])


def every_step(package, folder):
    return package.callbacks.ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=1, save_top_k=-1
    )


def test_trainers_of_either_package_take_the_callbacks_for_their_own(package, tmp_path):
    trainer = make_trainer(package, tmp_path)
    ours = [c for c in trainer.callbacks if type(c).__module__.startswith("sparsetrain.")]
    assert len(ours) == 8
    assert all(isinstance(callback, package.Callback) for callback in ours)
    # Lightning runs those last.
    assert [type(c) for c in trainer.callbacks[-2:]] == [SaveLast, SaveOnInterrupt]
    assert all(isinstance(c, package.callbacks.Checkpoint) for c in trainer.callbacks[-2:])
    assert isinstance(ours[5], package.callbacks.WeightAveraging)
    assert isinstance(AtomicCheckpointIO(), package.plugins.TorchCheckpointIO)


def test_a_run_is_the_same_in_both(package, tmp_path):
    import pytorch_lightning as pl

    modules = []
    for one, name in ((package, "run"), (pl, "other")):
        module = make_module(one)
        make_trainer(one, tmp_path / name).fit(module, vectors(), vectors())
        modules.append(module)
    assert_same(*modules)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["sparsity/density"]) for row in rows if row.get("sparsity/density")]
    assert logged[0] == 1.0, "the dense warm-up"
    assert logged[-1] == 0.5
    assert (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize("step", [4, 8])
def test_a_run_resumes_exactly_in_either_from_a_checkpoint_of_either(package, tmp_path, step):
    whole, resumed = make_module(package), make_module(flavour.pl)
    make_trainer(package, tmp_path, every_step(package, tmp_path)).fit(whole, vectors(), vectors())
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.add_(1.0)
    trainer = make_trainer(flavour.pl, tmp_path / "again")
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        trainer.fit(resumed, vectors(), vectors(), ckpt_path=tmp_path / f"step={step}.ckpt")
    assert_same(resumed, whole)


def test_layers_that_configure_model_makes_are_swapped_in_either(package, tmp_path):
    module = make_module(package, late=True)
    make_trainer(package, tmp_path, SparsifyModel(SPARSITY), bare=True).fit(module, vectors())
    assert density(module) == 0.5


def test_a_loss_that_is_not_finite_stops_either(package, tmp_path):
    module = make_module(package)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=1e30)
    with pytest.raises(NonFiniteError, match=r"step 1"):
        make_trainer(package, tmp_path, StopOnNonFinite(), bare=True).fit(module, vectors())


def test_a_module_of_neither_package_is_refused():
    with pytest.raises(TypeError, match="Linear is no LightningModule"):
        flavour.package_of(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, r"^pip install 'pytorch-lightning"),
        ({"lightning": "2.6.3"}, r"^lightning 2\.6\.3 is not supported; pip install"),
        ({"pytorch-lightning": "2.5.0"}, r"^pytorch-lightning 2\.5\.0 is not supported; pip"),
    ],
)
def test_a_version_that_steals_or_is_too_old_is_not_imported(monkeypatch, found, words):
    def version(package):
        if package not in found:
            raise PackageNotFoundError
        return found[package]

    monkeypatch.setattr(flavour, "version", version)
    monkeypatch.setattr(flavour, "import_module", None)
    with pytest.raises(ImportError, match=words):
        flavour._installed()


@pytest.mark.slow
@pytest.mark.parametrize("there", PACKAGES)
def test_one_package_alone_is_enough(there):
    pytest.importorskip(there.split(".")[0])
    absent = ({"pytorch_lightning", "lightning"} - {there.split(".")[0]}).pop()
    program = f"""
import importlib.metadata as metadata, sys
found = metadata.version
def version(name):
    if name == {absent.replace("_", "-")!r}:
        raise metadata.PackageNotFoundError
    return found(name)
metadata.version = version
class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] != {absent!r}, name
sys.meta_path.insert(0, Refuse())
import sparsetrain as st, sparsetrain.lightning as ours, torch
import {there} as L
class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(16, 16)
    def training_step(self, batch):
        return self.net(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)
callbacks = [st.SparsifyModel(st.Sparsity()), st.SparsityMonitor(), ours.EMA(0.5), ours.StepSeed(0)]
trainer = L.Trainer(callbacks=callbacks, accelerator="cpu", max_steps=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
module = Module()
trainer.fit(module, torch.utils.data.DataLoader(torch.randn(8, 16), 4))
print(ours.flavour.pl.__name__, st.density(module))
"""
    command = [sys.executable, "-c", program]
    root = Path(sparsetrain.__file__).parent.parent
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [there, "0.5"]
