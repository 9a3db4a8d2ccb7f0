"""Two processes on a CPU, started by torchrun and by Lightning."""

import pytest
import torch
from cli_helpers import TINY, WHOLE, call, fit, metric, shown, spawn

pytestmark = pytest.mark.slow

SHORT = (*TINY, "model.options.depth=1", "trainer.max_epochs=1", "trainer.accelerator=cpu")
HALF = "data.batch_size=32"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with the batch of two."""
    folder = tmp_path_factory.mktemp("alone")
    assert fit(folder, *SHORT[1:2], *SHORT[-3:], WHOLE[1]).status == 0
    return folder


LAUNCHERS = {
    "torchrun": (["-m", "torch.distributed.run", "--nproc_per_node", "2"], []),
    "lightning": ([], ["trainer.devices=2", "trainer.strategy=ddp"]),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_as_one_with_their_batches_together(launcher, alone, tmp_path):
    before, after = LAUNCHERS[launcher]
    probe = ["+callbacks.probe._target_=probe.SaveMasks", f"+callbacks.probe.folder={tmp_path}/m"]
    work = tmp_path / "work"
    work.mkdir()
    words = [*before, "-m", "sparsetrain", "fit", *SHORT, HALF, *probe, *after]
    ended = spawn(*words, cwd=work)
    assert ended.status == 0, ended.err

    (run,) = (work / "runs" / "vit_tiny_24").iterdir()
    assert {path.name for path in work.iterdir()} == {"runs"}
    assert {"report.html", "metrics.csv", "checkpoints"} <= {path.name for path in run.iterdir()}
    together, single = (metric(folder, "train/loss") for folder in (run, alone))
    assert together.keys() == single.keys()
    assert list(together.values()) == pytest.approx(list(single.values()), abs=1e-5)
    top1 = (list(metric(folder, "val/top1").values())[-1] for folder in (run, alone))
    assert next(top1) == pytest.approx(next(top1), abs=1.5 / 360)

    first, second = (torch.load(tmp_path / "m" / f"{rank}.pt") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert len(first) == 2
    for name, mask in first.items():
        assert torch.equal(mask, second[name]), name
    assert "2 × cpu" in ended.out
    assert shown(ended.out, "density") == "0.500 in 2 sparse layers"


def test_weights_in_shards_train_as_one_process_and_a_stopped_run_goes_on_exactly(tmp_path):
    sharded = (*TINY, "model.options.depth=4", "logger=csv", HALF)
    sharded += ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=fsdp2")
    stop = ("+callbacks.probe._target_=probe.PressCtrlC", "+callbacks.probe.step=5")
    saved = tmp_path / "first" / "checkpoints" / "interrupted.ckpt"
    runs = {"whole": (), "first": stop, "rest": (f"checkpoint={saved}",)}
    for name, words in runs.items():
        folder = f"hydra.run.dir={tmp_path / name}"
        ended = spawn("-m", "sparsetrain", "fit", *sharded, *words, folder, cwd=tmp_path)
        assert ended.status == (130 if name == "first" else 0), ended.err
    whole, rest = (metric(tmp_path / name, "train/loss") for name in ("whole", "rest"))
    assert sorted(rest) == [7], "asked in step 5, answered after the next"
    assert rest == {step: whole[step] for step in rest}
    assert fit(tmp_path / "alone", *sharded[1:-4], "data.batch_size=64").status == 0
    alone = metric(tmp_path / "alone", "train/loss")
    assert list(whole.values()) == pytest.approx(list(alone.values()), abs=1e-4)
    ended = call("validate", f"checkpoint={tmp_path}/whole/checkpoints/last.ckpt")
    assert ended.status == 0, ended.err
    top1 = list(metric(tmp_path / "whole", "val/top1").values())[-1]
    assert shown(ended.out, "top-1") == f"{100 * top1:.2f} %", "one file with whole tensors"
