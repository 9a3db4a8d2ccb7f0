"""`fit`: what a run leaves, and what it says."""

import re
from pathlib import Path

import pytest
import torch
from cli_helpers import ROOT, TINY, call, fit, metric, shown, spawn

SHORT = ("trainer.max_epochs=1", "trainer.limit_val_batches=1", "logger=csv")
PHOTOGRAPHS = ROOT.parent / "shared" / "data"


def test_a_run_leaves_its_checkpoints_metrics_report_and_config(trained):
    names = {path.name for path in (trained.folder / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt"}
    assert sorted(metric(trained.folder, "train/loss")) == list(range(8))
    assert len(metric(trained.folder, "val/top1")) == 2
    assert "vit_tiny_24: vit_tiny_patch16_224" in (trained.folder / "report.html").read_text()
    assert list((trained.folder / "wandb").glob("offline-run-*/*.wandb"))
    words = (trained.folder / ".hydra" / "overrides.yaml").read_text()
    assert "model.options.depth=2" in words


def test_the_table_says_what_every_kind_of_layer_runs(trained):
    lines = trained.ended.out.splitlines()
    assert lines[:2] == [
        "vit_tiny_patch16_224 on digits (1,437 train / 360 val)",
        "0.2 M parameters on 1 × cpu",
    ]
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:8]}
    assert rows["blocks.*.mlp.fc1"][:3] == ["2", "384×96", "2:4"]
    assert rows["blocks.*.mlp.fc2"][:3] == ["2", "96×384", "2:4"]
    assert rows["head"] == ["1", "10×96", "dense", "not", "named", "by", "include"]


def test_the_summary_names_accuracy_density_speed_and_files_that_exist(trained):
    out = trained.ended.out
    last = 100 * list(metric(trained.folder, "val/top1").values())[-1]
    assert shown(out, "top-1").startswith(f"{last:.2f} % at the end")
    assert shown(out, "density") == "0.500 in 4 sparse layers"
    assert re.fullmatch(r"[\d,]+ images/s", shown(out, "throughput"))
    for label in ("best checkpoint", "last checkpoint", "report"):
        assert Path(shown(out, label)).is_file()
    assert Path(shown(out, "W&B, offline").removeprefix("wandb sync ")).is_dir()


@pytest.mark.slow
def test_a_run_in_its_own_process_prints_nothing_but_table_epochs_and_summary(tmp_path):
    ended = spawn("-m", "sparsetrain", "fit", *TINY, cwd=tmp_path)
    assert ended.status == 0
    assert ended.err == ""
    starts = [line.split(" ")[0] for line in ended.out.splitlines()]
    layers = ["layer", *(f"blocks.*.{n}" for n in ("mlp.fc1", "mlp.fc2", "attn.qkv", "attn.proj"))]
    summary = ["data", "top-1", "density", "throughput", "optimizer", "best", "last", "report"]
    layers += ["head", "patch_embed.proj", "sparse:"]
    assert starts == ["vit_tiny_patch16_224", "0.2", *layers, "epoch", "epoch", *summary, "W&B,"]
    (run,) = (tmp_path / "runs" / "vit_tiny_24").iterdir()
    assert f"runs/vit_tiny_24/{run.name}/report.html" in ended.out


def test_a_change_of_phase_is_told_and_that_it_compiles_once(dense_tail, tmp_path):
    lines = dense_tail.ended.out.splitlines()
    assert [line for line in lines if "begins" in line] == ["step 2: phase dense tail begins"]
    with torch.compiler.set_stance("force_eager"):  # compiling takes half a minute
        out = fit(tmp_path, *SHORT, "sparsity.schedule.dense_tail=0.5", "compile=true").out
    assert "step 2: phase dense tail begins: what is compiled compiles once for it" in out


def test_a_recipe_for_imagenet_alone_runs_on_digits_under_a_banner(tmp_path):
    small = [f"++model.options.{o}" for o in ("depth=1", "embed_dim=64", "num_heads=2")]
    limits = ["trainer.limit_train_batches=1", "trainer.limit_val_batches=1"]
    ended = call("fit", "recipe=vit_b_24", *small, *limits, f"hydra.run.dir={tmp_path}")
    assert ended.status == 0, ended.err
    banner = " ".join(ended.out.replace("│", " ").split())
    assert "No data set was given" in banner
    assert "data=imagenet data.root=/path" in banner
    assert "data=parquet data.root=/path" in banner
    assert "on digits, not augmented" in ended.out
    assert "No data set was given" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_small_recipe_multiplies_in_one_thread(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    assert fit(tmp_path, *SHORT).status == 0
    assert given[0] == 1


def test_a_dense_run_says_that_every_layer_is_dense(tmp_path):
    ended = fit(tmp_path, "sparsity=dense", *SHORT)
    assert "every layer dense" in ended.out
    assert shown(ended.out, "density") == "weights dense"


@pytest.mark.slow
def test_averaged_weights_and_bf16_train_on_a_cpu(tmp_path):
    ended = fit(tmp_path, "callbacks=ema", "trainer.precision=bf16-mixed", "trainer.max_epochs=1")
    assert ended.status == 0, ended.err
    assert (
        "callbacks.ema.decay=0.9999 averages the weights of 10,000 steps, and this run has 4: what "
        "is validated stays near the first weights" in ended.out
    )
    short = fit(tmp_path / "b", "callbacks=ema", "callbacks.ema.decay=0.5", "trainer.max_epochs=1")
    assert "averages the weights" not in short.out
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    averaged = saved["state_dict"]["network.head.weight"]
    current = saved["current_model_state"]["network.head.weight"]
    assert not torch.equal(averaged, current)
    assert torch.allclose(averaged, current, atol=1e-2)


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_an_eager_one(tmp_path):
    short = ("model.options.depth=1", "trainer.max_epochs=1")
    eager, compiled = tmp_path / "eager", tmp_path / "compiled"
    assert fit(eager, *short).status == 0
    ended = spawn(
        "-m", "sparsetrain", "fit", *TINY, *short, "compile=true", f"hydra.run.dir={compiled}",
        cwd=tmp_path,
    )  # fmt: skip
    assert ended.status == 0, ended.err
    losses = metric(compiled, "train/loss").values()
    assert list(losses) == pytest.approx(list(metric(eager, "train/loss").values()), abs=1e-4)


@pytest.mark.slow
def test_a_sweep_makes_a_run_with_all_its_files_for_every_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ("model.options.depth=1", "trainer.max_epochs=1", "trainer.limit_val_batches=1")
    ended = call("fit", "-m", *TINY, *short, "seed=0,1")
    assert ended.status == 0, ended.err
    (sweep,) = (tmp_path / "runs" / "sweep").iterdir()
    losses = []
    for job in ("0", "1"):
        assert (sweep / job / "report.html").is_file()
        assert list((sweep / job / "wandb").glob("offline-run-*/*.wandb"))
        losses.append(metric(sweep / job, "train/loss"))
    assert losses[0].keys() == losses[1].keys()
    assert losses[0] != losses[1]


def test_a_recipe_file_of_ones_own_brings_its_numbers_and_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "recipes" / "vit_tiny_24.yaml").read_text()
    Path("mine.yaml").write_text(text.replace("lr: 2.0e-3", "lr: 3.0e-3"))
    ended = call("fit", "recipe=./mine.yaml", *TINY[1:], *SHORT, "optimizer.warmup_epochs=0")
    assert ended.status == 0, ended.err
    assert "No data set was given" not in ended.out
    (run,) = (tmp_path / "runs" / "mine").iterdir()
    assert metric(run, "train/lr")[0] == pytest.approx(3.0e-3)


def test_a_config_that_is_cut_down_says_so_when_it_is_printed():
    ended = call("fit", "recipe=vit_b_24", "--cfg", "job")
    assert "img_size: 32" in ended.out
    assert ended.err == "# cut down by demo=digits; demo=null has the recipe's own values\n"
    ended = call("fit", "recipe=vit_b_24", "demo=null", "--cfg", "job")
    assert "img_size: 224" in ended.out
    assert ended.err == ""


def test_cfg_job_prints_the_config_and_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = call("fit", "recipe=vit_tiny_24", "optimizer.lr=0.125", "--cfg", "job")
    assert ended.status == 0
    assert "  lr: 0.125\n" in ended.out
    assert "sparsetrain.lightning.data.Digits" in ended.out
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs are not there")
def test_photographs_in_parquet_train_with_as_many_classes_as_they_have(tmp_path):
    limits = ["trainer.max_epochs=1", "trainer.limit_val_batches=1", "data.num_workers=0"]
    ended = fit(tmp_path, "data=parquet", f"data.root={PHOTOGRAPHS}", *limits)
    assert ended.status == 0, ended.err
    assert "head" in ended.out
    assert "10×96" in ended.out
    assert len(metric(tmp_path, "train/loss")) == 4
