"""scripts/bench/sparsify.py end to end: on the CPU with a clock that is made up, and on a GPU."""

import io
import json

import pytest
import torch
from rich.console import Console

from scripts.bench import sparsify, sparsify_measure
from scripts.bench.candidate import Candidate
from scripts.bench.ours import OPS, check_against_reference, our_candidates
from scripts.bench.peers import CLONE, TILE, XFORMERS
from scripts.bench.sparsify import parse
from scripts.bench.sparsify_measure import Matrix, bench_matrix, copy_rate
from scripts.bench.sparsify_report import LEGEND, formulas, table, write_matrices
from sparsetrain import native
from sparsetrain.bench.timing import CALLS, Clocks

CPU = torch.device("cpu")
BF16, FP32 = torch.bfloat16, torch.float32
SMALL = Matrix(48, 64, BF16)


def tile(x):
    return x + 0


def clock(run):
    """3 ms for the peer and 1 for everything else, twice that if nothing is in the cache."""
    run()
    return 3000.0 if getattr(run, "func", None) is tile else 1000.0


CLOCKS = Clocks(lambda run: 2 * clock(run), warm=clock, capture=lambda run: run)


@pytest.fixture
def peer(monkeypatch):
    """A peer that runs anywhere, in place of those that need a GPU."""
    fake = Candidate(TILE, ((1, "x"),), lambda x: (x,), tile)
    monkeypatch.setattr(
        sparsify_measure, "usable_peers", lambda x, packed: ([fake], {XFORMERS: "no"})
    )


def bench_small(matrix=SMALL, wanted=OPS):
    return bench_matrix(matrix, wanted, CPU, CLOCKS, rounds=2, copy=1e-3)


def rendered(result):
    file = io.StringIO()
    Console(width=100, file=file).print(table(result))
    return file.getvalue()


def test_rates_ratios_and_speed_ups_follow_from_the_times(peer):
    result = bench_small(wanted=("sparsify24",))
    row = result.rows[0]
    assert row.name == "sparsify24 transposable"
    assert {state: times.median for state, times in row.times.items()} == {
        "cold": 2000.0,
        "warm": 1000.0,
        "graph": 1000.0 / CALLS,
    }
    assert row.rate["cold"] == pytest.approx(48 * 64 * 4.25 / 2e-3 / 1e12)
    assert row.of_copy["cold"] == pytest.approx(row.rate["cold"] / 1e-3)
    assert row.to_clone == {"cold": 1.0, "warm": 1.0, "graph": 1.0}
    assert row.speed_up == {"cold": 3.0, "warm": 3.0, "graph": 3.0}
    assert row.quality is not None
    assert row.quality.sum_of_best == pytest.approx(1, abs=1e-3)


def test_every_op_is_timed_beside_peer_and_clone_and_reasons_are_kept(peer):
    result = bench_small()
    names = [row.name for row in result.rows]
    assert {name.split()[0] for name in names} == {*OPS, "torch", CLONE}
    assert result.skipped == {XFORMERS: "no"}
    assert all(row.speed_up is None for row in result.rows if row.name.startswith("mask24"))


def test_a_master_weight_is_packed_as_bfloat16(peer):
    result = bench_small(Matrix(16, 32, FP32))
    names = {row.name.split()[0] for row in result.rows}
    assert "sparsify24" in names
    assert "mvue24" not in names
    assert str(result.matrix) == "16×32 float32 to bfloat16"


def test_peers_that_need_a_gpu_are_skipped_with_the_reason():
    if torch.cuda.is_available():
        pytest.skip("they run here")
    skipped = bench_small(wanted=("select24",)).skipped
    assert "CPU" in skipped[TILE]
    assert skipped[XFORMERS]


@pytest.mark.parametrize("op", OPS)
def test_a_result_that_is_not_the_references_is_refused(op):
    x = torch.randn(48, 64, generator=torch.Generator().manual_seed(3)).to(BF16)
    for candidate in our_candidates(BF16, BF16, (op,)):
        results = candidate.results(candidate.inputs(x))
        check_against_reference(candidate, x, results)
        for place, layout in enumerate(candidate.layout):
            if layout == "skip":
                continue
            wrong = [result.clone() for result in results]
            wrong[place][0, 0] += 1
            with pytest.raises(ValueError, match=rf"{op}.*: result {place} on \(48, 64\)"):
                check_against_reference(candidate, x, tuple(wrong))


def test_tables_fit_100_columns_and_show_every_row(peer, monkeypatch):
    weight = bench_small()
    monkeypatch.setattr(sparsify_measure, "LARGE", 0)
    large = bench_small()
    assert list(large.rows[0].times) == ["cold"]
    for result in (weight, large):
        text = rendered(result)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
        assert "…" not in text
        for row in result.rows:
            assert f"{row.name} " in text
    assert max(map(len, LEGEND.splitlines())) <= 100
    lines = formulas([weight, large])
    assert "bfloat16: x + values + meta = 2 + 1 + 0.125 = 3.125  (mvue24)" in lines
    assert "bfloat16: mask = 0.125  (random24)" in lines


def test_the_file_holds_every_number_and_replaces_the_old_one_whole(peer, tmp_path):
    result = bench_small()
    path = tmp_path / "results" / "sparsify.json"
    for commit in ("old", "new"):
        write_matrices(path, {"commit": commit}, 4.2, 2, [result])
    content = json.loads(path.read_text("utf-8"))
    assert content["about"] == {"commit": "new"}
    assert content["copy"] == 4.2
    (matrix,) = content["matrices"]
    assert (matrix["rows"], matrix["columns"]) == (48, 64)
    assert [row["name"] for row in matrix["candidates"]] == [row.name for row in result.rows]
    first = matrix["candidates"][0]
    assert first["times"]["cold"] == {"median": 2000.0, "low": 2000.0, "high": 2000.0}
    assert set(first["quality"]) >= {"energy", "sum_of_best", "worst_sum"}
    assert [file.name for file in path.parent.iterdir()] == ["sparsify.json"]


def test_the_copy_counts_what_is_read_and_what_is_written():
    assert copy_rate(CPU, lambda run: 4.0, rounds=2, size=2000) == pytest.approx(1e-3)


def test_by_default_large_ones_are_bfloat16_and_weights_float32_too():
    matrices = parse([]).matrices
    assert [m.large for m in matrices if m.dtype == BF16] == [True] * 3 + [False] * 4
    assert [(m.rows, m.columns) for m in matrices if m.dtype == FP32] == [
        (3072, 768),
        (4096, 1024),
        (5120, 1280),
        (14336, 4096),
    ]


def test_words_choose_shapes_dtype_rounds_ops_and_file():
    options = parse(["shapes=[32x64,16x8]", "dtype=float16", "rounds=9", "ops=mvue24,apply24"])
    assert options.matrices == (Matrix(32, 64, torch.float16), Matrix(16, 8, torch.float16))
    assert (options.rounds, options.ops, options.json) == (9, ("mvue24", "apply24"), None)
    assert str(parse(["json=a/b.json"]).json) == "a/b.json"


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("sparsify24", "'sparsify24' is not of the form key=value"),
        ("shape=1x4", "shape= is no option of bench: did you mean shapes"),
        ("shapes=64", "shapes='64': give ROWSxCOLUMNS"),
        ("shapes=64x30", "30 columns are not a multiple of 4"),
        ("dtype=bfloat", "dtype='bfloat' is unknown: did you mean bfloat16"),
        ("rounds=1", "rounds='1': give a number of at least 2"),
        ("ops=mvue", "ops='mvue' is unknown: did you mean mvue24"),
    ],
)
def test_a_wrong_word_is_named_with_what_would_be_right(word, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse([word])


def test_without_a_device_or_a_library_one_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        sparsify.main([])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(native, "require", lambda: native.Library(reason="no nvcc", fix="add it"))
    with pytest.raises(ValueError, match="there are none: no nvcc; add it"):
        sparsify.main([])


def test_whether_an_op_has_a_cuda_kernel_is_what_the_dispatcher_says():
    library = torch.library.Library("sparsetrain", "FRAGMENT")
    library.define("bench_probe(Tensor x) -> Tensor")
    assert not sparsify_measure.has_kernel("bench_probe")
    library.impl("bench_probe", lambda x: x, "CUDA")
    assert sparsify_measure.has_kernel("bench_probe")


@pytest.mark.gpu
def test_the_command_times_every_op_on_a_gpu(tmp_path):
    path = tmp_path / "sparsify.json"
    sparsify.main(["shapes=1024x512", "rounds=3", f"json={path}"])
    wide, _ = json.loads(path.read_text("utf-8"))["matrices"]
    assert {row["name"].split()[0] for row in wide["candidates"]} >= {*OPS, CLONE}
    assert all(row["times"]["graph"]["median"] > 0 for row in wide["candidates"][: len(OPS)])
