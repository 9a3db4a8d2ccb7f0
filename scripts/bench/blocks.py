"""Blocks at 70, 80 and 90 % zeros: what trained models lose, how fast PyTorch's
BSR product is.

    python -m scripts.bench.blocks json=docs/results/blocks-h200.json

    words    json=FILE  rows=FILE (of scripts/study)
             speed=FILE (written before, not measured again)

Δ top-1: blocks of 16×16 against the dense model of the same seed, of the
longest final runs among the rows, all with the same recipe and further words.
Speed: over the dense product, of fc1 of that model with a batch of 256 images,
and of fc1 of ViT-B with 128; random weights under balanced masks, in bfloat16
on a GPU; with the tokens of one image in float32 on a CPU.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from scripts.bench.command import run
from scripts.bench.curve import Point, about_of, bsr_product, line_of, measure
from sparsetrain.bench.json_file import write_json
from sparsetrain.export.parts import from_parts, to_parts
from sparsetrain.patterns import Block

ROWS = Path("docs/results/accuracy-cifar10.json")
VARIANTS = {0.3: "block70", 0.2: "block80", 0.1: "block90"}
"""Densities, and their names in scripts/study/variants.yaml."""
_BLOCKS = set(VARIANTS.values())
_STUDY = Path(__file__).parents[1] / "study" / "variants.yaml"
WORDS = yaml.safe_load(_STUDY.read_text())["variants"]


@dataclass(frozen=True)
class Layer:
    """A weight [rows, columns], the tokens of an image, the images of a batch, sizes of blocks."""

    name: str
    rows: int
    columns: int
    tokens: int
    images: int
    sizes: tuple[int, ...]

    @property
    def headers(self) -> list[str]:
        return [f"{self.name}, {size}×{size}" for size in self.sizes]


LAYERS = (
    Layer("CIFAR-10 ViT", 1024, 256, 64, 256, (16,)),
    Layer("ViT-B", 3072, 768, 197, 128, (16, 32, 64, 128)),
)


def main(words: list[str]) -> None:
    options = _options(words)
    rows = json.loads(Path(options.get("rows", ROWS)).read_text())
    if "speed" in options:
        content = json.loads(Path(options["speed"]).read_text())
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        about = about_of(device, " ".join(["python -m scripts.bench.blocks", *words]))
        print(f"{about['hardware']}, torch {about['torch']}", flush=True)
        content = {"about": about, "points": list(measured(device))}
    if "json" in options:
        write_json(Path(options["json"]), content)
    print(table(content["points"], rows))


def measured(device: torch.device) -> Iterator[dict[str, Any]]:
    """A point for each layer, density and size of blocks."""
    for layer in LAYERS:
        for density in VARIANTS:
            for size, point in measure_layer(layer, density, device):
                print(f"{layer.name:<13} {line_of(point)}", flush=True)
                yield {"layer": layer.name, "asked": density, "block": size, **asdict(point)}


def measure_layer(
    layer: Layer, density: float, device: torch.device
) -> Iterator[tuple[int, Point]]:
    """The size of the blocks, and the point of their product."""
    random = torch.Generator(device).manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokens = layer.tokens * (layer.images if device.type == "cuda" else 1)
    x = torch.randn(tokens, layer.columns, generator=random, device=device, dtype=dtype)
    weight = torch.randn(layer.rows, layer.columns, generator=random, device=device, dtype=dtype)
    dense = measure("dense", lambda: x @ weight.T, x, weight, None).milliseconds
    for size in layer.sizes:
        of_blocks = weight * Block(size, size, density).mask(weight.abs())
        sparse = from_parts(
            to_parts(of_blocks, "bsr", (size, size)), "bsr", (layer.rows, layer.columns)
        )
        yield size, measure(f"bsr {size}", bsr_product(x, sparse), x, of_blocks, dense)


def table(points: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line a density."""
    kind, finals = longest(rows)
    headers = ["zeros", "density", "Δ top-1", *(h for layer in LAYERS for h in layer.headers)]
    lines = [kind, "", f"| {' | '.join(headers)} |", f"|{' --- |' * len(headers)}"]
    for density, variant in VARIANTS.items():
        kept = {row["density"] for row in finals if row["variant"] == variant}
        cells = [
            f"{1 - density:.0%}",
            f"{statistics.fmean(kept):.3f}" if kept else "–",
            difference(finals, variant),
            *(speed(points, layer, density, size) for layer in LAYERS for size in layer.sizes),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def longest(rows: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The rows of the longest runs with blocks, those on test images before others, and what they
    are."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        known = WORDS[row["variant"]]["words"].split()
        further = tuple(word for word in row["words"] if word not in known)
        key = not row["choose"], row["epochs"], further, row.get("recipe_digest")
        groups.setdefault(key, []).append(row)
    of_blocks = [key for key, group in groups.items() if {r["variant"] for r in group} & _BLOCKS]
    if not of_blocks:
        return "no rows of blocks yet", []
    key = max(of_blocks, key=lambda key: (*key[:2], max(row["date"] for row in groups[key])))
    final, epochs, further, _ = key
    images = "test images" if final else "held-out training images"
    return ", ".join((f"{epochs} epochs", images, *further)), groups[key]


def difference(rows: Sequence[dict[str, Any]], variant: str) -> str:
    """Mean difference to the dense runs of the same seeds ± its standard error."""
    top1 = {(r["variant"], r["seed"]): r["top1_val"] if r["choose"] else r["top1"] for r in rows}
    seeds = [seed for name, seed in top1 if name == variant and ("dense", seed) in top1]
    deltas = [top1[variant, seed] - top1["dense", seed] for seed in seeds]
    if len(deltas) < 2:
        return f"{deltas[0]:+.2f} (one seed)" if deltas else "–"
    error = statistics.stdev(deltas) / math.sqrt(len(deltas))
    return f"{statistics.fmean(deltas):+.2f} ± {error:.2f} ({len(deltas)} seeds)"


def speed(points: Sequence[dict[str, Any]], layer: Layer, density: float, size: int) -> str:
    for point in points:
        if (point["layer"], point["asked"], point["block"]) == (layer.name, density, size):
            return "did not run" if point["refused"] else f"{point['speed']:.2f}×"
    return "–"


def _options(words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        key, _, options[key] = word.partition("=")
        if key not in ("json", "rows", "speed") or not options[key]:
            raise ValueError(f"{word}: give json=, rows= or speed=")
    return options


if __name__ == "__main__":
    run(main, __doc__)
