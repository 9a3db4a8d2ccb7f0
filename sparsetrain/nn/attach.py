"""What a training loop adds: masks, phases and decay around `optimizer.step()`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from sparsetrain.nn.attached import Attached
from sparsetrain.nn.for_inference import refuse_packed
from sparsetrain.nn.given import check_module
from sparsetrain.nn.masks import phased_layers
from sparsetrain.nn.optimizers import refuse_unfit, stepping
from sparsetrain.schedule import check_total


def attach(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    total_steps: int | None = None,
    check: bool = True,
) -> Attached:
    """Run masks, phases and the methods' updates in an optimizer's steps; the loop stays.

        st.sparsify(model, sparsity)
        optimizer = torch.optim.AdamW(model.parameters())
        st.attach(model, optimizer, total_steps=90_000)

    Give one optimizer or several: each advances the layers whose weights it holds. Of wrappers
    (Lookahead, SAM, Accelerate's) the inner optimizer is taken. Parameter groups that are added
    later are found. Call it after DDP or FSDP2 wraps the model, and again for a new optimizer: it
    resumes at the step of the last one. Attaching twice changes nothing.

    total_steps: optimizer steps of the whole run, of which the schedule takes fractions; None for
        a run without an end. A step that a GradScaler skips does not count.
    check: watch the first sparse step, without compiled code, and raise RuntimeError where a weight
        that is reported sparse is read past its layer. False trusts the model.

    Layers whose weights no optimizer holds (a frozen backbone, a teacher) are in the phase of the
    others.

    Warns where a layer that `sparsify` converted was replaced since by a dense one.

    Raises ValueError where the model is not sparse, an optimizer cannot be hooked, none holds a
    weight of a sparse layer or two the same, a method cannot train with it (STEP is of Adam), or a
    schedule in fractions meets no total_steps. A step raises RuntimeError where no attached
    optimizer holds a weight that trains. Returns a handle; `detach()`, or leaving it as a context,
    undoes it.
    """
    check_module(model)
    layers = phased_layers(model)
    if not layers:
        refuse_packed(model, "attach")
        raise ValueError("model: it has no sparse layers; call sparsify(model, …) first")
    for schedule in {layer.phase.schedule for layer in layers}:
        check_total(schedule, total_steps)
    optimizers = stepping(optimizer)
    refuse_unfit(layers, optimizers)
    _tell_replaced(model)
    return Attached(model, optimizers, total_steps, check)


def _tell_replaced(model: nn.Module) -> None:
    """Warn where a layer that `sparsify` made is another linear layer now, which was not there."""
    inside = set(model.modules())
    phases = {layer.phase for layer in phased_layers(model)}
    made = {made: None for phase in phases for made in phase.made}
    gone = [one.name for one in made if one.replaced(inside)]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        warnings.warn(
            f"model: {gone[0]}{more} was made sparse, and replaced since by a dense layer: call "
            "sparsify after what replaces layers (resize_token_embeddings, reset_classifier)",
            stacklevel=3,
        )
