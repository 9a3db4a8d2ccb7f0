"""Where a run stands: one object that the layers of one optimizer share and read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from torch import nn
from typing_extensions import Self

from sparsetrain import schedule as schedules
from sparsetrain.schedule import Schedule


class Phase:
    """Dense warm-up, sparse or dense tail, at an optimizer step.

    schedule: when it changes, and when masks are due. total: optimizer steps of the whole run, None
        for a run without an end. step: optimizer steps done.
    name: the phase of the next step, `sparse` until something says otherwise. trained: that of the
        last step done, in which an evaluation runs.
    frozen: masks stay as they are. masks_step: before which masks were chosen last, -1 without one.
    held: the layers whose weights an attached optimizer holds; others follow. loaded: it was
        restored, and the next `attach` goes on from it. checked: its first sparse step was watched.
        keeps: frozen masks are of a run before this one.
    made: where `sparsify` put its layers (`nn.made`); a pickled phase does not know.

    A copy of an attached model shares the phase of its original, so that an average of weights is
    evaluated in the phase that the weights are trained in. Attaching an optimizer to the copy gives
    it its own.
    """

    def __init__(self, schedule: Schedule, total: int | None = None) -> None:
        self.schedule, self.total, self.step = schedule, total, 0
        self.name = self.trained = "sparse"
        self.masks_step = -1
        self._entered = False
        self.held: WeakSet[nn.Module] = WeakSet()
        self.frozen = self.loaded = self.checked = self.keeps = False
        self.made: tuple[Any, ...] = ()

    @property
    def name(self) -> schedules.Phase:
        return self._name

    @name.setter
    def name(self, name: schedules.Phase) -> None:
        self._name: schedules.Phase = name
        self._sparse = name == "sparse"

    @property
    def trained(self) -> schedules.Phase:
        return self._trained

    @trained.setter
    def trained(self, name: schedules.Phase) -> None:
        self._trained: schedules.Phase = name
        self._trained_sparse = name == "sparse"

    def another(self, total: int | None) -> Phase:
        """A phase of its own for some of the layers, with this schedule."""
        new = Phase(self.schedule, total)
        new.made = self.made
        return new

    @property
    def attached(self) -> bool:
        """Whether an optimizer advances it (`attach`)."""
        return len(self.held) > 0

    @property
    def in_step(self) -> tuple[str, str]:
        """What of the schedule only an attached optimizer brings about, and what is without; empty
        where it is attached, or has no dense phase."""
        if self.attached or not (self.schedule.dense_warmup or self.schedule.dense_tail):
            return "", ""
        return "the schedule", "its dense phases never come"

    @property
    def sparse(self) -> bool:
        """Whether the next step trains sparse."""
        return self._sparse

    def runs_sparse(self, training: bool) -> bool:
        """Whether a forward in that mode is sparse. Compiled code depends on this alone, and not on
        the name: a dense tail runs the graph of the dense warm-up."""
        return self._sparse if training else self._trained_sparse

    def set(self, sparse: bool) -> None:
        """Run sparse or dense from now on, whatever the schedule says."""
        self.name = self.trained = "sparse" if sparse else "dense_warmup"

    def enter(self, step: int) -> bool:
        """Go to optimizer step `step`; whether a sparse phase begins with it."""
        was, before = self.sparse and self._entered, self.name
        self.step = step
        self._derive()
        self.trained, self._entered = before if self._entered else self.name, True
        return self.sparse and not was

    def _derive(self) -> None:
        self.name = schedules.phase(self.schedule, self.step, self.total)
        self.frozen = schedules.frozen(self.schedule, self.step, self.total)

    @property
    def mask_due(self) -> bool:
        """Whether masks are chosen before the forward of this step."""
        return schedules.mask_due(self.schedule, self.step, self.total)

    def density(self, end: float, ahead: int = 0) -> float:
        """The share that a pattern of density `end` keeps in the next step, or in one ahead."""
        return schedules.density(self.schedule, self.step + ahead, self.total, end)

    @property
    def due_next(self) -> bool:
        """Whether masks are chosen before the forward of the step after this one."""
        return schedules.mask_due(self.schedule, self.step + 1, self.total)

    @property
    def freezes_next(self) -> bool:
        """Whether masks stay after this step as they are in it."""
        return schedules.frozen(self.schedule, self.step + 1, self.total)

    def masks_done(self, ahead: int = 0) -> float:
        """Of the steps in which masks change, the share before the next step, or one ahead."""
        return schedules.masks_done(self.schedule, self.step + ahead, self.total)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "phase": self.name,
            "trained": self.trained,
            "step": self.step,
            "masks_step": self.masks_step,
            "frozen": self.frozen,
            "checked": self.checked,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore `state()`. Where an optimizer is attached, its schedule says what the step is:
        the run may have another length now."""
        self.name, self.step = state["phase"], state["step"]
        self.trained, self.masks_step = state["trained"], state["masks_step"]
        self.frozen, self.checked, self.loaded = state["frozen"], state["checked"], True
        self._entered = True
        if self.attached:
            self._derive()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("held", "made")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self.held, self.made = WeakSet(), ()  # a saved model has no optimizer

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; every part is as it was after it, whatever happened inside."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def all_dense(model: nn.Module) -> Iterator[None]:
    """Run every layer dense inside, whatever its phase."""
    dense = Phase(Schedule())
    dense.set(False)
    layers: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "phase", None), Phase)]
    phases = [layer.phase for layer in layers]
    for layer in layers:
        layer.phase = dense
    try:
        yield
    finally:
        for layer, phase in zip(layers, phases, strict=True):
            layer.phase = phase
