"""`bench step`: whole training steps of vision transformers, or forwards, dense and 2:4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sparsetrain.bench import inference_report, step_report
from sparsetrain.bench.bars import draw_bars, figure_class
from sparsetrain.bench.environment import environment
from sparsetrain.bench.gauges import Gauges, cuda_gauges
from sparsetrain.bench.inference import bench_inference
from sparsetrain.bench.step import STEPS, UNTIMED, bench_model
from sparsetrain.bench.step_report import PARTS, step_panels, step_table, write_steps
from sparsetrain.bench.step_rows import INFERENCE_MODELS, MODELS, Result, Vit
from sparsetrain.bench.variants import (
    DENSE,
    INFERENCE_APART,
    INFERENCE_VARIANTS,
    PEER_VARIANTS,
    VARIANTS,
    Mode,
    Setting,
)
from sparsetrain.cli.bench_words import (
    check_name,
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

_KEYS = ("mode", "models", "variants", "batch", "rounds", "compile", "json", "picture")


@dataclass(frozen=True)
class Kind:
    """What is timed. peers: variants that run only where they are named; measure: as `bench_model`;
    lines: below a table; parts: its columns before the whole's; rounds: by default; title: of a
    picture."""

    models: Mapping[str, Vit]
    variants: Mapping[str, Any]
    peers: Mapping[str, Any]
    rounds: int
    measure: Callable[..., Result[Any]]
    lines: Callable[[Any], Iterator[str]]
    legend: str
    parts: tuple[str, ...]
    whole: str
    title: str


KINDS = {
    "train": Kind(
        MODELS,
        VARIANTS,
        PEER_VARIANTS,
        10,
        bench_model,
        step_report.step_lines,
        step_report.LEGEND,
        PARTS,
        "step",
        "Training step, {}, bfloat16 autocast",
    ),
    "inference": Kind(
        INFERENCE_MODELS,
        INFERENCE_VARIANTS,
        INFERENCE_APART,
        20,
        bench_inference,
        inference_report.inference_lines,
        inference_report.LEGEND,
        (),
        "forward",
        "Inference, {}",
    ),
}
"""What `mode=` chooses from."""


@dataclass(frozen=True)
class Options:
    """What `bench step` was asked for; kind: the word of `mode=`."""

    kind: str
    vits: tuple[Vit, ...]
    variants: tuple[Any, ...]
    rounds: int
    mode: Mode
    json: Path | None
    picture: Path | None


def bench_step(words: list[str]) -> None:
    """Run it with the key=value words. The file is written anew after each model."""
    options = parse(words)
    kind = KINDS[options.kind]
    if options.picture is not None:
        figure_class()  # now, not after minutes
    device = cuda_device()
    about = environment(" ".join(["python -m sparsetrain bench step", *words]), library_words())
    gauges = cuda_gauges(device, UNTIMED, STEPS)
    about["energy"] = gauges.joules if isinstance(gauges.joules, str) else "NVML's counter"
    show_values(tuple(about.items()))
    setting = Setting(options.rounds, options.mode, device)
    results: list[Result[Any]] = []
    for vit in options.vits:
        results.append(_bench(kind, vit, options.variants, setting, gauges))
        if options.json is not None:
            settings = {"mode": options.kind, "rounds": options.rounds, "steps": STEPS}
            write_steps(options.json, about, {**settings, "compile": options.mode}, results)
    what = "\n".join(f"{variant.name}: {variant.what}" for variant in options.variants)
    console.print(f"\n{kind.legend}\n\n{what}", style="dim")
    if options.json is not None:
        show_values((("written", str(relative(options.json))),))
    if options.picture is not None:
        title = kind.title.format(about["hardware"].split(",")[0])
        panels = step_panels(results, kind.parts or ("forward",))
        draw_bars(options.picture, title, f"a {kind.whole}", panels)
        show_values((("drawn", str(relative(options.picture))),))


def _bench(
    kind: Kind, vit: Vit, variants: tuple[Any, ...], setting: Setting, gauges: Gauges
) -> Result[Any]:
    make = partial(build_network, vit.timm, vit.pixels, vit.classes)
    with console.status(vit.name) as status:
        result = kind.measure(vit, make, variants, setting, gauges, status.update)
    torch.cuda.empty_cache()
    console.print()
    console.print(step_table(result, kind.parts, kind.whole))
    print_lines(tuple(kind.lines(result)))
    return result


def parse(words: list[str]) -> Options:
    """Read the words of _KEYS. Raises ValueError naming what is wrong."""
    options = read_options(words, _KEYS)
    name = options.get("mode", "train")
    check_name("mode", name, tuple(KINDS))
    kind = KINDS[name]
    batch = read_count("batch", options)
    vits = [kind.models[name] for name in read_names("models", options, tuple(kind.models))]
    names = read_names("variants", options, tuple(kind.variants), tuple(kind.peers))
    if DENSE not in names:
        names = (DENSE, *names)  # what the others are compared with
    return Options(
        kind=name,
        vits=tuple(replace(vit, batch=batch or vit.batch) for vit in vits),
        variants=tuple({**kind.variants, **kind.peers}[name] for name in names),
        rounds=read_rounds(options, kind.rounds),
        mode=read_mode(options),
        json=read_path("json", options),
        picture=read_path("picture", options),
    )
