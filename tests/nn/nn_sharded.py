"""The small model of the distributed tests, how it is wrapped, and a few steps of training."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from nn_checks import Mlp, normal, seeded
from nn_ranks import gathered, own_half
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW
from torch.utils.checkpoint import checkpoint

import sparsetrain as st
from sparsetrain.nn import phased_layers

ENCODER = ("blocks.*",)
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
WEIGHTS = st.Sparsity(include=ENCODER, weight=st.SRSTE(decay=0.1))
ACTIVATIONS = st.Sparsity(include=("*.mlp.*",), weight=None, activation=st.Activation24())
ALL = st.Sparsity(include=ENCODER, weight=st.SRSTE(decay=0.1), activation=st.Activation24())
METHODS = {
    "movement": st.Sparsity(include=ENCODER, weight=st.Movement(), pattern=st.Block(4, 4, 0.5)),
    "learned": st.Sparsity(include=ENCODER, weight=st.LearnedScores(), pattern=st.Block(4, 4, 0.5)),
    "rigl": st.Sparsity(include=ENCODER, weight=st.RigL(), pattern=st.Unstructured(0.5)),
}
"""Those that look at gradients."""
VARIANTS = {"weights": WEIGHTS, "activations": ACTIVATIONS, "all": ALL}

IMAGES = normal(8, 4, 8, seed=1)
"""Two halves of 16 tokens: no tile of four tokens lies in both."""
LABELS = normal(8, 4, 3, seed=2)


class Block(nn.Module):
    """Half of a transformer's: a linear layer of 12 features, of which a rank holds 6, a tile and
    a half; and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.norm = nn.LayerNorm(8)
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.back(self.proj(x))
        return x + self.mlp(self.norm(x))


class Model(nn.Module):
    """Two blocks and a head. checkpointed: the blocks run again in the backward."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 3)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = (
                cast(Tensor, checkpoint(block, x, use_reentrant=False))
                if self.checkpointed
                else block(x)
            )
        return self.head(x)


class Uneven(nn.Module):
    """Two ranks hold 3 and 2 rows of the first layer, 1 and none of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.five = nn.Linear(8, 5)
        self.one = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.five(x)[..., :3] + self.one(x)


def sparse_model(
    sparsity: st.Sparsity, checkpointed: bool = False, seed: int = 0, mask_every: int = 1
) -> Any:
    """The model, made sparse, of the same small numbers on every rank."""
    model = seeded(Model(checkpointed), seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.2)
    st.sparsify(model, replace(sparsity, schedule=st.Schedule(mask_every=mask_every)))
    return model


def sharded(
    model: Any,
    policy: MixedPrecisionPolicy | None = None,
    *,
    alone: bool = False,
    blocks: bool = True,
) -> Any:
    """The model given to FSDP2, over both ranks or on each alone; and before it each block."""
    mesh = init_device_mesh("cpu", (2, 1) if alone else (1, 2), mesh_dim_names=("apart", "within"))
    for module in (*model.blocks, model) if blocks else (model,):
        fully_shard(module, mesh=mesh["within"], mp_policy=policy or MixedPrecisionPolicy())
    return model


def wrapped(model: Any, strategy: Literal["ddp", "fsdp2"]) -> Any:
    return DistributedDataParallel(model) if strategy == "ddp" else sharded(model)


def adamw(model: nn.Module) -> AdamW:
    return AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=1.0)


def step(model: nn.Module, optimizer: Any, halved: bool = True) -> float:
    """A step of the optimizer on this rank's half of the batch; the loss of the whole batch."""
    images, labels = (own_half(IMAGES), own_half(LABELS)) if halved else (IMAGES, LABELS)
    loss = nn.functional.mse_loss(model(images).float(), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses = gathered(loss.item()) if halved else [loss.item()]
    return sum(losses) / len(losses)


def leave_whole(model: nn.Module) -> None:
    """A forward without a backward, after which the root of FSDP2 is not sharded."""
    with torch.no_grad():
        model(IMAGES)
    assert not any(isinstance(weight, DTensor) for weight in model.parameters())


def train(model: nn.Module, steps: int = 4, halved: bool = True) -> list[float]:
    """The losses of a few steps of AdamW, attached while the model is sparse."""
    optimizer = adamw(model)
    with st.attach(model, optimizer) if phased_layers(model) else nullcontext():
        return [step(model, optimizer, halved) for _ in range(steps)]


def full(tensor: Tensor) -> Tensor:
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach()


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter, gathered, by its name in the model that is not wrapped."""
    named = model.named_parameters()
    return {name.removeprefix("module."): full(value).clone() for name, value in named}


def assert_same_weights(model: nn.Module, other: nn.Module, atol: float = 1e-6) -> None:
    ours, theirs = whole_weights(model), whole_weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )
