"""`compile=auto` compiles where that works, and changes nothing where it does not."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from lightning_helpers import (
    CHATTER,
    AugmentedDigits,
    make_classifier,
    make_trainer,
    tiny_vit,
    weights24,
)
from torch import nn

from sparsetrain import SRSTE, Activation24, Sparsity
from sparsetrain.lightning import SparsifyModel, StepSeed
from sparsetrain.lightning.callbacks import compile as compile_module
from sparsetrain.lightning.callbacks.compile import (
    CompileWhereItWorks,
    EagerValidation,
    why_eager,
)

pytestmark = [
    *CHATTER,
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
SPARSE = weights24(SRSTE(), dense_tail=0.5, mask_every=2)


class Watch(pl.Callback):
    """Keeps the losses, and whether the network was compiled in training and in validation."""

    def __init__(self):
        self.losses, self.trained, self.validated = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.losses.append(float(outputs["loss"]))
        self.trained.append(pl_module.network._compiled_call_impl is not None)

    def on_validation_batch_end(self, trainer, pl_module, *_):
        self.validated.append(pl_module.network._compiled_call_impl is not None)


def run(folder, *callbacks, sparsity=SPARSE):
    watch = Watch()
    sparsify = SparsifyModel(sparsity, engine="masked")
    trainer = make_trainer(folder, sparsify, *callbacks, StepSeed(0), watch, max_epochs=2)
    trainer.fit(make_classifier(), datamodule=AugmentedDigits())
    return watch


@pytest.fixture
def compiles_with(monkeypatch):
    """Compile on this CPU with a backend of the test's."""

    def use(backend):
        monkeypatch.setattr(compile_module, "why_eager", lambda trainer: None)
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        torch._dynamo.reset()

    yield use
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def eager(tmp_path_factory) -> Watch:
    """A run that nothing compiles, with the callback that would."""
    lines = []
    watch = run(tmp_path_factory.mktemp("eager"), CompileWhereItWorks(lines.append))
    assert lines == []
    return watch


def test_a_compiled_run_has_the_losses_of_an_eager_one_and_validates_eager(
    tmp_path, eager, compiles_with
):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiles_with(backend)
    lines = []
    watch = run(tmp_path, CompileWhereItWorks(lines.append))
    assert graphs
    assert lines == ["compile=auto: training steps run under torch.compile"]
    assert watch.losses == pytest.approx(eager.losses, abs=1e-6)
    assert all(watch.trained)
    assert not any(watch.validated)


def test_the_steps_find_the_graphs_that_were_tried(tmp_path, compiles_with):
    graphs, counts = [], []

    class Count(pl.Callback):
        def on_train_batch_start(self, *_):
            counts.append(len(graphs))

        def on_train_batch_end(self, *_):
            counts.append(len(graphs))

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiles_with(backend)
    # The first step watches MLPs with 2:4 activations.
    sparsity = Sparsity(weight=SRSTE(), activation=Activation24())
    run(tmp_path, CompileWhereItWorks(lambda line: None), Count(), sparsity=sparsity)
    assert counts[0] > 0
    assert set(counts) == {counts[0]}


def test_what_was_compiled_before_the_run_trains_compiled_and_validates_eager(tmp_path):
    torch._dynamo.reset()
    watch, module = Watch(), make_classifier()
    module.network.compile(backend="eager")
    trainer = make_trainer(tmp_path, EagerValidation(), watch, max_epochs=2)
    trainer.fit(module, datamodule=AugmentedDigits())
    assert all(watch.trained)
    assert watch.validated
    assert not any(watch.validated)


def test_a_run_that_cannot_be_compiled_is_the_eager_run_and_says_why(
    tmp_path, eager, compiles_with
):
    def backend(graph, inputs):
        raise RuntimeError("no such instruction")

    compiles_with(backend)
    lines = []
    watch = run(tmp_path, CompileWhereItWorks(lines.append))
    assert len(lines) == 2
    assert lines[1].startswith("compile=auto: training steps run eager, because compiling failed: ")
    assert "no such instruction" in lines[1]
    assert watch.losses == eager.losses
    assert not any(watch.trained)


@pytest.mark.slow
def test_a_later_phase_that_cannot_be_compiled_goes_on_eager(tmp_path, eager, compiles_with):
    phases = []

    class Phases(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            phases.append(compile_module._phase(trainer))

    def backend(graph, inputs):
        if phases and phases[-1] == "dense_tail":
            raise RuntimeError("no such instruction")
        return graph

    compiles_with(backend)
    lines = []
    watch = run(tmp_path, Phases(), CompileWhereItWorks(lines.append))
    assert [len(lines), watch.trained] == [2, [True] * 6 + [False] * 6]
    assert watch.losses == pytest.approx(eager.losses, abs=1e-6)


def test_an_error_of_the_model_is_raised_as_it_is(tmp_path, compiles_with):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images):
            return images @ images.flatten()

    compiles_with("eager")
    trainer = make_trainer(tmp_path, CompileWhereItWorks(lambda line: None))
    with pytest.raises(RuntimeError) as raised:
        trainer.fit(make_classifier(network=Broken()), datamodule=AugmentedDigits())
    assert "size" in str(raised.value)


def test_a_cpu_is_not_compiled_for_and_nothing_is_said(tmp_path, eager):
    assert not any(eager.trained)
    assert why_eager(make_trainer(tmp_path)) == "the device is no GPU"


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's
def test_a_run_on_a_gpu_is_compiled_and_learns_what_the_eager_one_does(tmp_path):
    lines, watches = [], []
    for callbacks in ([], [CompileWhereItWorks(lines.append)]):
        watch = Watch()
        sparsify = SparsifyModel(SPARSE)
        trainer = make_trainer(
            tmp_path, sparsify, *callbacks, StepSeed(0), watch, max_epochs=2, accelerator="gpu",
            devices=1, precision="bf16-mixed",
        )  # fmt: skip
        network = tiny_vit(drop_path=0.0, embed_dim=128)
        trainer.fit(make_classifier(network=network), datamodule=AugmentedDigits())
        watches.append(watch)
    eager, compiled = watches
    assert lines == ["compile=auto: training steps run under torch.compile"]
    assert all(compiled.trained)
    assert compiled.losses == pytest.approx(eager.losses, rel=0.05)
