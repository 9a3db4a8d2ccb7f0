"""`fit permute=true`: units change places once, before the first masks."""

import pytest
import torch
from cli_helpers import Run, call, fit, metric

from sparsetrain.lightning import read_checkpoint

WORDS = ("permute=true", "logger=csv", "sparsity.include=['*mlp*','*attn*']")


@pytest.fixture(scope="module")
def permuted(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("permuted")
    ended = fit(folder, *WORDS, "callbacks.last.every_n_steps=5")
    assert ended.status == 0, ended.err
    return Run(folder, ended)


def line_of(run: Run) -> str:
    (line,) = (each for each in run.ended.out.splitlines() if each.startswith("permuted: "))
    return line.removeprefix("permuted: ")


def test_the_share_won_back_is_printed_and_in_the_report(permuted):
    assert line_of(permuted).endswith("of the difference won back")
    assert line_of(permuted) in (permuted.folder / "report.html").read_text()


@pytest.mark.slow
def test_a_resumed_run_is_not_permuted_twice_and_ends_bit_identically(permuted, tmp_path):
    stopped = Run(
        tmp_path / "stopped",
        fit(tmp_path / "stopped", *WORDS, "+callbacks.probe._target_=probe.PressCtrlC",
            "+callbacks.probe.step=5"),
    )  # fmt: skip
    saved = stopped.folder / "checkpoints" / "interrupted.ckpt"
    rest = Run(tmp_path / "rest", fit(tmp_path / "rest", *WORDS, f"checkpoint={saved}"))
    assert rest.ended.status == 0, rest.ended.err
    assert "permuted: " not in rest.ended.out
    assert line_of(permuted) in (rest.folder / "report.html").read_text()
    assert metric(rest.folder, "train/loss")[7] == metric(permuted.folder, "train/loss")[7]
    whole, resumed = (read_checkpoint(run.last)["state_dict"] for run in (permuted, rest))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_in_another_order_is_refused_in_a_line(trained, tmp_path):
    complaint = fit(tmp_path, "permute=true", f"checkpoint={trained.last}").complaint
    assert complaint.startswith(f"permute=true with checkpoint={trained.last}, which was not")


def test_permute_where_nothing_is_two_of_four_is_refused_in_a_line(tmp_path):
    complaint = fit(tmp_path, "permute=true", "sparsity=dense").complaint
    assert complaint.startswith("permute=true changes nothing (no layer of an MLP")


def test_retraining_a_permuted_and_pruned_checkpoint_reports_what_was_won(permuted, tmp_path):
    out = tmp_path / "pruned.ckpt"
    ended = call("prune", f"checkpoint={permuted.last}", f"out={out}", "method=magnitude")
    assert ended.status == 0, ended.err
    assert read_checkpoint(out)["sparsetrain_config"]["permuted"] == line_of(permuted)
