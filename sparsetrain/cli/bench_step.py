"""`bench step`: whole training steps of vision transformers, dense and 2:4."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from sparsetrain.bench.bars import draw_bars, figure_class
from sparsetrain.bench.environment import environment
from sparsetrain.bench.gauges import Gauges, cuda_gauges
from sparsetrain.bench.step import STEPS, UNTIMED, bench_model
from sparsetrain.bench.step_report import (
    LEGEND,
    step_lines,
    step_panels,
    step_table,
    write_steps,
)
from sparsetrain.bench.step_rows import MODELS, Result, Vit
from sparsetrain.bench.variants import DENSE, VARIANTS, Mode, Setting, Variant
from sparsetrain.cli.bench_words import (
    cuda_device,
    library_words,
    read_count,
    read_mode,
    read_names,
    read_options,
    read_path,
    read_rounds,
)
from sparsetrain.cli.console import console, print_lines, relative, show_values
from sparsetrain.lightning.network import build_network

_KEYS = ("models", "variants", "batch", "rounds", "compile", "json", "picture")
_ROUNDS = 10


@dataclass(frozen=True)
class Options:
    """What `bench step` was asked for."""

    vits: tuple[Vit, ...]
    variants: tuple[Variant, ...]
    rounds: int
    mode: Mode
    json: Path | None
    picture: Path | None


def bench_step(words: list[str]) -> None:
    """Run it with the key=value words. The file is written anew after each model."""
    options = parse(words)
    if options.picture is not None:
        figure_class()  # now, not after minutes
    device = cuda_device()
    about = environment(" ".join(["python -m sparsetrain bench step", *words]), library_words())
    gauges = cuda_gauges(device, UNTIMED, STEPS)
    about["energy"] = gauges.joules if isinstance(gauges.joules, str) else "NVML's counter"
    show_values(tuple(about.items()))
    setting = Setting(options.rounds, options.mode, device)
    results: list[Result] = []
    for vit in options.vits:
        results.append(_bench(vit, options.variants, setting, gauges))
        if options.json is not None:
            settings = {"rounds": options.rounds, "steps": STEPS, "compile": options.mode}
            write_steps(options.json, about, settings, results)
    what = "\n".join(f"{variant.name}: {variant.what}" for variant in options.variants)
    console.print(f"\n{LEGEND}\n\n{what}", style="dim")
    if options.json is not None:
        show_values((("written", str(relative(options.json))),))
    if options.picture is not None:
        title = f"Training step, {about['hardware'].split(',')[0]}, bfloat16 autocast"
        draw_bars(options.picture, title, "a step", step_panels(results))
        show_values((("drawn", str(relative(options.picture))),))


def _bench(vit: Vit, variants: tuple[Variant, ...], setting: Setting, gauges: Gauges) -> Result:
    make = partial(build_network, vit.timm, vit.pixels, vit.classes)
    with console.status(vit.name) as status:
        result = bench_model(vit, make, variants, setting, gauges, status.update)
    torch.cuda.empty_cache()
    console.print()
    console.print(step_table(result))
    print_lines(tuple(step_lines(result)))
    return result


def parse(words: list[str]) -> Options:
    """Read the words of _KEYS. Raises ValueError naming what is wrong."""
    options = read_options(words, _KEYS)
    batch = read_count("batch", options)
    vits = [MODELS[name] for name in read_names("models", options, tuple(MODELS))]
    names = read_names("variants", options, tuple(VARIANTS))
    if DENSE not in names:
        names = (DENSE, *names)  # what the others are compared with
    return Options(
        vits=tuple(replace(vit, batch=batch or vit.batch) for vit in vits),
        variants=tuple(VARIANTS[name] for name in names),
        rounds=read_rounds(options, _ROUNDS),
        mode=read_mode(options),
        json=read_path("json", options),
        picture=read_path("picture", options),
    )
