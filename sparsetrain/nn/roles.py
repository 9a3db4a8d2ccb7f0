"""Which children of an MLP do what, whatever their names."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from torch import Tensor, nn

from sparsetrain.nn.for_inference import ForInference

ACTIVATIONS = ("act", "activation_fn", "act_fn", "activation")
"""Names of the activation between fc1 and fc2: timm's, and those of transformers."""
_ACTIVATION = re.compile(r"(^|_)act(_fn|ivation(_fn|_function)?)?$")
_KINDS = (nn.GELU, nn.ReLU, nn.SiLU)
_NORMS = (nn.LayerNorm, nn.RMSNorm)


class Roles(NamedTuple):
    """Names of the children of an MLP: fc2(act(fc1(x))), and timm's of those that may be absent.

    drops: dropouts between act and fc2; norm: what normalizes there; after: the dropout after fc2;
    before: the norm in front of fc1 (vit-pytorch).
    """

    fc1: str = "fc1"
    act: str = "act"
    fc2: str = "fc2"
    drops: tuple[str, ...] = ("drop1", "drop")
    norm: str = "norm"
    after: str = "drop2"
    before: str = ""

    @property
    def between(self) -> tuple[str, ...]:
        """All from fc1 to fc2."""
        return self.fc1, self.act, *self.drops, self.norm, self.fc2

    @property
    def known(self) -> frozenset[str]:
        """All there may be."""
        return frozenset((*self.between, self.after, self.before))


def roles_of(module: nn.Module) -> Roles | None:
    """The roles of the children of an MLP; None for other modules.

    MLPs are those with timm's children, fc1, act and fc2, or transformers', which name the
    activation otherwise (`ACTIVATIONS`). So are those with two linear layers under other names,
    an activation, dropouts, and nothing else, as torchvision's, a Sequential. A Sequential may
    begin with a norm, as vit-pytorch's. The order of the children then gives their roles. A dropout
    that does not lie between act and fc2 is taken for the last. `trial.py` tries whether the
    forward agrees.
    """
    kept = getattr(module, "roles", None)  # of an MLP that was converted, and so may be mixed
    if isinstance(kept, Roles):
        return kept
    if all(isinstance(getattr(module, name, None), nn.Module) for name in ("fc1", "fc2")):
        acts = (n for n in ACTIVATIONS if isinstance(getattr(module, n, None), nn.Module))
        act = next(acts, None)
        return None if act is None else Roles(act=act)
    return _roles_by_order(module)


def fc1_of(module: nn.Module) -> Any:
    """The first linear layer of an MLP."""
    return getattr(module, known_roles(module).fc1)


def fc2_of(module: nn.Module) -> Any:
    """The second linear layer of an MLP."""
    return getattr(module, known_roles(module).fc2)


def act_of(module: nn.Module) -> Any:
    """The activation of an MLP."""
    return getattr(module, known_roles(module).act)


def norm_of(module: nn.Module) -> Any:
    """The norm before fc2, or None."""
    return getattr(module, known_roles(module).norm, None)


def after_of(module: nn.Module) -> Any:
    """The dropout after fc2, or None."""
    return getattr(module, known_roles(module).after, None)


def normed(module: nn.Module, x: Tensor) -> Tensor:
    """What fc1 is given for an input of the MLP."""
    before = known_roles(module).before
    return getattr(module, before)(x) if before else x


def put_act(module: nn.Module, act: nn.Module) -> None:
    """Give an MLP another activation, under the name of the old one."""
    module._modules[known_roles(module).act] = act


def is_activation(name: str, child: nn.Module) -> bool:
    """Whether a child is an activation, by its name or its class."""
    return bool(_ACTIVATION.search(name)) or isinstance(child, _KINDS)


def known_roles(module: nn.Module) -> Roles:
    """`roles_of` an MLP."""
    roles = roles_of(module)
    assert roles is not None, "asked of an MLP"
    return roles


def _roles_by_order(module: nn.Module) -> Roles | None:
    children: dict[str, Any] = dict(module.named_children())
    names = list(children)
    linears = [n for n in names if isinstance(children[n], (nn.Linear, ForInference))]
    acts = [n for n in names if n not in linears and is_activation(n, children[n])]
    if len(linears) != 2 or len(acts) != 1:
        return None
    (fc1, fc2), (act,) = linears, acts
    in_row = isinstance(module, nn.Sequential)
    before = names[0] if in_row and isinstance(children[names[0]], _NORMS) else ""
    rest = [n for n in names if n not in (fc1, act, fc2, before)]
    between = [n for n in names[names.index(act) : names.index(fc2)] if n in rest]
    after = [n for n in rest if n not in between]
    follow = children[fc1].out_features == children[fc2].in_features
    drops = all(isinstance(children[n], (nn.Dropout, nn.Identity)) for n in rest)
    order = [n for n in (before, fc1, act, *between, fc2, *after) if n]
    if not (follow and drops) or len(after) > 1 or (in_row and order != names):
        return None
    return Roles(fc1, act, fc2, tuple(between), "", "".join(after), before)
