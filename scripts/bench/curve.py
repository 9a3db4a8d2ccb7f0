"""Speed over density: COO, CSR, BSR and 2:4 against the dense product, for fc1
of ViT-B.

    python -m scripts.bench.curve json=curve.json picture=curve.png

    words    json=FILE picture=FILE (needs matplotlib) tokens=N seconds=16

y = x @ w.T with x [tokens, 768] and w [3072, 768]. The weights are random; the
mask keeps the largest magnitudes, or random blocks. On a GPU, if there is one,
in bfloat16 with the tokens of 128 images, BSR by PyTorch's Triton kernels
(`F.linear`) and 2:4 by this package's; on a CPU in float32 with those of one
image, all by PyTorch, no 2:4: nothing there multiplies it faster than dense. On
a GPU ten products are one CUDA graph, which leaves out what Python takes to
start them; COO and CSR are called one by one.

Each density times the dense product again; a speed is over that one. Rows are
printed as they come, fewest kept values first; after `seconds` the rest is
skipped, and said. Every result is compared with the dense product of the same
weight.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from scripts.bench.command import run
from scripts.bench.curve_picture import draw_curve
from sparsetrain import ops
from sparsetrain.bench.environment import commit, environment
from sparsetrain.bench.json_file import write_json
from sparsetrain.export.parts import from_parts, to_parts
from sparsetrain.reference.masks24 import unpack_bits

ROWS, COLUMNS, TOKENS_OF_AN_IMAGE = 3072, 768, 197
DENSITIES = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
BLOCKS = (16, 32, 64, 128)
LARGEST_ERROR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
_LEAST, _MOST, _ENOUGH = 2, 25, 150  # times of a candidate, and milliseconds

CAPTURED = 10
"""Products of a CUDA graph."""

Product = Callable[[], Tensor]


@dataclass(frozen=True)
class Point:
    """A product at one density. milliseconds: the fastest; speed: over dense; refused: why it did
    not run, else empty."""

    form: str
    density: float
    milliseconds: float = 0.0
    speed: float = 0.0
    refused: str = ""


def main(words: list[str]) -> None:
    started = time.perf_counter()
    options = _options(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokens = int(options.get("tokens", TOKENS_OF_AN_IMAGE * (128 if device.type == "cuda" else 1)))
    about = about_of(device, " ".join(["python -m scripts.bench.curve", *words]))
    print(f"{about['hardware']}, torch {about['torch']}: {tokens} tokens, {dtype}", flush=True)
    random = torch.Generator(device).manual_seed(0)
    x = torch.randn(tokens, COLUMNS, generator=random, device=device, dtype=dtype)
    seconds = int(options.get("seconds", 16))
    points: list[Point] = []
    for point in (each for density in DENSITIES for each in measure_density(x, density, random)):
        points.append(point)
        print(line_of(point), flush=True)
        if time.perf_counter() - started > seconds:
            print(f"the rest is skipped: {seconds} s are over", flush=True)
            break
    content = {"about": about, "tokens": tokens, "weight": [ROWS, COLUMNS], "dtype": str(dtype)}
    if "json" in options:
        write_json(Path(options["json"]), content | {"points": [asdict(p) for p in points]})
    if "picture" in options:
        title = f"x [{tokens}, {COLUMNS}] @ w [{ROWS}, {COLUMNS}].T, {about['hardware']}"
        draw_curve(Path(options["picture"]), title, points)


def measure_density(x: Tensor, density: float, random: torch.Generator) -> Iterator[Point]:
    """One point for each format that takes that density, dense first."""
    weight = torch.randn(ROWS, COLUMNS, generator=random, device=x.device, dtype=x.dtype)
    kept = max(1, round(density * weight.numel()))
    cut = weight.abs().flatten().sort(descending=True).values[kept - 1]
    scattered = weight * (weight.abs() >= cut)
    point = measure("dense", lambda: x @ scattered.T, x, scattered, None)
    dense = point.milliseconds
    yield point
    for form in ("coo", "csr"):
        sparse = from_parts(to_parts(scattered, form), form, (ROWS, COLUMNS))
        product = _later(torch.sparse.mm, sparse, x.T)
        yield measure(form, product, x, scattered, dense)
    for size in BLOCKS:
        if density * ROWS * COLUMNS < size**2:
            continue  # less than a block
        weight_of_blocks = weight * _blocks(density, size, random, x.device)
        parts = to_parts(weight_of_blocks, "bsr", (size, size))
        sparse = from_parts(parts, "bsr", (ROWS, COLUMNS))
        product = bsr_product(x, sparse)
        yield measure(f"bsr {size}", product, x, weight_of_blocks, dense)
    if density == 0.5 and x.is_cuda:
        values, meta, *_, mask, _ = ops.sparsify24(weight, "transposable")
        two_of_four = weight * unpack_bits(mask, COLUMNS)
        product = _later(ops.matmul24, values, meta, x.T)
        yield measure("2:4", product, x, two_of_four, dense)


def bsr_product(x: Tensor, weight: Tensor) -> Product:
    """PyTorch's product weight @ x.T of a BSR weight."""
    if x.is_cuda:
        return lambda: torch.nn.functional.linear(x, weight).T
    return lambda: torch.mm(weight, x.T)


def _later(function: Callable[..., Tensor], *arguments: Tensor) -> Product:
    return lambda: function(*arguments)


def _blocks(density: float, size: int, random: torch.Generator, device: torch.device) -> Tensor:
    """A mask of random blocks, one at least: bool [ROWS, COLUMNS]."""
    shape = ROWS // size, COLUMNS // size
    number = shape[0] * shape[1]
    chosen = torch.randperm(number, generator=random, device=device)
    mask = (chosen < max(1, round(density * number))).view(shape)
    return mask.repeat_interleave(size, 0).repeat_interleave(size, 1)


def measure(form: str, product: Product, x: Tensor, weight: Tensor, dense: float | None) -> Point:
    """The point of a product, which gives weight @ x.T. dense: milliseconds of the dense one, whose
    product gives x @ weight.T; None for that one."""
    density = int(weight.count_nonzero()) / weight.numel()
    try:
        y = product()
    except Exception as error:  # torch.sparse's and Triton's own; the row says it
        return Point(form, density, refused=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    expected = x @ weight.T
    error = ((y if dense is None else y.T) - expected).float().norm() / expected.float().norm()
    if not error <= LARGEST_ERROR[x.dtype]:
        return Point(form, density, refused=f"wrong: error {error.item():.1e}")
    milliseconds = _time(product, x.device, graph=form not in ("coo", "csr"))
    return Point(form, density, milliseconds, (dense or milliseconds) / milliseconds)


def _time(product: Product, device: torch.device, graph: bool) -> float:
    """The fastest of up to 25 calls, of two where they take long: others may use the machine.
    Milliseconds."""
    call, calls = product, 1
    if device.type == "cuda" and graph:
        call, calls = _captured(product), CAPTURED
    taken: list[float] = []
    while len(taken) < _LEAST or (len(taken) < _MOST and calls * sum(taken) < _ENOUGH):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        taken.append(1000 * (time.perf_counter() - start) / calls)
    return min(taken)


def _captured(product: Product) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CAPTURED):
            product()
    return graph.replay


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def line_of(point: Point) -> str:
    start = f"{point.form:<8} density {point.density:<7.4f}"
    if point.refused:
        return f"{start} refused: {point.refused}"
    return f"{start} {point.milliseconds:9.3f} ms  {point.speed:6.2f}×"


def about_of(device: torch.device, command: str) -> dict[str, str]:
    """Command, date, hardware, torch and commit of a measurement."""
    if device.type == "cuda":
        return environment(command, "none")
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text("utf-8").splitlines() if cpu.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    cores = "1 thread" if threads == 1 else f"{threads} threads"
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{next(iter(named), platform.processor())}, {cores}",
        "torch": torch.__version__,
        "commit": commit(Path(__file__).resolve().parents[2]),
    }


def _options(words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        key, _, options[key] = word.partition("=")
    for key, value in options.items():
        if key not in ("json", "picture", "tokens", "seconds") or not value:
            raise ValueError(f"{key}={value}: give json=, picture=, tokens= or seconds=")
        if key in ("tokens", "seconds") and not value.isdecimal():
            raise ValueError(f"{key}={value}: give a whole number")
    return options


if __name__ == "__main__":
    run(main, __doc__)
