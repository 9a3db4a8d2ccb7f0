"""The models of `bench step`, and what is measured of their variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from sparsetrain.bench.rounds import TOTAL
from sparsetrain.bench.timing import Times
from sparsetrain.bench.variants import DENSE, InferenceVariant, Variant


@dataclass(frozen=True)
class Vit:
    """A model of timm's and its batch: images, pixels of a side, classes."""

    name: str
    timm: str
    batch: int
    pixels: int = 224
    classes: int = 1000


MODELS = {
    vit.name: vit
    for vit in (
        Vit("vit_b", "vit_base_patch16_224", 256),
        Vit("vit_l", "vit_large_patch16_224", 128),
        Vit("vit_h", "vit_huge_patch14_224", 64),
    )
}

INFERENCE_MODELS = {
    **MODELS,
    # Segment Anything's image encoder: 4096 tokens an image, windows of 14 × 14 but in four blocks.
    "sam_h": Vit("sam_h", "samvit_huge_patch16", batch=8, pixels=1024, classes=0),
}


@dataclass(frozen=True)
class Start:
    """What the first steps of a variant say.

    held       bytes that it keeps between steps: parameters, AdamW's state, masks
    loss       on the batch, of the first step
    engines    how many sparse layers run on which
    reasons    the layers that do not run native, and why
    seconds    of the first steps, compiling included; graphs: how many were compiled
    """

    held: int
    loss: float
    engines: dict[str, int]
    reasons: tuple[str, ...]
    seconds: float
    graphs: int


@dataclass(frozen=True)
class Row:
    """What was measured of one variant.

    times    µs of each part and of a whole step
    peak     bytes: what it holds and what the step takes beside, without the other variants
    joules   of one image, None where it is not known
    """

    variant: Variant | InferenceVariant
    times: dict[str, Times]
    peak: int
    joules: float | None


@dataclass(frozen=True)
class TrainRow(Row):
    """last_loss: after all steps of the benchmark, on the same batch as the first."""

    start: Start
    last_loss: float


@dataclass(frozen=True)
class InferenceRow(Row):
    """One forward.

    held      bytes of its weights
    error     relative distance of its outputs from those of the same weights in bfloat16, eager
    engines   how many packed layers run on which
    seconds   of the first forwards, compiling included; graphs: how many were compiled
    """

    held: int
    error: float
    engines: dict[str, int]
    seconds: float
    graphs: int


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Result(Generic[R]):
    """The variants of a model.

    flops        dense, on one image: of training, or of a forward
    peak_flops   of the device per second, dense; None where it is not known
    skipped      variants that were not timed, and why
    recompiled   graphs compiled while the clock ran: none, or the times are not to be trusted
    alone        of training: whole steps of the dense model before another was made in the process
    """

    vit: Vit
    flops: float
    peak_flops: float | None
    rows: tuple[R, ...]
    skipped: dict[str, str]
    recompiled: int
    alone: Times | None = None

    @property
    def dense(self) -> R:
        return next(row for row in self.rows if row.variant.name == DENSE)

    def speed_up(self, row: Row) -> float:
        """Over the dense model, compiled."""
        return self.dense.times[TOTAL].median / row.times[TOTAL].median

    def images_per_s(self, row: Row) -> float:
        return 1e6 * self.vit.batch / row.times[TOTAL].median

    def mfu(self, row: Row) -> float | None:
        """FLOPs of the dense model over those that the device could do dense in the same time."""
        if self.peak_flops is None:
            return None
        return self.flops * self.images_per_s(row) / self.peak_flops
