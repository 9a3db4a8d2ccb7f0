"""`fit -m`: a run that fails does not keep the next from starting."""

import pytest
from cli_helpers import call

from sparsetrain.cli import fit as fit_module
from sparsetrain.cli.explain import stop
from sparsetrain.errors import NonFiniteError


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Calls `fit` with seeds 0, 1 and 2, with the training replaced by what raises for a seed;
    the end of the command, and the seeds that were trained."""
    monkeypatch.chdir(tmp_path)

    def run(raises, *words):
        trained = []

        def fake(config, swept):
            trained.append(config.seed)
            raises(config.seed)

        monkeypatch.setattr(fit_module, "fit", fake)
        return call("fit", "recipe=vit_tiny_24", *(words or ["-m", "seed=0,1,2"])), trained

    return run


def diverge_at_1(seed):
    if seed == 1:
        raise NonFiniteError("train/loss is nan")


@pytest.mark.slow
def test_the_run_after_one_that_failed_starts_and_the_end_names_the_failed_one(sweep):
    ended, trained = sweep(diverge_at_1)
    assert trained == [0, 1, 2]
    assert ended.status == 1
    assert ended.err.splitlines() == [
        "sparsetrain: train/loss is nan",
        "sparsetrain: 1 of 3 runs failed: 1 (seed=1)",
    ]


@pytest.mark.slow
def test_a_sweep_without_failure_says_nothing(sweep):
    ended, trained = sweep(lambda seed: None)
    assert (ended.status, ended.err, trained) == (0, "", [0, 1, 2])


def test_a_single_run_that_fails_is_told_in_one_line(sweep):
    ended, trained = sweep(diverge_at_1, "seed=1")
    assert (ended.status, ended.complaint, trained) == (1, "train/loss is nan", [1])


@pytest.mark.slow
def test_an_error_with_a_traceback_does_not_keep_the_next_run_from_starting_either(sweep):
    def fail(seed):
        if seed == 0:
            raise RuntimeError("a bug")

    ended, trained = sweep(fail)
    assert (ended.status, trained) == (1, [0, 1, 2])
    assert "RuntimeError: a bug" in ended.err
    assert ended.err.splitlines()[-1] == "sparsetrain: 1 of 3 runs failed: 0 (seed=0)"


@pytest.mark.slow
def test_ctrl_c_ends_the_sweep_and_says_how_many_runs_did_not_start(sweep):
    def press(seed):
        diverge_at_1(seed + 1)
        if seed == 1:
            stop("interrupted", 130)

    ended, trained = sweep(press)
    assert (ended.status, trained) == (130, [0, 1])
    assert ended.err.splitlines()[1:] == [
        "sparsetrain: interrupted",
        "sparsetrain: 1 of 3 runs failed: 0 (seed=0); 1 of 3 runs did not start",
    ]


@pytest.mark.slow
def test_among_several_processes_a_failure_ends_the_sweep(sweep, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    ended, trained = sweep(diverge_at_1)
    assert (ended.status, trained) == (1, [0, 1])
    last = ended.err.splitlines()[-1]
    assert last.endswith("1 of 3 runs failed: 1 (seed=1); 1 of 3 runs did not start")
