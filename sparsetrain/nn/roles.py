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

    drops: dropouts between act and fc2; norm: what normalizes there; after: the dropout behind fc2;
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
    an activation, dropouts, and nothing else: torchvision's, a Sequential of them, before which
    vit-pytorch has a LayerNorm. There the order
    of the children says what is what, and a dropout that is not between act and fc2 is the one
    behind; whether their forward does that is tried (`trial.py`).
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
    """What normalizes before fc2, None where nothing does."""
    return getattr(module, known_roles(module).norm, None)


def after_of(module: nn.Module) -> Any:
    """The dropout behind fc2, None where there is none."""
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
    children = list(module.named_children())
    linears = [n for n, child in children if isinstance(child, (nn.Linear, ForInference))]
    if len(linears) != 2 or not _follow(*(getattr(module, n) for n in linears)):
        return None
    acts = [n for n, child in children if n not in linears and is_activation(n, child)]
    before = _norm_before(module, linears[0])
    rest = [n for n, _ in children if n not in (*linears, *acts, before)]
    drops = all(isinstance(getattr(module, n), (nn.Dropout, nn.Identity)) for n in rest)
    if len(acts) != 1 or not drops:
        return None
    names = [n for n, _ in children]
    first, act, second = (names.index(n) for n in (linears[0], acts[0], linears[1]))
    between = tuple(n for n in names[act + 1 : second] if n in rest)
    after = [n for n in rest if n not in between]
    in_order = first < act < second and not {*after} - {*names[second:]}
    if len(after) > 1 or (isinstance(module, nn.Sequential) and not in_order):
        return None
    return Roles(linears[0], acts[0], linears[1], between, "", "".join(after), before)


def _norm_before(module: nn.Module, fc1: str) -> str:
    """The name of the norm that a Sequential begins with, before fc1; empty without."""
    children = dict(module.named_children())
    first, second = [*children][:2]
    norm = isinstance(module, nn.Sequential) and isinstance(children[first], _NORMS)
    return first if norm and second == fc1 else ""


def _follow(first: Any, second: Any) -> bool:
    return first.out_features == second.in_features
