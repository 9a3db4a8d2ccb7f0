"""The handle that `attach` returns: hooks around the steps of optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from sparsetrain.nn import check as first_step
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.look import look
from sparsetrain.nn.masks import phased_layers
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.optimizers import held_by, learns, refuse_shared, skipped, trains
from sparsetrain.nn.phase import Phase
from sparsetrain.nn.sharded import wrapped
from sparsetrain.nn.state import load_sparse_state, sparse_state
from sparsetrain.nn.step_masks import StepMasks

Layer = SparseLinear | SparseMlp


class Attached:
    """Optimizers that advance a sparse model, until `detach()`.

    masks: how they are chosen, and whether flips are counted.
    """

    def __init__(
        self, model: nn.Module, optimizers: list[Optimizer], total: int | None, check: bool
    ) -> None:
        self.model, self.optimizers, self.total = model, optimizers, total
        self._names = {module: name for name, module in model.named_modules()}
        self.masks = StepMasks(self._names)
        self._checks = check
        self._phases: dict[Optimizer, Phase] = {}
        self._told: dict[Phase, int] = {}  # the step at which `progress` was told last
        self._layers: dict[Optimizer, list[Layer]] = {}
        self._held: dict[Optimizer, set[int]] = {}
        self._joined: list[Layer] = []  # watched from the next step on
        self._patched: set[nn.Module] = set()
        first_step.patched(self._names, self._patched)
        self._unheld: list[SparseLinear] = []  # watched with the first optimizer's
        self._held_checked = False
        self._sharded = wrapped(model)
        self._reshard()
        refuse_shared(phased_layers(model), optimizers, self._names)
        for held in optimizers:
            self._find(held)
        self._take_unheld()
        self._hooks = [o.register_step_pre_hook(self._before) for o in optimizers]
        self._hooks += [o.register_step_post_hook(self._after) for o in optimizers]

    @property
    def phase(self) -> Phase | None:
        """Where the layers of the first optimizer that holds any are."""
        return next(iter(self._phases.values()), None)

    @property
    def idle(self) -> list[str]:
        """Layers that were not seen to train sparse so far."""
        return [self._names[layer] for layer in first_step.idle(self._names)]

    def progress(self, done: float | None) -> None:
        """Say which share of the run is done, where the number of steps is only known from that: a
        loop of its own may accumulate batches as it likes."""
        for phase in self._phases.values():
            # Between two steps `done` grows, and the number of steps does not.
            if done and phase.step and self._told.get(phase) != phase.step:
                phase.total, self._told[phase] = max(1, round(phase.step / done)), phase.step

    def state_dict(self) -> dict[str, Any]:
        """`sparse_state` of the model."""
        return sparse_state(self.model)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`; see `load_sparse_state`."""
        load_sparse_state(self.model, state)
        first_step.stop(m for m in phased_layers(self.model) if m.phase.checked)

    def detach(self) -> None:
        """Undo it: phases and masks stay as they are, until a next `attach` begins at step 0."""
        for hook in self._hooks:
            hook.remove()
        own = {id(phase) for phase in self._phases.values()}
        # A layer whose phase is another was attached again since.
        first_step.stop(m for m in phased_layers(self.model) if id(m.phase) in own)
        for phase in self._phases.values():
            phase.loaded = False
            phase.held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.detach()

    def _find(self, optimizer: Optimizer, frozen: Sequence[Layer] = ()) -> None:
        """Take over the layers whose weights the optimizer holds since, and frozen ones."""
        known, held = self._layers.setdefault(optimizer, []), held_by(optimizer)
        self._held[optimizer] = held
        new = [m for m in phased_layers(self.model) if id(trains(m)) in held and m not in known]
        new += frozen
        if not new:
            return
        old = max((m.phase for m in new), key=lambda p: (p.attached or p.loaded, p.step))
        later, goes_on = optimizer in self._phases, old.attached or old.loaded
        phase = self._phases.setdefault(optimizer, old.another(self.total))
        for layer in new:
            layer.phase.held.discard(layer)
            layer.phase = phase
            phase.held.add(layer)
        if not later:
            # Frozen from the start, and trained before: as pruning chose them, or the run before.
            phase.keeps = old.frozen and old.schedule.freeze_at == 0 and old.step > 0
            if goes_on:
                phase.load(old.state())
        known += new
        if not goes_on:
            self._enter(optimizer, phase.step)
        first_step.stop(new)  # an attachment before this one may have begun
        if later:
            self._joined += new  # this one's forward is over
        elif self._checks and not phase.checked:
            first_step.begin(m for m in new if m.phase.sparse)

    def _take_unheld(self) -> None:
        """Have what no optimizer holds follow the phase of what the first one holds. Where all is
        frozen, the steps of the first one count."""
        layers = phased_layers(self.model)
        if self.phase is None and self.optimizers and not any(map(learns, layers)):
            self._find(self.optimizers[0], layers)
        free = [m for m in layers if m not in m.phase.held]
        if self.phase is None:
            missed = [self._names[m] for m in free if learns(m)]
            if missed:
                more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
                raise ValueError(
                    f"optimizer: none that was given holds the weight of {missed[0]}{more}, which "
                    "trains: give the one that steps it, made after the model was wrapped or loaded"
                )
        for layer in free:
            layer.phase = self.phase or layer.phase
        new = [m for m in _linears(free) if m not in self._unheld]
        self._unheld += new
        if self._checks and self.optimizers:
            first_step.begin(m for m in new if m.phase.sparse and not m.phase.checked)

    def _reshard(self) -> None:
        for module in self._sharded:  # found once: a walk through the model takes a millisecond
            module.reshard()

    def _own(self, optimizer: Optimizer) -> list[Layer]:
        # A layer whose phase is another was attached again since.
        phase = self._phases.get(optimizer)
        return [m for m in self._layers[optimizer] if m.phase is phase]

    def _unheld_of(self, optimizer: Optimizer) -> list[SparseLinear]:
        phase = self._phases.get(optimizer)
        return [m for m in self._unheld if m.phase is phase and m not in m.phase.held]

    def _masked(self, optimizer: Optimizer) -> list[SparseLinear]:
        """Those whose masks follow its steps: its own, and what nobody holds with the first's."""
        return [*_linears(self._own(optimizer)), *self._unheld_of(optimizer)]

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._reshard()
        if self._held[optimizer] != held_by(optimizer):
            self._names |= {module: name for name, module in self.model.named_modules()}
            self._find(optimizer)
            self._take_unheld()
        layers = self._own(optimizer)
        lost = [m for m in self._masked(optimizer) if _lost_mask(m)]
        self.masks.choose(optimizer, lost, first=True)
        if layers and layers[0].phase.step == 0:
            # The weights may have been loaded, or made the same on all ranks, since.
            self._start(optimizer, layers)
            self.masks.choose(optimizer, self._masked(optimizer), first=True)
        self.masks.before_step(_linears(layers))
        # Set by a GradScaler on optimizers that unscale in their own kernel.
        scale = getattr(optimizer, "grad_scale", None)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        if closure is None:
            self._after_backward(optimizer, scale)
            return None

        def and_decay() -> Any:
            loss = closure()
            self._after_backward(optimizer, scale)
            return loss

        return args[:1], {"closure": and_decay}

    def _after_backward(self, optimizer: Optimizer, scale: Tensor | None) -> None:
        self._reshard()
        layers = self._own(optimizer)
        lost = first_step.let_go(_linears(layers), self._held[optimizer])
        watched = first_step.idle(layers)
        unheld = self._unheld_of(optimizer)
        waiting = watched or first_step.idle(unheld)
        if waiting or lost or not self._held_checked:
            self._held_checked = True
            first_step.check_held(self._names)
        if waiting:
            first_step.look([*layers, *unheld], self._names)
        if watched:
            layers[0].phase.checked = layers[0].phase.sparse and not first_step.idle(layers)
        look(optimizer, _linears(layers), scale)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        layers = self._own(optimizer)
        if layers and not skipped(optimizer):
            self._reshard()
            if layers[0].phase is self.phase:  # of hundreds, in the backward, one looks
                self._joined += first_step.patched(self._names, self._patched)
            self._enter(optimizer, layers[0].phase.step + 1)

    def _enter(self, optimizer: Optimizer, step: int) -> None:
        """Be in the phase of an optimizer step, with the masks that are due for its forward."""
        layers, phase = self._own(optimizer), self._phases[optimizer]
        begins = phase.enter(step)
        if begins:
            self._start(optimizer, layers)
        self.masks.choose(optimizer, self._masked(optimizer), first=step == 0)
        first = [*layers, *self._unheld_of(optimizer)]
        joined = [m for m in self._joined if m in first]
        self._joined = [m for m in self._joined if m not in first]
        if self._checks and phase.sparse:
            first_step.begin(first if begins and not phase.checked else joined)

    def _start(self, optimizer: Optimizer, layers: list[Layer]) -> None:
        linears = [m for m in _linears(layers) if m.phase.sparse]
        for layer in linears:
            layer.start()
        for method in dict.fromkeys(layer.method for layer in linears):
            method.begin(optimizer)


def _linears(layers: list[Layer]) -> list[SparseLinear]:
    return [m for m in layers if isinstance(m, SparseLinear)]


def _lost_mask(layer: SparseLinear) -> bool:
    """Whether weights were loaded, which drops masks, although those of this phase stay."""
    return layer.mask is None and layer.phase.frozen
