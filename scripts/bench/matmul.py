"""The 2:4 products of an MLP against cuBLAS, cuSPARSELt, torch's CUTLASS op and
xFormers:

  python -m scripts.bench.matmul
  python -m scripts.bench.matmul json=matmul.json picture=roofline.png
  python -m scripts.bench.matmul shapes=25216x1024x4096 \\
      products=w24-forward,act24-dw
  python -m scripts.bench.matmul random=200 seed=0  is the choice ever slower?

shapes= TOKENSxFEATURESxHIDDEN with commas; products= w24-forward, w24-dx,
act24-forward, act24-dw, dz24-dx, dz24-dw; dtype= bfloat16, float16, fp8 (e4m3)
or int8 (the last two against cuBLAS in bfloat16 and PyTorch's dense products of
the dtype, without the products of dW); rounds= calls that count; peers= false,
or cusparselt, cusparselt-best, torch-cutlass, xformers, cusparselt-search (its
own search, slow), of fp8 and int8 cusparselt, cusparselt-best and, of fp8,
torchao-cutlass; json= the file for every number. Every 2:4 result is compared
with float64 first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.bench.choice import choose
from scripts.bench.command import run
from scripts.bench.matmul8 import bench8
from scripts.bench.matmul8_peers import SPARSE_PEERS8
from scripts.bench.matmul_auto import AutoRow, bench_auto, draw
from scripts.bench.matmul_measure import Row, bench_product
from scripts.bench.matmul_peers import DEFAULT_PEERS, PEERS
from scripts.bench.matmul_report import (
    AUTO_LEGEND,
    LEGEND,
    auto_lines,
    auto_table,
    product_lines,
    product_table,
    summary_lines,
    write_auto,
    write_products,
)
from scripts.bench.roofline import draw_roofline
from scripts.bench.sparsify_measure import copy_rate
from sparsetrain import products
from sparsetrain.bench.bars import figure_class
from sparsetrain.bench.environment import environment
from sparsetrain.bench.products import PRODUCTS, SHAPES, Shape, make_product
from sparsetrain.bench.products8 import E4M3, PRODUCTS8
from sparsetrain.bench.timing import Clock, cuda_clocks
from sparsetrain.cli.bench_words import (
    cuda_device,
    library_words,
    read_dtype,
    read_names,
    read_options,
    read_path,
    read_rounds,
    read_shapes,
)
from sparsetrain.cli.console import console, print_lines, relative, show_values

_KEYS = ("shapes", "products", "dtype", "rounds", "peers", "json", "picture", "random", "seed")
_ONLY_SHAPES = ("shapes", "peers", "picture")
_NOT_8_BITS = ("picture", "random", "seed")
_8_BITS = {"fp8": E4M3, "int8": torch.int8}
NAMES = {name.lower().replace(" ", "-"): name for name in PRODUCTS}
_ROUNDS = 20


@dataclass(frozen=True)
class Options:
    """What it was asked for. random: how many products to draw, 0 for `shapes`.

    narrow: the 8-bit dtype of products; dtype is then that of what they are compared with.
    """

    shapes: tuple[Shape, ...]
    products: tuple[str, ...]
    dtype: torch.dtype
    narrow: torch.dtype | None
    rounds: int
    peers: tuple[str, ...]
    json: Path | None
    picture: Path | None
    random: int
    seed: int


def main(words: list[str]) -> None:
    """Run it with the key=value words."""
    options = parse(words)
    if options.picture is not None:
        figure_class()  # now, not after a minute
    device = cuda_device()
    about = environment(" ".join(["python -m scripts.bench.matmul", *words]), library_words())
    table = products.load_table()
    about["tuned"] = f"{len(table.entries)} products" if table else "nothing"
    if table is not None:
        products.install(products.native_configs(table))
    show_values(tuple(about.items()))
    run = _bench_random if options.random else _bench_shapes
    run(options, device, about, table)


def _bench_shapes(
    options: Options, device: torch.device, about: dict[str, str], table: products.Table | None
) -> None:
    clocks = cuda_clocks()
    copy = copy_rate(device, clocks.cold, options.rounds)
    show_values((("copy", f"{copy:.2f} TB/s of 1 GiB read and 1 GiB written"),))
    sms = torch.cuda.get_device_properties(device).multi_processor_count
    rows: list[Row] = []
    for shape in options.shapes:
        with console.status(f"timing {shape}"):
            found = [
                _row(name, shape, options, device, clocks.warm, sms) for name in options.products
            ]
        rows += found
        console.print()
        console.print(product_table(found))
        print_lines(tuple(product_lines(found)))
    console.print(f"\n{LEGEND}\n", style="dim")
    print_lines(tuple(summary_lines(rows)))
    if options.json is not None:
        write_products(options.json, about, copy, options.rounds, rows)
        show_values((("written", str(relative(options.json))),))
    if options.picture is not None:
        draw_roofline(options.picture, about["hardware"].split(",")[0], copy, rows)
        show_values((("drawn", str(relative(options.picture))),))


def _row(
    name: str, shape: Shape, options: Options, device: torch.device, clock: Clock, sms: int
) -> Row:
    product = make_product(name, shape, options.dtype, device)
    if options.narrow is not None:
        row = bench8(product, options.narrow, options.peers, clock, options.rounds, sms)
    else:
        row = bench_product(product, options.peers, clock, options.rounds, sms)
    del product
    torch.cuda.empty_cache()
    return row


def _bench_random(
    options: Options, device: torch.device, about: dict[str, str], table: products.Table | None
) -> None:
    clock = cuda_clocks().warm
    sms = torch.cuda.get_device_properties(device).multi_processor_count
    entries = None if table is None else table.entries
    drawn = draw(options.random, options.seed, options.products, options.dtype)
    rows: list[AutoRow] = []
    with console.status("timing") as status:
        for number, (name, shape) in enumerate(drawn):
            status.update(f"timing {number + 1} of {len(drawn)}: {name} {shape}")
            product = make_product(name, shape, options.dtype, device, number)
            expected = products.expected_us(product.problem, sms)
            chosen = choose(product.problem, entries, expected)
            rows.append(bench_auto(product, chosen, clock, options.rounds))
            del product
            torch.cuda.empty_cache()
    console.print()
    console.print(auto_table(rows))
    console.print(f"\n{AUTO_LEGEND}\n", style="dim")
    print_lines(tuple(auto_lines(rows)))
    if options.json is not None:
        write_auto(options.json, about, options.rounds, rows)
        show_values((("written", str(relative(options.json))),))


def parse(words: list[str]) -> Options:
    """Read the words of _KEYS. Raises ValueError naming what is wrong."""
    options = read_options(words, _KEYS)
    for key in _ONLY_SHAPES if "random" in options else ("seed",):
        if key in options:
            which = "without" if "random" in options else "with"
            raise ValueError(f"{key}= goes {which} random=: leave one of them out")
    narrow = _8_BITS.get(options.get("dtype", ""))
    if narrow is not None:
        word = options.pop("dtype")
        for key in _NOT_8_BITS:
            if key in options:
                raise ValueError(f"{key}= does not go with dtype={word}: leave one of them out")
    known = {word: name for word, name in NAMES.items() if not narrow or name in PRODUCTS8}
    return Options(
        shapes=read_shapes(options, SHAPES),
        products=tuple(known[name] for name in read_names("products", options, tuple(known))),
        dtype=read_dtype(options, _8_BITS),
        narrow=narrow,
        rounds=read_rounds(options, _ROUNDS),
        peers=_peers(options.get("peers", "true"), narrow),
        json=read_path("json", options),
        picture=read_path("picture", options),
        random=_number("random", options.get("random"), 1),
        seed=_number("seed", options.get("seed"), 0),
    )


def _peers(text: str, narrow: torch.dtype | None) -> tuple[str, ...]:
    """true: those that are not slow to find; false: none; or their names."""
    known, default = (PEERS, DEFAULT_PEERS) if narrow is None else (SPARSE_PEERS8[narrow],) * 2
    if text in ("true", "false"):
        return default if text == "true" else ()
    return read_names("peers", {"peers": text}, known)


def _number(key: str, text: str | None, least: int) -> int:
    """0 where the key is not given."""
    if text is None:
        return 0
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{key}={text!r}: give a number of at least {least}")
    return int(text)


if __name__ == "__main__":
    run(main, __doc__)
