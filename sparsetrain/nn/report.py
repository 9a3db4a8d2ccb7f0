"""What became of each layer of a model, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LayerReport:
    """One layer. shape: (out, in) of a linear layer, (in, hidden, out) of an MLP; runs: what it
    computes; engine: on what, and why that; reason: why it stayed dense, empty for a converted
    layer."""

    name: str
    shape: tuple[int, ...]
    runs: str
    engine: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Shares:
    """How much of the model is sparse, as fractions.

    parameters: of all, those of sparse weights. flops: of those that `flops_of` names, the ones of
    sparse products. Where no tokens are known, a token passes through each linear layer once, and
    the products within attention are left out.
    """

    parameters: float
    flops: float
    flops_of: str

    def __str__(self) -> str:
        parameters, flops = f"{self.parameters:.1%}", f"{self.flops:.1%}"
        return f"sparse: {parameters} of the parameters, {flops} of the FLOPs {self.flops_of}"


@dataclass(frozen=True)
class Report:
    """The result of one `sparsify` call, layer by layer; prints as a table.

    converted, skipped: linear layers and MLPs. unreached: sizeable matrices in no `nn.Linear`.
    shares: how much of the model is sparse; None where nothing was to be.
    notes: what the methods want of the training loop. kernels: why a GPU has no kernels and what
    to do, else empty. fused: how many MLPs run as one function, and why others do not.
    fp8: which products of the layers in that format read 8 bits, and which do not; else empty.
    """

    converted: tuple[LayerReport, ...]
    skipped: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    kernels: str = ""
    fused: str = ""
    fp8: str = ""
    unreached: tuple[LayerReport, ...] = ()
    shares: Shares | None = None

    @property
    def dense(self) -> tuple[LayerReport, ...]:
        """Everything that stays dense: skipped and unreached."""
        return self.skipped + self.unreached

    def __str__(self) -> str:
        lines = [f"{len(self.converted)} layers sparse, {len(self.skipped)} dense"]
        lines += [str(self.shares)] if self.shares else []
        rows = [(r.name, shape_text(r.shape), r.runs, r.engine) for r in self.converted]
        rows += [
            (f"{r.name} ({n})" if n > 1 else r.name, shape_text(r.shape), "dense", r.reason)
            for r, n in [*((r, 1) for r in self.skipped), *grouped(self.unreached)]
        ]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        for row in rows:
            cells = [text.ljust(width) for text, width in zip(row[:3], widths, strict=True)]
            lines.append("  ".join([*cells, row[3]]).rstrip())
        return "\n".join([*lines, *self.notes, *filter(None, [self.fused, self.fp8, self.kernels])])


def shape_text(shape: tuple[int, ...]) -> str:
    """(3072, 768) as 3072×768."""
    return "×".join(map(str, shape))


def grouped(rows: tuple[LayerReport, ...]) -> list[tuple[LayerReport, int]]:
    """Rows that differ only in the numbers of their names, as one row and how many there are.

    `blocks.0.mlp.fc1` … `blocks.11.mlp.fc1` become (`blocks.*.mlp.fc1`, 12); one alone keeps its
    name.
    """
    groups: dict[LayerReport, list[LayerReport]] = {}
    for row in rows:
        parts = ["*" if part.isdigit() else part for part in row.name.split(".")]
        groups.setdefault(replace(row, name=".".join(parts)), []).append(row)
    return [(key if len(alike) > 1 else alike[0], len(alike)) for key, alike in groups.items()]


def one_function_note(outcome: Mapping[str, str], fused: str) -> str:
    """A line for the MLPs that are one function, and for each reason why others are not.

    outcome: the reason by name, empty for those that are. fused: what those run.
    """
    lines = []
    for why, count in sorted(Counter(outcome.values()).items()):
        how = f"not as one function, so slower: {why}" if why else fused
        lines.append(f"{count} MLP{'' if count == 1 else 's'}: {how}.")
    return "\n".join(lines)
