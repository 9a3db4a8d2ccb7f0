"""What is measured of an MLP."""

from __future__ import annotations

from dataclasses import dataclass

from sparsetrain.bench.products import Shape
from sparsetrain.bench.rounds import TOTAL
from sparsetrain.bench.timing import Times
from sparsetrain.bench.variants import DENSE


@dataclass(frozen=True)
class Row:
    """What was measured of one candidate.

    runs      'compiled' or 'eager'
    times     µs of each part and of a whole step
    peak      bytes that a step takes at most, above what was there before
    joules    of a step, None where it is not known
    error     relative, the worst of y and all gradients; see ERROR, ERROR_OF_PEER
    engines   how many sparse layers run on which; reasons: what is said of them
    """

    name: str
    runs: str
    times: dict[str, Times]
    peak: int
    joules: float | None
    error: float
    engines: dict[str, int]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """The candidates of a shape.

    peak_flops   of the device per second, dense; None where it is not known
    skipped      candidates that were not timed, and why
    recompiled   graphs compiled while the clock ran: none, or the times are not to be trusted
    """

    shape: Shape
    peak_flops: float | None
    rows: tuple[Row, ...]
    skipped: dict[str, str]
    recompiled: int

    def speed_up(self, row: Row) -> float:
        """Over the dense MLP, compiled."""
        dense = next(row for row in self.rows if row.name == DENSE)
        return dense.times[TOTAL].median / row.times[TOTAL].median

    def rate(self, row: Row) -> float:
        """TFLOP/s of the six dense products in the candidate's time."""
        shape = self.shape
        return 12 * shape.tokens * shape.features * shape.hidden / row.times[TOTAL].median / 1e6

    def mfu(self, row: Row) -> float | None:
        """That rate over what the device can do dense."""
        return None if self.peak_flops is None else 1e12 * self.rate(row) / self.peak_flops
