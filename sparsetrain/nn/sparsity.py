"""What is to be sparse, how and when: the description that `sparsify` follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsetrain.methods import SSTE, STE, ActivationDropout24, ActivationMethod
from sparsetrain.patterns import NM, Fixed, Pattern, Selected
from sparsetrain.products import FP8
from sparsetrain.schedule import Schedule
from sparsetrain.select import EXACT, ROW, Selection

_KINDS: tuple[tuple[str, Any, str], ...] = (
    ("weight", STE | SSTE | None, "an instance, as STE() or SRSTE(), or None"),
    ("activation", ActivationMethod | None, "an instance, as Activation24(), or None"),
    ("format", FP8 | None, "FP8() or None"),
    ("pattern", Pattern, "an instance, as NM(2, 4), Block(64, 64, 0.2) or Unstructured(0.1)"),
    ("selection", Selection, 'an instance, as Selection("exact") or Selection("row")'),
)


@dataclass(frozen=True)
class Part:
    """One rule: which layers, what may be non-zero in them, how it is chosen and trained.

    include: globs over module names (`fnmatch`; `*` matches dots as well).
    exclude: globs taken out of those.
    weight: method for the weights of linear layers, None to leave them dense.
    activation: 2:4 hidden activations, or 2:4 dropout of them, for the MLPs whose two linears are
        included, or None.
    pattern: what may be non-zero in a weight. selection: how a 2:4 mask is chosen, alone
        or in blocks; other patterns keep the largest magnitudes.
    format: FP8 multiplies 2:4 weights and activations, and what they are multiplied with, in 8
        bits, but for gradients of weights; None in 16.

    Raises ValueError for what does not go together.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    weight: STE | SSTE | None = field(default_factory=STE)
    activation: ActivationMethod | None = None
    pattern: Pattern = field(default_factory=NM)
    selection: Selection = EXACT
    format: FP8 | None = None

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            value = getattr(self, name)
            globs = tuple(value) if isinstance(value, Iterable) else (value,)
            if isinstance(value, str) or not all(isinstance(glob, str) for glob in globs):
                given = [value] if isinstance(value, str) else ["*mlp*"]
                raise ValueError(f"{name}={value!r}: give a list of globs, as {given}")
            object.__setattr__(self, name, globs)
        for name, kinds, fix in _KINDS:
            value = getattr(self, name)
            if isinstance(value, type):
                raise ValueError(f"{name}={value.__name__}: give an instance, {value.__name__}()")
            if not isinstance(value, kinds):
                raise ValueError(f"{name}={value!r}: give {fix}")
        if self.weight and (why := self.weight.why_not(self.pattern)):
            raise ValueError(f"weight={self.weight} with pattern={self.pattern}: {why}")
        if isinstance(self.weight, SSTE):
            object.__setattr__(self, "selection", ROW)  # its threshold is of each four in a row
        if isinstance(self.pattern, NM) and self.pattern != NM(2, 4):
            raise ValueError(f"pattern={self.pattern}: n:m weights can be 2:4; use NM(2, 4)")
        if not isinstance(self.pattern, NM):
            self._check_other_pattern()
        if self.format is not None:
            self._check_format(self.format)
        if self.activation is None or self.weight is None:
            return
        if isinstance(self.weight, SSTE) or self.weight.mvue or not self.selection.both:
            raise ValueError(
                f"weight={self.weight}, selection={self.selection} with "
                f"activation={self.activation}: all six products of an MLP need 2:4 masks in both "
                "orientations and take grad weight from the activations; use STE or SRSTE with "
                "mvue=False and the exact selection"
            )

    def _check_format(self, format: FP8) -> None:
        """Products in 8 bits are of 2:4 weights and of 2:4 activations alone."""
        soft = isinstance(self.weight, SSTE)
        if self.dense or soft or not isinstance(self.pattern, NM):
            raise ValueError(
                f"format={format} with weight={self.weight}, pattern={self.pattern}: products in "
                "fp8 are of 2:4 weights; use STE, SRSTE or another method of masks with NM(2, 4)"
            )
        if isinstance(self.activation, ActivationDropout24):
            raise ValueError(
                f"format={format} with activation={self.activation}: 2:4 dropout has no products "
                "in fp8; leave one of them out"
            )

    def _check_other_pattern(self) -> None:
        """Of what 2:4 tensor cores and S-STE do, other patterns have nothing."""
        method = self.weight
        if self.activation is not None or isinstance(method, SSTE) or (method and method.mvue):
            raise ValueError(
                f"pattern={self.pattern} with weight={method}, activation={self.activation}: "
                "S-STE, MVUE and 2:4 activations are of 2:4 weights; use STE, SRSTE or STEP with "
                "mvue=False, and no activation"
            )
        if self.selection != EXACT and not isinstance(self.pattern, Selected):
            raise ValueError(
                f"selection={self.selection} with pattern={self.pattern}: a selection chooses 2:4 "
                "masks; other patterns keep the largest magnitudes: leave selection out"
            )

    @property
    def dense(self) -> bool:
        """Nothing is to be made sparse."""
        return self.weight is None and self.activation is None


@dataclass(frozen=True)
class Sparsity(Part):
    """Which layers of a model become sparse, how, and when.

    One rule, given by the fields of `Part`; or `parts`, several by name, of which the first whose
    globs name a layer holds for it, of those that include and exclude here leave. Raises ValueError
    for other fields of `Part` beside parts.
    schedule: phases and mask updates, for `attach` and the callback `SparsifyModel`.
    """

    schedule: Schedule = field(default_factory=Schedule)
    parts: Mapping[str, Part] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"schedule={self.schedule!r}: give an instance, as Schedule()")
        parts: Any = self.parts
        if not isinstance(parts, Mapping) or not all(isinstance(p, Part) for p in parts.values()):
            raise ValueError(f"parts={parts!r}: give a dict of them by name, as {{'mlp': Part()}}")
        default, what = Part(), ("weight", "activation", "pattern", "selection", "format")
        given = [name for name in what if getattr(self, name) != getattr(default, name)]
        if self.parts and given:
            raise ValueError(
                f"{given[0]}={getattr(self, given[0])} beside parts: a layer takes that of its "
                f"part; give it to those of {', '.join(self.parts)} that are to have it"
            )
        if self.schedule.ramp and all(isinstance(part.pattern, Fixed) for part in self.rules):
            fixed = ", ".join(sorted({str(part.pattern) for part in self.rules}))
            raise ValueError(
                f"schedule.ramp={self.schedule.ramp}: the density of {fixed} cannot fall (n "
                "of m are kept): set ramp=0, or give a pattern that has one to choose (Block)"
            )

    @property
    def rules(self) -> tuple[Part, ...]:
        """The rules in order; one if it has no parts."""
        return tuple(self.parts.values()) or (self,)

    @property
    def dense(self) -> bool:
        """Nothing is to be made sparse."""
        return all(part.weight is None and part.activation is None for part in self.rules)


def check_sparsity(sparsity: object) -> None:
    """Raise ValueError for what is none: a recipe's name, a pattern, a list of globs."""
    if isinstance(sparsity, Sparsity):
        return
    fix = "an instance, as Sparsity(['*mlp*']); names of recipes go into recipe="
    if isinstance(sparsity, Pattern):
        fix = f"Sparsity(pattern={sparsity!r})"
    raise ValueError(f"sparsity={sparsity!r}: give {fix}")
