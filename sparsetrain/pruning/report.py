"""What pruning did to each layer."""

from __future__ import annotations

from dataclasses import dataclass

from sparsetrain.nn import Report, grouped, shape_text


@dataclass(frozen=True)
class PrunedLayer:
    """One layer. density: the share of the weight that is not zero. error: ‖X (W − Ŵ)ᵀ‖ / ‖X Wᵀ‖
    on the calibration data, None where the Gram matrix of its inputs was not collected."""

    name: str
    shape: tuple[int, int]
    density: float
    error: float | None


@dataclass(frozen=True)
class PruneReport:
    """layers: in the order in which they were pruned. sparsified: what became of each layer of the
    model, those that stay dense with the reason."""

    layers: tuple[PrunedLayer, ...]
    sparsified: Report

    @property
    def density(self) -> float:
        """Share of all pruned weights that is not zero."""
        sizes = [layer.shape[0] * layer.shape[1] for layer in self.layers]
        kept = sum(n * layer.density for n, layer in zip(sizes, self.layers, strict=True))
        return kept / sum(sizes)

    @property
    def dense(self) -> tuple[str, ...]:
        """A line for each kind of layer that stays dense, with the reason."""
        return tuple(
            f"{row.name}{f' ({count})' if count > 1 else ''}, {shape_text(row.shape)}: {row.reason}"
            for row, count in grouped(self.sparsified.dense)
        )

    def __str__(self) -> str:
        wide = max(len(layer.name) for layer in self.layers)
        lines = [f"{len(self.layers)} layers pruned to a density of {self.density:.3f}"]
        for layer in self.layers:
            error = "" if layer.error is None else f"  output error {layer.error:.4f}"
            lines.append(f"{layer.name:<{wide}}  {layer.density:.3f}{error}")
        return "\n".join([*lines, *(f"dense: {line}" for line in self.dense)])
