"""Check the transposable masks of many random 4x4 tiles, on the GPU where there
is one.

    python scripts/check_tiles.py [tiles=100_000_000] [json=FILE]

For each rule, each distribution and each dtype: tiles whose mask from the
kernel is not the reference's, tiles without exactly two per row and column,
and what a mask keeps (the sum of magnitudes, of squares for l2) as a share of
the best of all 90, in float64. Ends with status 1 if a mask differs, or keeps
less than 99.9 % of the best, or 99.999 % on average. Without a GPU the masks
are the reference's own.

Dimension key:  T tiles   P the 90 patterns
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from help_text import answer_help
from torch import Tensor

from sparsetrain import native, ops
from sparsetrain.bench.environment import commit, environment
from sparsetrain.reference.masks24 import PATTERNS, select24, tiles24, unpack_bits
from sparsetrain.select import Rule

LEAST, LEAST_MEAN = 0.999, 0.99999
COLUMNS = 4096
TILES_AT_ONCE = 2**20  # [T, 90] in float64 is 755 MB

RULES: dict[Rule, Callable[[Tensor], Tensor]] = {
    "transposable": torch.abs,
    "transposable_l2": torch.square,
}
"""What each rule makes the most of."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass
class Line:
    """One line of the table. least and mean: shares of the best, over tiles that are not all 0."""

    rule: Rule
    tiles: str
    dtype: str
    count: int = 0
    other_masks: int = 0
    not_two: int = 0
    least: float = 1.0
    mean: float = 0.0
    zeros: int = 0

    @property
    def holds(self) -> bool:
        exact = self.other_masks == 0 and self.not_two == 0
        return exact and self.least >= LEAST and self.mean >= LEAST_MEAN


def gaussian(x: Tensor) -> Tensor:
    return x.normal_()


def heavy_tailed(x: Tensor) -> Tensor:
    """Student's t with two degrees of freedom: its variance is infinite."""
    return x.normal_() / torch.empty_like(x).exponential_().sqrt()


def post_relu(x: Tensor) -> Tensor:
    """Squared ReLU of a normal: half are 0."""
    return x.normal_().relu_().square_()


def quantized(x: Tensor) -> Tensor:
    """About nine values: nearly every tile has ties."""
    return x.normal_().mul_(1.5).round_()


KINDS = (gaussian, heavy_tailed, post_relu, quantized)


def matrices(kind: Callable[[Tensor], Tensor], dtype: torch.dtype, tiles: int) -> Iterator[Tensor]:
    """Matrices of at least that many tiles together."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tile_rows = -(-tiles * 4 // COLUMNS)
    at_once = TILES_AT_ONCE * 4 // COLUMNS
    for start in range(0, tile_rows, at_once):
        rows = 4 * min(at_once, tile_rows - start)
        yield kind(torch.empty(rows, COLUMNS, device=device)).to(dtype)


def mask_of(x: Tensor, rule: Rule) -> Tensor:
    """The mask from the kernel that packs; on a CPU only the mask is made."""
    return ops.sparsify24(x, rule)[4] if x.is_cuda else ops.select24(x, rule)


@torch.no_grad()
def check(line: Line, x: Tensor, rule: Rule) -> None:
    """Add the tiles of x to a line. Its mean is a sum until the end."""
    mask = mask_of(x, rule)
    differs_T = tiles24(unpack_bits(mask ^ select24(x, rule), COLUMNS)).flatten(1).any(dim=1)
    mask_T44 = tiles24(unpack_bits(mask, COLUMNS))
    two_T = (mask_T44.sum(dim=1) == 2).all(dim=1) & (mask_T44.sum(dim=2) == 2).all(dim=1)
    worth_T16 = RULES[rule](tiles24(x).double()).flatten(1)
    best_T = (worth_T16 @ PATTERNS.flatten(1).to(x.device, torch.float64).T).amax(dim=1)
    share_T = ((worth_T16 * mask_T44.flatten(1)).sum(dim=1) / best_T)[best_T > 0]
    line.count += two_T.numel()
    line.other_masks += int(differs_T.sum())
    line.not_two += int((~two_T).sum())
    line.zeros += two_T.numel() - share_T.numel()
    if share_T.numel() > 0:
        line.least = min(line.least, share_T.min().item())
        line.mean += share_T.sum().item()


def run(tiles: int) -> list[Line]:
    """Divide the tiles among distributions and dtypes; both rules see all of them."""
    lines = []
    cases = [(kind, dtype) for kind in KINDS for dtype in DTYPES]
    for kind, dtype in cases:
        words = kind.__name__.replace("_", " "), str(dtype).removeprefix("torch.")
        of_rule: dict[Rule, Line] = {rule: Line(rule, *words) for rule in RULES}
        for x in matrices(kind, dtype, -(-tiles // len(cases))):
            for rule, line in of_rule.items():
                check(line, x, rule)
        for line in of_rule.values():
            line.mean /= max(line.count - line.zeros, 1)
        lines += of_rule.values()
    return lines


def write_json(path: Path, about: dict[str, str], lines: list[Line]) -> None:
    """Write every line, atomically."""
    content = {"about": about, "lines": [asdict(line) for line in lines]}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(unfinished, path)


def where() -> dict[str, str]:
    """What checked what, on which machine. Raises SystemExit for a GPU without the kernels."""
    command = " ".join(["python", *sys.argv])
    if not torch.cuda.is_available():
        return {
            "command": command,
            "hardware": "CPU: the reference against itself",
            "torch": torch.__version__,
            "commit": commit(Path(__file__).resolve().parent.parent),
        }
    library = native.load()
    if library.path is None:
        sys.exit(f"no kernel library: {library.reason}; {library.fix}")
    return environment(command, f"{library.path.parent.name}/{library.path.name}")


def main() -> None:
    answer_help(__doc__)
    options = {"tiles": "100_000_000", "json": ""}
    for word in sys.argv[1:]:
        key, _, value = word.partition("=")
        if key not in options or not value:
            sys.exit(f"{word!r}: give tiles=NUMBER or json=FILE")
        options[key] = value
    about = where()
    torch.manual_seed(0)
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    lines = run(int(options["tiles"]))
    names = f"{'rule':16}{'tiles':14}{'dtype':10}{'count':>12}"
    print(f"{names}  other masks  not two      least       mean")
    for line in lines:
        names = f"{line.rule:16}{line.tiles:14}{line.dtype:10}{line.count:12,}"
        counts = f"{line.other_masks:11}  {line.not_two:7}"
        print(f"{names}  {counts}  {line.least:.7f}  {line.mean:.7f}")
    if options["json"]:
        write_json(Path(options["json"]), about, lines)
    failed = [line for line in lines if not line.holds]
    print(f"{len(failed)} of {len(lines)} lines do not hold" if failed else "all of it holds")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
