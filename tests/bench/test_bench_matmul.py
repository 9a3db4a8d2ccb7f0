"""scripts/bench/matmul.py end to end: on the CPU with a clock that is made up, and on a GPU."""

import io
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from scripts.bench import matmul, matmul_auto, matmul_measure, matmul_peers
from scripts.bench.matmul_measure import DENSE, DENSE_TRANSPOSED, NATIVE, bench_product, summary
from scripts.bench.matmul_peers import DEFAULT_PEERS, PEERS, Contender
from scripts.bench.matmul_report import (
    LEGEND,
    product_lines,
    product_table,
    summary_lines,
    write_products,
)
from scripts.bench.roofline import draw_roofline
from sparsetrain import native
from sparsetrain.bench.products import PRODUCTS, Product, Shape, make_product, why_wrong
from sparsetrain.bench.refusal import first_line
from sparsetrain.bench.timing import Clocks, Times

CPU = torch.device("cpu")
BF16 = torch.bfloat16
SMALL = Shape(tokens=136, features=64, hidden=128)
MICROSECONDS = {"native": 1000.0, "dense": 2000.0, "dense_transposed": 1500.0}


def clock(run):
    """1 ms for ours, 2 for dense, 1.5 for its transpose, 4 for a peer."""
    run()
    return MICROSECONDS.get(getattr(run, "__name__", ""), 4000.0)


def small(name="W24 forward", shape=SMALL):
    return make_product(name, shape, BF16, CPU)


def bench_small(name="W24 forward", wanted=(), shape=SMALL):
    return bench_product(small(name, shape), wanted, clock, rounds=2, sms=132)


@pytest.fixture
def rows():
    return [bench_small(name) for name in PRODUCTS]


@pytest.fixture
def peers(monkeypatch):
    """All peers run and are right, and ours says its config."""

    def usable(product, wanted, accept, clock):
        return {name: Contender(lambda: product.masked(), "algorithm 7") for name in wanted}, {}

    monkeypatch.setattr(matmul_measure, "usable_peers", usable)
    config = "256x128 cluster 2x2 group 16 stream-k"
    monkeypatch.setattr(matmul_measure, "native_config", lambda problem, sms: config)


@pytest.fixture
def machine(monkeypatch):
    """A CUDA device that is the CPU, with the clock above."""
    clocks = Clocks(cold=clock, warm=clock, capture=lambda run: run)
    monkeypatch.setattr(matmul, "cuda_device", lambda: CPU)
    monkeypatch.setattr(matmul, "library_words", lambda: "a library")
    monkeypatch.setattr(
        matmul, "environment", lambda *words: {"command": words[0], "hardware": "CPU, none"}
    )
    monkeypatch.setattr(matmul, "cuda_clocks", lambda: clocks)
    monkeypatch.setattr(matmul, "copy_rate", lambda *arguments: 1e-4)
    monkeypatch.setattr(matmul.products, "load_table", lambda: None)
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.fixture
def cusparselt(monkeypatch):
    """cuSPARSELt with 6 algorithms: the third is refused, those from 3 on are fast and wrong."""
    tried = []

    def sparse_mm(compressed, b, *, transpose_result, alg_id, split_k, split_k_mode):
        tried.append(alg_id)
        if alg_id == 2 or alg_id > 5:
            raise RuntimeError(f"algorithm {alg_id} is not supported\nby this problem")
        result = compressed @ b
        return (result.T if transpose_result else result) * (1 if alg_id < 4 else 2)

    monkeypatch.setattr(torch.ops.aten, "_cslt_compress", lambda a: a, raising=False)
    monkeypatch.setattr(torch.ops.aten, "_cslt_sparse_mm", sparse_mm, raising=False)
    return tried


def faster_with_every_algorithm(run):
    run()
    return 100.0 - run.keywords["alg_id"]


def table_text(rows):
    file = io.StringIO()
    Console(width=120, file=file).print(product_table(rows))
    return file.getvalue()


def test_rates_and_speed_ups_follow_from_the_times():
    row = bench_small()
    assert {name: times.median for name, times in row.times.items()} == {
        NATIVE: 1000.0,
        DENSE: 2000.0,
        DENSE_TRANSPOSED: 1500.0,
    }
    assert row.rate(NATIVE) == pytest.approx(2 * 136 * 64 * 128 / 1e-3 / 1e12)
    assert row.speed_up(NATIVE) == 2.0
    assert row.speed_up_over_best(NATIVE) == 1.5
    assert 0 < row.errors[NATIVE] <= 2 * row.errors[DENSE] < 1e-2


def test_dense_is_timed_three_times_a_round(monkeypatch):
    calls = []
    monkeypatch.setattr(Product, "dense", lambda product: calls.append("dense"))
    monkeypatch.setattr(Product, "dense_transposed", lambda product: calls.append("transposed"))
    bench_small(wanted=())
    assert calls.count("dense") == 3 * calls.count("transposed") > 0


def test_a_wrong_result_of_ours_is_said_and_not_timed(monkeypatch):
    monkeypatch.setattr(Product, "native", lambda product: product.masked() * 1.01)
    row = bench_small()
    assert NATIVE not in row.times
    assert row.skipped[NATIVE].startswith("wrong result: error 1.0e-02, where cuBLAS has ")
    assert summary([row], NATIVE) is None
    assert " – " in table_text([row])


def test_without_a_kernel_the_reference_is_not_timed(monkeypatch):
    monkeypatch.setattr(matmul_measure, "no_kernel", lambda product: "no kernel")
    assert bench_small().skipped == {NATIVE: "no kernel"}


def test_a_peer_that_refuses_is_listed_with_the_first_line_of_its_reason():
    if torch.cuda.is_available():
        pytest.skip("they run here")
    row = bench_small(wanted=DEFAULT_PEERS)
    assert set(row.skipped) == set(DEFAULT_PEERS)
    assert "CPU" in row.skipped["cusparselt"]
    assert all("\n" not in reason for reason in row.skipped.values())


def test_an_error_without_words_is_told_by_the_line_that_raised_it():
    def refuses(version):
        if version < 6:
            raise NotImplementedError

    reasons = []
    for run in (lambda: refuses(version=5), lambda: int("a")):
        try:
            run()
        except (NotImplementedError, ValueError) as error:
            reasons.append(first_line(error))
    assert reasons[0] == "NotImplementedError: raise NotImplementedError"
    assert reasons[1].startswith("ValueError: invalid literal")


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_best_of_cusparselt_is_the_fastest_that_is_right(cusparselt, name):
    product = small(name)
    right = product.error(product.masked())
    found, skipped = matmul_peers.usable_peers(
        product,
        ("cusparselt", "cusparselt-best"),
        lambda result: why_wrong(product.error(result), right),
        faster_with_every_algorithm,
    )
    assert skipped == {}
    assert found["cusparselt"].config == "algorithm 0"
    assert found["cusparselt-best"].config == "algorithm 3 of 5"
    assert set(cusparselt) == set(range(10)), "four refusals in a row end the search"
    assert why_wrong(product.error(found["cusparselt-best"].run()), right) == ""


def test_a_peer_with_a_wrong_result_is_listed_and_not_timed(cusparselt, monkeypatch):
    monkeypatch.setattr(torch.ops.aten, "_cslt_compress", lambda a: a * 3, raising=False)
    row = bench_small(wanted=("cusparselt",))
    assert "cusparselt" not in row.times
    assert row.skipped["cusparselt"].startswith("wrong result: error 2.0e+00")


def test_torchs_cutlass_op_gets_its_own_metadata_and_b_as_it_lies(monkeypatch):
    seen = []

    def mm(values, meta, b):
        seen.append((values.shape, meta.shape, meta.dtype, b.stride()))
        return torch.zeros(values.shape[0], b.shape[1], dtype=b.dtype)

    monkeypatch.setattr(torch.ops.aten, "_sparse_semi_structured_mm", mm, raising=False)
    row = bench_small(wanted=("torch-cutlass",))
    assert seen[0] == ((128, 32), (128, 4), torch.int16, (1, 64))
    assert row.skipped["torch-cutlass"].startswith("wrong result: error 1.0e+00")


def test_the_summary_is_over_all_products_and_names_the_worst(rows):
    slow = replace(rows[2], times={**rows[2].times, NATIVE: Times(8000.0, 8000.0, 8000.0)})
    found = summary([rows[0], slow, rows[1]], NATIVE)
    assert found is not None
    assert (found.count, found.worst, found.worst_of) == (3, 0.25, "act24 forward 136x64x128")
    assert found.mean == pytest.approx((2 * 2 * 0.25) ** (1 / 3))
    assert found.mean_over_best == pytest.approx((1.5 * 1.5 * 0.1875) ** (1 / 3))


def test_the_table_fits_120_columns_with_every_peer_and_a_large_shape(peers):
    rows = [bench_small(name, PEERS) for name in PRODUCTS]
    problem = replace(rows[0].problem, M=50432, N=14336, K=65536)
    times = Times(3000.0, 2800.0, 3200.0)
    rows = [replace(row, problem=problem, times=dict.fromkeys(row.times, times)) for row in rows]
    text = table_text(rows)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    assert "256x128 c2x2 g16 sk" in text
    assert "136 tokens, 64 features, 128 hidden, bfloat16" in text
    for name in PRODUCTS:
        assert f"{name} " in text
    assert max(map(len, LEGEND.splitlines())) <= 100


def test_a_reason_is_said_once_with_the_products_it_holds_for(rows):
    rows = [replace(row, skipped={"xformers": "no"}) for row in rows]
    rows[1] = replace(rows[1], skipped={"xformers": "no", NATIVE: "wrong"})
    assert list(product_lines(rows)) == [
        "not timed: xformers: no",
        "not timed: sparsetrain (W24 dX): wrong",
    ]


def test_the_words_at_the_end_give_mean_and_worst_of_each(rows):
    (line,) = summary_lines(rows)
    assert line.startswith("sparsetrain: geometric mean 2.000× over dense (1.500× over the faster")
    assert line.endswith("worst 2.00× W24 forward 136x64x128")


def test_the_file_holds_every_number(peers, tmp_path):
    rows = [bench_small(name, ("cusparselt",)) for name in PRODUCTS]
    path = tmp_path / "matmul.json"
    write_products(path, {"commit": "new"}, 4.2, 2, rows)
    content = json.loads(path.read_text("utf-8"))
    assert content["about"] == {"commit": "new"}
    assert content["summary"][NATIVE]["mean"] == pytest.approx(2)
    assert content["summary"]["cusparselt"]["mean"] == pytest.approx(0.5)
    first = content["products"][0]
    assert first["problem"]["dtype"] == "bfloat16"
    assert (first["problem"]["M"], first["problem"]["K"]) == (128, 64)
    assert first["times"][DENSE] == {"median": 2000.0, "low": 2000.0, "high": 2000.0}
    assert first["speed_up"] == {NATIVE: 2.0, "cusparselt": 0.5}
    assert first["configs"]["cusparselt"] == "algorithm 7"


def test_the_config_is_asked_of_the_library_where_it_tells(monkeypatch):
    product = small()

    def chosen(problems, sms):
        assert problems.tolist() == [[0, 128, 136, 64, 0, 1, 0]]
        return torch.tensor([[1, 1, 2, 8, 1]])

    ops = torch.ops.sparsetrain
    monkeypatch.setattr(ops, "_matmul24_choice", chosen, raising=False)
    tiles = torch.tensor([[256, 128], [128, 256]])
    monkeypatch.setattr(ops, "_matmul24_tiles", lambda: tiles, raising=False)
    found = matmul_measure.native_config(product.problem, 132)
    assert found == "128x256 cluster 1x2 group 8 stream-k"


def test_the_picture_is_a_png_with_ours_missing_too(rows, tmp_path):
    path = tmp_path / "pictures" / "roofline.png"
    rows[1] = replace(rows[1], times={DENSE: rows[1].times[DENSE]})
    draw_roofline(path, "NVIDIA H200", 1e-4, rows)
    assert path.read_bytes().startswith(b"\x89PNG")
    draw_roofline(path, "NVIDIA H200", 1e-4, rows[1:2])


def test_the_command_shows_tables_and_summary_and_writes_json_and_picture(
    machine, tmp_path, capsys
):
    path, picture = tmp_path / "a.json", tmp_path / "a.png"
    words = ["shapes=136x64x128,64x64x64", "products=w24-dx,act24-dw", "rounds=2", "peers=false"]
    matmul.main([*words, f"json={path}", f"picture={picture}"])
    shown = capsys.readouterr().out
    for part in ("136 tokens", "64 tokens", "act24 dW", "geometric mean 2.000×", "a.png"):
        assert part in shown
    content = json.loads(path.read_text("utf-8"))
    assert content["about"]["tuned"] == "nothing"
    assert content["about"]["command"].startswith("python -m scripts.bench.matmul shapes=136")
    assert [row["shape"]["tokens"] for row in content["products"]] == [136, 136, 64, 64]
    assert picture.stat().st_size > 1000


def test_the_command_compares_auto_on_random_products(machine, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(matmul_auto, "TOKENS", (64, 128))
    monkeypatch.setattr(matmul_auto, "FEATURES", (256, 512))
    asked = []

    def expected(problems, sms):
        asked.append((problems.shape, sms))
        return torch.tensor([1_000_000])

    monkeypatch.setattr(torch.ops.sparsetrain, "_matmul24_expected", expected, raising=False)
    path = tmp_path / "a.json"
    matmul.main(["random=3", "seed=1", "rounds=2", f"json={path}"])
    shown = capsys.readouterr().out
    for part in ("the 3 lowest of 3", "not slower than dense: ", "worst: ", "noise: "):
        assert part in shown
    content = json.loads(path.read_text("utf-8"))
    assert len(content["products"]) == 3
    assert all(row["engine"] == "dense" for row in content["products"])
    assert all("expected 1005 µs" in row["why"] for row in content["products"])
    assert [shape for shape, _ in asked] == 3 * [(1, 7)]


def test_without_matplotlib_a_picture_is_refused_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"picture= needs matplotlib .*sparsetrain\[bench\]"):
        matmul.main(["picture=a.png"])


def test_without_a_device_or_a_library_one_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        matmul.main([])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(native, "require", lambda: native.Library(reason="no nvcc", fix="add it"))
    with pytest.raises(ValueError, match="there are none: no nvcc; add it"):
        matmul.main([])


@pytest.mark.gpu
def test_the_command_times_every_product_on_a_gpu(tmp_path):
    path = tmp_path / "matmul.json"
    matmul.main(["shapes=1000x512x1024", "rounds=3", f"json={path}"])
    products = json.loads(path.read_text("utf-8"))["products"]
    assert [row["name"] for row in products] == list(PRODUCTS)
    assert all({DENSE, DENSE_TRANSPOSED} <= set(row["times"]) for row in products)
    assert all(NATIVE in row["times"] or NATIVE in row["skipped"] for row in products)


@pytest.mark.gpu
def test_every_algorithm_of_cusparselt_is_checked_on_a_gpu():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("cuSPARSELt needs compute capability 8.0")
    product = make_product("act24 dW", Shape(1024, 256, 512), BF16, torch.device("cuda"))
    right = product.error(product.masked())
    found, skipped = matmul_peers.usable_peers(
        product,
        ("cusparselt", "cusparselt-best"),
        lambda result: why_wrong(product.error(result), right),
        clock,
    )
    assert not skipped
    assert found["cusparselt-best"].config.startswith("algorithm ")
