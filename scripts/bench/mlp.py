"""An MLP of a training step, forward and backward, against the compiled dense
one and the peers:

  python -m scripts.bench.mlp
  python -m scripts.bench.mlp json=mlp.json picture=mlp.png
  python -m scripts.bench.mlp shapes=25216x1024x4096 \\
      variants=weights,all peers=false

shapes= TOKENSxFEATURESxHIDDEN with commas; variants= dense-eager, dense-relu2,
weights, activations, all (dense, compiled, is always there); peers= false, or
xformers-cutlass, xformers-cusparselt, torchao-weights, torchao-activations;
rounds= that count; compile= default, reduce-overhead, max-autotune or
max-autotune-no-cudagraphs (of torch.compile); json= the file for every number;
picture= a PNG of bars. Every result is compared with masked products first. The
energy is read where nvidia-ml-py is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.bench.command import run
from scripts.bench.mlp_measure import SHAPES, STEPS, UNTIMED, bench_shape
from scripts.bench.mlp_peers import PEERS
from scripts.bench.mlp_report import LEGEND, mlp_lines, mlp_panels, mlp_table, write_mlps
from scripts.bench.mlp_rows import Result
from sparsetrain.bench.bars import draw_bars, figure_class
from sparsetrain.bench.environment import environment
from sparsetrain.bench.gauges import Gauges, cuda_gauges
from sparsetrain.bench.products import Shape
from sparsetrain.bench.variants import DENSE, VARIANTS, Mode, Setting, Variant
from sparsetrain.cli.bench_words import (
    cuda_device,
    library_words,
    read_mode,
    read_names,
    read_options,
    read_path,
    read_rounds,
    read_shapes,
)
from sparsetrain.cli.console import console, print_lines, relative, show_values

_KEYS = ("shapes", "variants", "rounds", "compile", "peers", "json", "picture")
_NAMES = tuple(name for name in VARIANTS if not name.endswith(("+attn", "fp8")))
_ROUNDS = 20


@dataclass(frozen=True)
class Options:
    """What it was asked for."""

    shapes: tuple[Shape, ...]
    variants: tuple[Variant, ...]
    peers: tuple[str, ...]
    rounds: int
    mode: Mode
    json: Path | None
    picture: Path | None


def main(words: list[str]) -> None:
    """Run it with the key=value words. The file is written anew after each shape."""
    options = parse(words)
    if options.picture is not None:
        figure_class()  # now, not after minutes
    device = cuda_device()
    about = environment(" ".join(["python -m scripts.bench.mlp", *words]), library_words())
    gauges = cuda_gauges(device, UNTIMED, STEPS)
    about["energy"] = gauges.joules if isinstance(gauges.joules, str) else "NVML's counter"
    show_values(tuple(about.items()))
    setting = Setting(options.rounds, options.mode, device)
    results: list[Result] = []
    for shape in options.shapes:
        results.append(_bench(shape, options, setting, gauges))
        if options.json is not None:
            settings = {"rounds": options.rounds, "steps": STEPS, "compile": options.mode}
            write_mlps(options.json, about, settings, results)
    what = "\n".join(f"{variant.name}: {variant.what}" for variant in options.variants)
    console.print(f"\n{LEGEND}\n\n{what}", style="dim")
    if options.json is not None:
        show_values((("written", str(relative(options.json))),))
    if options.picture is not None:
        title = f"MLP forward and backward, {about['hardware'].split(',')[0]}, bfloat16 autocast"
        draw_bars(options.picture, title, "an MLP", mlp_panels(results))
        show_values((("drawn", str(relative(options.picture))),))


def _bench(shape: Shape, options: Options, setting: Setting, gauges: Gauges) -> Result:
    with console.status(str(shape)) as status:
        result = bench_shape(shape, options.variants, options.peers, setting, gauges, status.update)
    torch.cuda.empty_cache()
    console.print()
    console.print(mlp_table(result))
    print_lines(tuple(mlp_lines(result)))
    return result


def parse(words: list[str]) -> Options:
    """Read the words of _KEYS. Raises ValueError naming what is wrong."""
    options = read_options(words, _KEYS)
    names = read_names("variants", options, _NAMES)
    if DENSE not in names:
        names = (DENSE, *names)  # what the others are compared with
    return Options(
        shapes=read_shapes(options, SHAPES),
        variants=tuple(VARIANTS[name] for name in names),
        peers=_peers(options.get("peers", "true")),
        rounds=read_rounds(options, _ROUNDS),
        mode=read_mode(options),
        json=read_path("json", options),
        picture=read_path("picture", options),
    )


def _peers(text: str) -> tuple[str, ...]:
    """true: all; false: none; or their names."""
    if text in ("true", "false"):
        return PEERS if text == "true" else ()
    return read_names("peers", {"peers": text}, PEERS)


if __name__ == "__main__":
    run(main, __doc__)
