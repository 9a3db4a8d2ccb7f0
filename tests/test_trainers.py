"""Other packages' trainers: the document's examples train sparse, save masks, resume exactly."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsetrain as st

DOCUMENT = (Path(__file__).parent.parent / "docs" / "trainers.md").read_text("utf-8")
SPARSITY = st.Sparsity(
    include=("*mlp*",),
    weight=st.SRSTE(decay=1e-2),
    schedule=st.Schedule(mask_every=3, dense_tail=0.25),
)
STEPS = 8


@pytest.fixture(autouse=True)
def new_accelerator():
    """Accelerate keeps one state a process, which the documents' examples leave behind too."""
    forget_accelerate()
    yield
    forget_accelerate()


def forget_accelerate():
    if "accelerate" in sys.modules:
        sys.modules["accelerate"].state.AcceleratorState._reset_state(True)


def section(title, language):
    """The first block of code under a heading of the document."""
    found = re.search(rf"## {title}\n.*?```{language}\n(.*?)```", DOCUMENT, re.S)
    assert found, title
    return found[1]


def assert_same(model, other):
    """In every bit of the weights and masks, and in the phase."""
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)
    state, again = st.sparse_state(model), st.sparse_state(other)
    assert str(state) == str(again)
    for name, layer in state.items():
        assert torch.equal(layer["mask"], again[name]["mask"])


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x, labels):
        y = self.mlp(x)
        return {"loss": (y - labels).square().mean(), "y": y}


def hugging_face(folder, seed=0, **more) -> Any:
    transformers = pytest.importorskip("transformers")
    names: dict[str, Any] = {}
    exec(section("Hugging Face Trainer", "python"), names)
    model = Net(seed)
    st.sparsify(model, SPARSITY)
    generator = torch.Generator().manual_seed(1)
    data = [{"x": x, "labels": x.flip(0)} for x in torch.randn(32, 16, generator=generator)]
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=STEPS,
        save_steps=4,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **more,
    )
    callbacks = [names["SparseTraining"]()]
    return transformers.Trainer(
        model, arguments, train_dataset=data, eval_dataset=data[:4], callbacks=callbacks
    )


@pytest.mark.slow
def test_a_hugging_face_trainer_resumes_exactly(tmp_path):
    pytest.importorskip("accelerate")
    whole, resumed = hugging_face(tmp_path), hugging_face(tmp_path, seed=1)
    whole.train()
    state = torch.load(tmp_path / "checkpoint-4" / "sparse.pt")
    assert {s["masks_step"] for s in state.values()} == {3}, "masks that its weights do not give"
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same(whole.model, resumed.model)
    assert {s["step"] for s in st.sparse_state(whole.model).values()} == {STEPS}
    assert {s["phase"] for s in st.sparse_state(whole.model).values()} == {"dense_tail"}


@pytest.mark.slow
def test_the_best_model_of_a_hugging_face_trainer_is_in_the_phase_of_its_step(tmp_path):
    pytest.importorskip("accelerate")
    best = {"metric_for_best_model": "loss", "greater_is_better": True}  # the highest: the first
    more = {"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True, **best}
    trainer = hugging_face(tmp_path, **more)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert {s["step"] for s in st.sparse_state(trainer.model).values()} == {4}
    assert {s["trained"] for s in st.sparse_state(trainer.model).values()} == {"sparse"}


def accelerated(accelerator, seed=0) -> Any:
    model = Net(seed)
    st.sparsify(model, SPARSITY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    attached = st.attach(model, optimizer, total_steps=STEPS)
    accelerator.register_for_checkpointing(attached)
    return model, optimizer, attached


def train(accelerator, model, optimizer, batches):
    for x in batches:
        with accelerator.accumulate(model):
            accelerator.backward(model(x, x.flip(1))["loss"])
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_resumes_exactly_with_accumulated_batches(tmp_path, precision):
    accelerate = pytest.importorskip("accelerate")
    runs, batches = [], torch.randn(2 * STEPS, 8, 16)
    for seed in (0, 1):
        accelerator = accelerate.Accelerator(
            cpu=True, gradient_accumulation_steps=2, mixed_precision=precision
        )
        model, optimizer, attached = accelerated(accelerator, seed)
        if seed == 0:
            train(accelerator, model, optimizer, batches[:8])
            accelerator.save_state(str(tmp_path))
        else:
            accelerator.load_state(str(tmp_path))
        assert (attached.phase.step, attached.phase.masks_step) == (4, 3)
        train(accelerator, model, optimizer, batches[8:])
        runs.append(model)
    assert_same(*runs)
    assert attached.phase.name == "dense_tail"


def test_a_step_that_accelerates_scaler_skips_does_not_count():
    accelerate = pytest.importorskip("accelerate")
    accelerate.Accelerator(cpu=True)
    model = Net()
    st.sparsify(model, SPARSITY)
    scaler = torch.amp.grad_scaler.GradScaler("cpu", init_scale=4.0)
    inner = torch.optim.SGD(model.parameters(), lr=1e-2)
    optimizer = accelerate.optimizer.AcceleratedOptimizer(inner, scaler=scaler)
    attached: Any = st.attach(model, optimizer, total_steps=STEPS)
    for factor, step in ((1.0, 1), (float("inf"), 1), (1.0, 2)):
        x = torch.randn(8, 16)
        scaler.scale(model(x, x.flip(1))["loss"] * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert optimizer.step_was_skipped == (factor > 1)
        assert attached.phase.step == step


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's use of jsonargparse
@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_a_lightning_cli_makes_a_sparsity_of_the_documents_config(package, tmp_path, monkeypatch):
    jsonargparse = pytest.importorskip("jsonargparse")
    pytest.importorskip(package.split(".")[0])
    lightning = importlib.import_module(package)
    cli = importlib.import_module(f"{package}.cli")

    class Module(lightning.LightningModule):
        def __init__(self, width: int = 16):
            super().__init__()
            self.mlp = nn.Linear(width, width)

        def training_step(self, batch):
            return self.mlp(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

        def train_dataloader(self):
            return torch.utils.data.DataLoader(list(torch.randn(16, 16)), 4)  # pyright: ignore[reportArgumentType]

    config = tmp_path / "config.yaml"
    config.write_text(section("Lightning", "yaml"))
    monkeypatch.setattr("sys.argv", ["train.py"])
    jsonargparse.set_parsing_settings(subclasses_enabled=[st.STE])
    off = ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"]
    settings = [f"--trainer.{name}=false" for name in off]
    settings += ["--trainer.accelerator=cpu", "--trainer.max_steps=4"]
    run = cli.LightningCLI(
        Module,
        args=["fit", "--config", str(config), *settings],
        save_config_callback=None,
        seed_everything_default=False,
    )
    sparsify = next(c for c in run.trainer.callbacks if isinstance(c, st.SparsifyModel))
    assert sparsify.sparsity == st.Sparsity(
        include=("*mlp*",),
        weight=st.SRSTE(decay=2e-5),
        selection=st.Selection("row"),
        schedule=st.Schedule(mask_every=40, dense_tail=0.25),
    )
    assert sparsify.phase == "dense_tail"
    assert "mlp" in st.sparse_state(run.model)


@pytest.mark.slow  # importing peft takes seconds
def test_merged_adapters_give_the_outputs_that_were_trained_or_stay_sparse():
    peft = pytest.importorskip("peft")
    names: dict[str, Any] = {}
    exec(section("Adapters of PEFT", "python"), names)
    assert not [m for m in names["merged"].modules() if isinstance(m, st.SparseLinear)]

    model: Any = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    st.sparsify(model, st.Sparsity())
    config = peft.LoraConfig(r=4, target_modules=["0", "2"], init_lora_weights=False)
    merged = peft.get_peft_model(model, config).merge_and_unload()
    assert st.density(merged) == 0.5
