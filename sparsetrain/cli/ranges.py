"""What the values of a config may be: a table of key -> check, and what keys must agree on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`. above, below: without that end itself."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    null: bool = False

    def __call__(self, value: Any) -> bool:
        if value is None:
            return self.null
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and over and under

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if math.isfinite(self.high):
            ends = (
                "(["[not self.above]
                + f"{_digits(self.low)}, {_digits(self.high)}"
                + "])"[self.below]
            )
            kind += f" in {ends}"
        elif math.isfinite(self.low):
            kind += f" {'>' if self.above else '≥'} {_digits(self.low)}"
        return kind + _or_null(self.null)


@dataclass(frozen=True)
class Text:
    """Text that is not empty. what: what it names."""

    what: str = "text"
    null: bool = False

    def __call__(self, value: Any) -> bool:
        return self.null if value is None else isinstance(value, str) and value != ""

    def __str__(self) -> str:
        return self.what + _or_null(self.null)


@dataclass(frozen=True)
class Duration:
    """What Lightning takes for a time: DD:HH:MM:SS, keys as `hours`, or null."""

    def __call__(self, value: Any) -> bool:
        text = isinstance(value, str) and re.fullmatch(r"\d+(:\d+){3}", value)
        return bool(text) or value is None or isinstance(value, Mapping)

    def __str__(self) -> str:
        return "days:hours:minutes:seconds, as 00:12:00:00"


@dataclass(frozen=True)
class OneOf:
    """One of a few values. null: or none of them."""

    values: tuple[Any, ...]
    null: bool = False

    def __call__(self, value: Any) -> bool:
        # Not `in`: 1 equals True.
        same = any(value == known and type(value) is type(known) for known in self.values)
        return same or (value is None and self.null)

    def __str__(self) -> str:
        return ", ".join(map(shown, self.values)) + _or_null(self.null)


@dataclass(frozen=True)
class Items:
    """A list. count: of so many items."""

    each: Check
    count: int | None = None
    null: bool = False

    def __call__(self, value: Any) -> bool:
        if value is None:
            return self.null
        right = isinstance(value, list | tuple) and self.count in (None, len(value))
        return right and all(map(self.each, value))

    def __str__(self) -> str:
        of = "a list of" if self.count is None else f"{self.count} in a list, each"
        return f"{of} {self.each}" + _or_null(self.null)


@dataclass(frozen=True)
class Either:
    """What one of two checks takes."""

    first: Check
    second: Check

    def __call__(self, value: Any) -> bool:
        return self.first(value) or self.second(value)

    def __str__(self) -> str:
        return f"{self.first}, or {self.second}"


Check = Number | Text | Duration | OneOf | Items | Either

SEED = Number(0, 2**32 - 1, whole=True)
FLAG = OneOf((True, False))
SWITCH = OneOf((True, False), null=True)
COUNT = Number(1, whole=True)
SHARE = Number(0, 1)
POSITIVE = Number(0, above=True)
NOT_NEGATIVE = Number(0)
PART = Either(COUNT, Number(0, 1, above=True, null=True))  # so many, or a fraction

COMPILE = ("auto", True, False, "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
PRECISIONS = (
    "bf16-mixed", "16-mixed", "32-true", "bf16-true", "16-true", "64-true", 32, 16, 64, "bf16"
)  # fmt: skip

CHECKS: dict[str, Check] = {
    "seed": SEED,
    "checkpoint": Text("a file that `fit` wrote", null=True),
    "permute": FLAG,
    "engine": OneOf(("auto", "masked", "native", "aten")),
    "matmul_precision": OneOf(("highest", "high", "medium")),
    "compile": OneOf(COMPILE),
    "cpu_threads": Number(1, whole=True, null=True),
    "mix.label_smoothing": Number(0, 1, below=True),
    "mix.mixup": NOT_NEGATIVE,
    "mix.cutmix": NOT_NEGATIVE,
    "mix.prob": SHARE,
    "mix.switch_prob": SHARE,
    "mix.off_after": SHARE,
    "model.name": Text("the name of a timm model"),
    "model.img_size": COUNT,
    "model.num_classes": Number(1, whole=True, null=True),
    "model.drop_path": Number(0, 1, below=True),
    "model.attention": OneOf(("sdpa", "xformers")),
    "model.tokenizer": OneOf(("patches", "convolutions")),
    "model.options.pretrained": FLAG,
    "data.root": Text("a folder", null=True),
    "data.batch_size": COUNT,
    "data.num_workers": Number(0, whole=True),
    "data.prefetch_factor": COUNT,
    "data.img_size": COUNT,
    "data.seed": SEED,
    "data.num_classes": Number(1, whole=True, null=True),
    "data.length": COUNT,
    "data.val_length": COUNT,
    "data.val_fraction": Number(0, 1, below=True),
    "data.background": Items(Number(0, 255, whole=True), 3),
    "data.memory_gb": NOT_NEGATIVE,
    "data.image_column": Text("the name of a column", null=True),
    "data.label_column": Text("the name of a column", null=True),
    "data.cache": OneOf(("gpu",), null=True),
    "data.gpu": OneOf(("auto", "augment", "decode"), null=True),
    "data.crop_pct": Number(0, 1, above=True),
    "data.mean": Items(Number(), 3),
    "data.std": Items(POSITIVE, 3),
    "data.augment.scale": Items(Number(0, 1, above=True), 2, null=True),
    "data.augment.hflip": SHARE,
    "data.augment.auto_augment": Text("a policy of timm, or cifar10", null=True),
    "data.augment.color_jitter": Number(0, null=True),
    "data.augment.reprob": SHARE,
    "data.augment.crop_padding": Number(0, whole=True),
    "data.augment.remode": OneOf(("const", "rand", "pixel")),
    "data.augment.interpolation": OneOf(("bilinear", "bicubic", "nearest", "lanczos", "random")),
    "optimizer.lr": POSITIVE,
    "optimizer.lr_batch": Number(1, whole=True, null=True),
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.betas": Items(Number(0, 1, below=True), 2),
    "optimizer.eps": POSITIVE,
    "optimizer.warmup_epochs": NOT_NEGATIVE,
    "optimizer.warmup_lr": NOT_NEGATIVE,
    "optimizer.min_lr": NOT_NEGATIVE,
    "optimizer.layer_decay": Number(0, 1, above=True, null=True),
    "sparsity.include": Items(Text("a pattern of layers' names")),
    "sparsity.exclude": Items(Text("a pattern of layers' names")),
    "sparsity.weight.decay": NOT_NEGATIVE,
    "sparsity.weight.mvue": FLAG,
    "sparsity.weight.lr": POSITIVE,
    "sparsity.weight.drop": Number(0, 1, above=True, below=True),
    "sparsity.selection.solver": OneOf(("exact", "row", "greedy")),
    "sparsity.selection.score": OneOf(("magnitude", "squared")),
    "sparsity.format.scaling": OneOf(("row", "block", "tensor")),
    "sparsity.format.power_of_two": FLAG,
    "sparsity.activation.selection.solver": OneOf(("exact", "row", "greedy")),
    "sparsity.activation.selection.score": OneOf(("magnitude", "squared")),
    "sparsity.pattern.v": COUNT,
    "sparsity.pattern.n": COUNT,
    "sparsity.pattern.m": COUNT,
    "sparsity.pattern.nm.n": COUNT,
    "sparsity.pattern.nm.m": COUNT,
    "sparsity.pattern.block.rows": COUNT,
    "sparsity.pattern.block.columns": COUNT,
    "sparsity.pattern.block.density": Number(0, 1, above=True),
    "sparsity.pattern.block.balanced": FLAG,
    "sparsity.pattern.rows": COUNT,
    "sparsity.pattern.columns": COUNT,
    "sparsity.pattern.density": Number(0, 1, above=True),
    "sparsity.pattern.balanced": FLAG,
    "sparsity.schedule.ramp": SHARE,
    "sparsity.schedule.dense_warmup": SHARE,
    "sparsity.schedule.dense_tail": SHARE,
    "sparsity.schedule.mask_every": COUNT,
    "sparsity.schedule.freeze_at": Number(0, 1, null=True),
    "trainer.max_time": Duration(),
    "trainer.accelerator": OneOf(("auto", "cpu", "gpu", "cuda")),
    "trainer.devices": Either(OneOf(("auto", -1)), Either(COUNT, Items(Number(0, whole=True)))),
    "trainer.num_nodes": COUNT,
    "trainer.precision": OneOf(PRECISIONS),
    "trainer.max_epochs": Number(-1, whole=True, null=True),
    "trainer.max_steps": Number(-1, whole=True),
    "trainer.limit_train_batches": PART,
    "trainer.limit_val_batches": Either(Number(0, whole=True), Number(0, 1, null=True)),
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.gradient_clip_val": Number(0, null=True),
    "trainer.log_every_n_steps": Number(0, whole=True),
    "trainer.check_val_every_n_epoch": Number(1, whole=True, null=True),
    "trainer.num_sanity_val_steps": Number(-1, whole=True),
    "trainer.use_distributed_sampler": FLAG,
    "trainer.enable_model_summary": FLAG,
    "trainer.detect_anomaly": FLAG,
    "trainer.benchmark": SWITCH,
    "trainer.deterministic": OneOf((True, False, "warn"), null=True),
    "trainer.enable_progress_bar": SWITCH,
    "trainer.inference_mode": FLAG,
    "trainer.sync_batchnorm": FLAG,
    "trainer.min_epochs": Number(0, whole=True, null=True),
    "trainer.min_steps": Number(0, whole=True, null=True),
    "callbacks.checkpoint.save_top_k": Number(-1, whole=True),
    "callbacks.checkpoint.mode": OneOf(("min", "max")),
    "callbacks.last.every_n_epochs": COUNT,
    "callbacks.last.every_n_steps": Number(1, whole=True, null=True),
    "callbacks.last.every_minutes": Number(0, above=True, null=True),
    "callbacks.ema.decay": SHARE,
}
"""What each value may be. Keys that a config does not have are not asked for."""


def check_value(key: str, value: Any) -> None:
    """Raise ValueError in one line for a value that its key cannot have."""
    check = CHECKS.get(of_whole(key))
    if check is None or check(value):
        return
    if value == "":
        raise ValueError(f"{key}= is empty: give {check}")
    if isinstance(check, Items) and check([value]):
        raise ValueError(f"{key}={shown(value)} is no list: write {key}=[{shown(value)}]")
    raise ValueError(f"{key}={shown(value)}: give {check}")


def choices_of(key: str) -> tuple[str, ...]:
    """What a key can be, where that is one of a few values, as the command line writes them."""
    check = CHECKS.get(of_whole(key))
    if not isinstance(check, OneOf):
        return ()
    return tuple(map(shown, check.values + ((None,) if check.null else ())))


def check_values(get: Callable[[str], Any]) -> None:
    """Raise ValueError in one line for the first value that cannot be, or that another excludes.

    get: returns the value of a key. Raises KeyError for a key that is absent or not resolved yet.
    """
    known = check_each(get)
    for complaint in _disagreements(known):
        raise ValueError(complaint)


def check_each(get: Callable[[str], Any]) -> dict[str, Any]:
    """`check_values` of each key alone; returns the values that are known."""
    known: dict[str, Any] = {}
    for key in CHECKS:
        try:
            known[key] = get(key)
        except KeyError:
            continue
        check_value(key, known[key])
    _check_sparsity_parts(get)
    return known


def of_whole(key: str) -> str:
    """The key of the whole sparsity that one of a part of it is like."""
    return re.sub(r"^sparsity\.parts\.[^.]+", "sparsity", key)


def _check_sparsity_parts(get: Callable[[str], Any]) -> None:
    try:
        parts = get("sparsity.parts")
    except KeyError:
        return
    for name in parts or ():
        for key in CHECKS:
            whole, _, rest = key.partition(".")
            if whole == "sparsity" and not rest.startswith("schedule."):
                place = f"sparsity.parts.{name}.{rest}"
                with suppress(KeyError):
                    check_value(place, get(place))


def shown(value: Any) -> str:
    """A value as the command line writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(list(value) if isinstance(value, tuple) else value)


def _disagreements(values: dict[str, Any]) -> Iterator[str]:
    def both(first: str, second: str) -> bool:
        return values.get(first) is not None and values.get(second) is not None

    def pair(first: str, second: str) -> str:
        return f"{first}={values[first]:g} and {second}={values[second]:g}"

    warmup, epochs = "optimizer.warmup_epochs", "trainer.max_epochs"
    by_epochs = both(warmup, epochs) and values.get("trainer.max_steps", -1) == -1
    if by_epochs and 0 < values[epochs] < values[warmup]:
        yield f"{pair(warmup, epochs)}: the run ends in its warm-up; lower {warmup}"
    for end in (epochs, "trainer.max_steps"):
        if values.get(end) == 0:
            yield f"{end}=0: nothing would be trained; give what ends the run, or use `validate`"
    endless = epochs in values and values[epochs] in (-1, None)
    if endless and values.get("trainer.max_steps", -1) == -1:
        end = shown(values[epochs])
        yield f"{epochs}={end}: the cosine schedule needs an end; give it, or trainer.max_steps"
    for floor in ("optimizer.min_lr", "optimizer.warmup_lr"):
        if both(floor, "optimizer.lr") and values[floor] > values["optimizer.lr"]:
            yield f"{pair(floor, 'optimizer.lr')}: lr is the peak; lower {floor}"
    images, size = "data.img_size", "model.img_size"
    if both(images, size) and values[images] != values[size]:
        yield f"{pair(images, size)}: give {size} alone, which the data takes too"
    start, tail = "sparsity.schedule.dense_warmup", "sparsity.schedule.dense_tail"
    if both(start, tail) and values[start] + values[tail] > 1:
        yield f"{pair(start, tail)} add up to more than the whole run: lower one"
    for part in ("sparsity.selection", "sparsity.activation.selection"):
        solver, score = (values.get(f"{part}.{name}") for name in ("solver", "score"))
        if score == "squared" and solver in ("row", "greedy"):
            yield f"{part}.score=squared goes with solver=exact, not {solver}: give magnitude"
    size, mixing = values.get("data.batch_size", 0), values.get("mix.prob", 1) > 0
    if size % 2 and mixing and (values.get("mix.mixup") or values.get("mix.cutmix")):
        yield (
            f"data.batch_size={size}: mixup and cutmix mix pairs; make it even, or set mix.mixup=0 "
            "mix.cutmix=0"
        )
    low, high = values.get("data.augment.scale") or (0, 1)
    if low > high:
        yield f"data.augment.scale=[{low}, {high}]: the smaller comes first"


def _digits(value: float) -> str:
    """A whole number with all of its digits, which `:g` rounds to six."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _or_null(null: bool) -> str:
    return " or null" if null else ""
