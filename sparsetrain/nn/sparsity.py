"""What a model's sparsity is: which layers, which method, when."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsetrain.methods import SSTE, STE, Activation24
from sparsetrain.schedule import Schedule


@dataclass(frozen=True)
class Sparsity:
    """Which layers of a model become 2:4, how, and when.

    include: globs over module names (`fnmatch`; `*` matches dots as well).
    exclude: globs taken out of those.
    weight: method for the weights of linear layers, None to leave them dense.
    activation: 2:4 hidden activations for the MLPs whose two linears are included, or None.
    schedule: phases and mask updates, for the callback `SparsifyModel`.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    weight: STE | SSTE | None = field(default_factory=STE)
    activation: Activation24 | None = None
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name}={value!r}: give a list of globs, as [{value!r}]")
            object.__setattr__(self, name, tuple(value))
        for name in ("weight", "activation"):
            value = getattr(self, name)
            if isinstance(value, type):
                raise ValueError(f"{name}={value.__name__}: give an instance, {value.__name__}()")
        if self.activation is None or self.weight is None:
            return
        if isinstance(self.weight, SSTE) or self.weight.mvue or self.weight.rule == "row":
            raise ValueError(
                f"weight={self.weight} with activation={self.activation}: all six products of an "
                "MLP need 2:4 masks in both orientations and take grad weight from the "
                "activations; use STE or SRSTE with rule='transposable' and mvue=False"
            )

    @property
    def dense(self) -> bool:
        """Nothing is to be made sparse."""
        return self.weight is None and self.activation is None
