"""The training of scripts/check_distributed.py: a ViT under DDP or FSDP2."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import sparsetrain as st
from sparsetrain.bench.variants import VARIANTS, prepare


@dataclass(frozen=True)
class Options:
    """As scripts/check_distributed.py documents them."""

    model: str = "vit_large_patch16_224"
    batch: int = 128
    steps: int = 30
    strategy: str = "ddp"
    variant: str = "all+attn"
    compile: bool = True
    bucket: int = 100
    gradients: str = "float32"
    checkpoint: bool = True
    keep: str = ""
    resume: str = ""
    json: str = ""


def parse(words: list[str]) -> Options:
    """Options of key=value. Raises ValueError for what is not one of them."""
    defaults = asdict(Options())
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if len(given) < len(words) or not given.keys() <= defaults.keys():
        raise ValueError(f"{' '.join(words)}: give {', '.join(f'{name}=…' for name in defaults)}")
    read = {str: str, int: int, bool: {"true": True, "false": False}.__getitem__}
    values: dict[str, Any] = {}
    for name, text in given.items():
        kind = type(defaults[name])
        try:
            values[name] = read[kind](text)
        except (ValueError, KeyError):
            fix = "true or false" if kind is bool else "a whole number"
            raise ValueError(f"{name}={text}: give {fix}") from None
    options = Options(**values)
    for value, known in (
        (options.strategy, ("ddp", "fsdp2")),
        (options.variant, VARIANTS),
        (options.gradients, ("float32", "bfloat16")),
    ):
        if value not in known:
            raise ValueError(f"{value}: choose one of {', '.join(known)}")
    return options


class Training:
    """The model on this rank's device and its optimizer; `step` is one of training."""

    def __init__(self, options: Options, device: torch.device) -> None:
        torch.manual_seed(0)  # FSDP2 takes from each rank its part
        with device:
            self.model: Any = timm.create_model(options.model)
        prepare(self.model, VARIANTS[options.variant])
        wrap = self._ddp if options.strategy == "ddp" else self._fsdp2
        self.forward = wrap(options, device)
        st.update_masks(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        torch.manual_seed(1 + dist.get_rank())
        _, height, width = self.model.default_cfg["input_size"]
        self.images = torch.randn(options.batch, 3, height, width, device=device)
        self.labels = torch.randint(self.model.num_classes, (options.batch,), device=device)

    def step(self) -> torch.Tensor:
        """Returns the loss before it, of this rank's batch."""
        with self.autocast():
            logits = self.forward(self.images)
        loss = F.cross_entropy(logits.float(), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def losses(self, number: int) -> list[float]:
        """Of the next steps, over all ranks."""
        found = torch.stack([self.step() for _ in range(number)])
        dist.all_reduce(found)
        return (found / dist.get_world_size()).tolist()

    def state(self, options: StateDictOptions | None = None) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer, options=options)
        return {"model": model, "optimizer": optimizer}

    def load(self, state: dict[str, Any], options: StateDictOptions | None = None) -> None:
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=options,
        )

    def _ddp(self, options: Options, device: torch.device) -> Callable[..., Any]:
        self.autocast: Callable[[], AbstractContextManager[Any]] = lambda: torch.autocast(
            device.type, torch.bfloat16
        )
        ddp = DistributedDataParallel(
            self.model, gradient_as_bucket_view=True, bucket_cap_mb=options.bucket
        )
        if options.gradients == "bfloat16":
            ddp.register_comm_hook(None, bf16_compress_hook)
        return torch.compile(ddp, dynamic=False) if options.compile else ddp

    def _fsdp2(self, options: Options, device: torch.device) -> Callable[..., Any]:
        self.autocast = nullcontext
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        for block in self.model.blocks:
            if options.compile:
                block.compile(fullgraph=True, dynamic=False)
            fully_shard(block, mesh=mesh, mp_policy=policy)
        return fully_shard(self.model, mesh=mesh, mp_policy=policy)
