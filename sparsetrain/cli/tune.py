"""`tune`: measure what runs each product of a model fastest here, and keep it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

import torch
from rich.table import Table as Shown

from sparsetrain import native
from sparsetrain.bench.products import PRODUCTS, SHAPES, Product, Shape, make_product
from sparsetrain.bench.products8 import E4M3, PRODUCTS8, Quantized, problem_in, quantized
from sparsetrain.bench.timing import cuda_clocks
from sparsetrain.bench.tune import Tuned, tune_product
from sparsetrain.cli.bench_words import read_dtype, read_options, read_rounds, read_shapes
from sparsetrain.cli.check import check
from sparsetrain.cli.console import console, print_lines, relative, show_values
from sparsetrain.cli.known import FILES
from sparsetrain.cli.overrides import check_form, split_word, take, take_allowed, with_recipe_file
from sparsetrain.cli.tune_layers import Named, products_of_recipe
from sparsetrain.nn.engine import why_not_native
from sparsetrain.products import (
    Table,
    install,
    load_table,
    machine_key,
    native_configs,
    table_path,
    tile_names,
    write_table,
)
from sparsetrain.recipe import compose, nearest
from sparsetrain.targets import checked

_KEYS = ("recipe", "shapes", "dtype", "rounds")
_ROUNDS = 20


@dataclass(frozen=True)
class Options:
    """What `tune` was asked for. recipe: words that compose one, else the shapes count; allowed:
    the targets that it may name beside sparsetrain's own."""

    recipe: list[str] | None
    shapes: tuple[Shape, ...]
    dtype: torch.dtype
    rounds: int
    allowed: frozenset[str]


def tune(words: list[str]) -> None:
    """Tune the products of `recipe=` or `shapes=`; what is measured is kept after each."""
    options = parse(words)
    library = _library()
    # A broken table is refused before a minute is spent.
    table = load_table() or Table(machine_key(library))
    show_values((("gpu", table.key.gpu), ("driver", table.key.driver), ("torch", table.key.torch)))
    device = torch.device("cuda", torch.cuda.current_device())
    products = _products(options)
    clock, tiles = cuda_clocks().warm, tile_names()
    measured: list[tuple[Named, Tuned]] = []
    with console.status("tuning") as status:
        for number, named in enumerate(products):
            status.update(f"tuning {number + 1} of {len(products)}: {_title(named)}")
            product = _made(named, device)
            tuned = tune_product(product, tiles, install, clock, options.rounds)
            table = table.with_entry(product.problem, tuned.entry)
            write_table(table)
            measured.append((named, tuned))
            del product
            torch.cuda.empty_cache()
    install(native_configs(table))
    console.print(_shown(measured))
    print_lines(tuple(_refused(measured)))
    mean = geometric_mean([tuned.entry.speed_up for _, tuned in measured])
    kept = f"{relative(table_path(table.key))} ({len(table.entries)} products)"
    show_values((("geometric mean", f"{mean:.2f}×"), ("kept in", kept)))


def parse(words: list[str]) -> Options:
    """Read `recipe=` or `shapes=`, `dtype=`, `rounds=`. Raises ValueError naming what is wrong."""
    allowed, words = take_allowed(words)
    check_form(words)
    for word in words:
        key = split_word(word)[0]
        if key not in _KEYS:
            raise ValueError(f"{key}= is no option of tune: {nearest(key, _KEYS)}")
    recipe, others = take(words, "recipe")
    options = read_options(others, _KEYS)
    chosen = None
    if recipe is not None:
        if any(split_word(word)[0] == "shapes" for word in others):
            raise ValueError("recipe= and shapes= say the same in two ways: leave one of them out")
        chosen = with_recipe_file([f"recipe={recipe}"])
        check(chosen, allowed)
    shapes, rounds = read_shapes(options, SHAPES), read_rounds(options, _ROUNDS)
    if chosen is not None and options.get("dtype") == "fp8":
        raise ValueError(
            "dtype='fp8' with recipe=: the recipe says what is in fp8; leave dtype= out"
        )
    dtype = read_dtype(options, {} if chosen is not None else {"fp8": E4M3})
    return Options(chosen, shapes, dtype, rounds, allowed)


def _products(options: Options) -> list[Named]:
    """Each problem once: the forward of fc1 is the grad input of fc2, as a product."""
    if options.recipe is None:
        names = PRODUCTS8 if options.dtype == E4M3 else PRODUCTS
        named = [(name, shape, options.dtype) for shape in options.shapes for name in names]
    else:
        parts = ("model", "sparsity", "data")
        config = checked(compose(options.recipe), FILES, options.allowed, parts)
        named = products_of_recipe(config, options.dtype)
    once = {problem_in(*each): each for each in reversed(named)}
    return list(reversed(once.values()))


def _made(named: Named, device: torch.device) -> Product | Quantized:
    name, shape, dtype = named
    if dtype == E4M3:
        return quantized(make_product(name, shape, torch.bfloat16, device))
    return make_product(name, shape, dtype, device)


def _title(named: Named) -> str:
    name, shape, dtype = named
    return f"{name}{' fp8' if dtype == E4M3 else ''} {shape}"


def _library() -> Path:
    """The path of the loaded library. Raises ValueError where nothing can be tuned."""
    if not torch.cuda.is_available():
        raise ValueError(
            "tune needs a CUDA device and none was found; `python -m sparsetrain doctor` says why"
        )
    library = native.require()
    reason = why_not_native(torch.cuda.get_device_capability(), library)
    if not reason and not torch._C._dispatch_has_kernel("sparsetrain::_matmul24_table"):
        reason = "this kernel library takes no measured table"
    if reason:
        fix = f"; {library.fix}" if library.fix else ""
        raise ValueError(f"there is nothing to tune: {reason}{fix}")
    assert library.path is not None, "it has products"
    return library.path


def _shown(measured: list[tuple[Named, Tuned]]) -> Shown:
    shown = Shown(box=None, pad_edge=False, header_style="dim")
    for head in ("product", "tokens×features×hidden", "fastest"):
        shown.add_column(head, no_wrap=True)
    for head in ("µs", "dense µs", "speed-up"):
        shown.add_column(head, justify="right", no_wrap=True)
    for named, tuned in measured:
        name, shape, entry = *_title(named).rsplit(" ", 1), tuned.entry
        what = entry.engine if entry.config is None else f"{entry.engine} {entry.config}"
        numbers = f"{entry.us:.1f}", f"{entry.dense_us:.1f}", f"{entry.speed_up:.2f}×"
        shown.add_row(name, shape, what, *numbers)
    return shown


def _refused(measured: list[tuple[Named, Tuned]]) -> list[str]:
    """Each reason once, with how often and where it came up first."""
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    for named, tuned in measured:
        for what, why in tuned.refused.items():
            first.setdefault(why, f"{what} for {_title(named)}")
            count[why] = count.get(why, 0) + 1
    return [f"not timed: {first[why]}: {why} ({count[why]} times)" for why in first]
