"""Small ViTs that take whole training steps, for the tests of steps on a GPU."""

import gc
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import DEVICE
from torch import Tensor

import sparsetrain as st
from sparsetrain.products import Engine

CLASSES = 10

BLOCKS = ("*mlp*", "*attn*")
SPARSITIES = {
    "weights": st.Sparsity(include=BLOCKS),
    "activations": st.Sparsity(include=("*mlp*",), weight=None, activation=st.Activation24()),
    "all": st.Sparsity(include=BLOCKS, activation=st.Activation24()),
}
"""2:4 weights in MLPs and attention, 2:4 activations in MLPs, both."""

kinds = pytest.mark.parametrize("kind", SPARSITIES)

Batch = tuple[Tensor, Tensor]


def vit(kind: str, engine: Engine = "native") -> Any:
    """Two blocks of 128 features on 16 tokens, the same in every call."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=128,
        depth=2,
        num_heads=4,
        num_classes=CLASSES,
        class_token=False,
        global_pool="avg",
    )
    model.to(DEVICE)
    st.sparsify(model, SPARSITIES[kind], engine=engine)
    return model


def batch(number: int = 0, size: int = 32) -> Batch:
    """Noisy pictures of as many things as there are classes; the same for the same arguments."""
    generator = torch.Generator().manual_seed(99)
    things = torch.randn(CLASSES, 3, 32, 32, generator=generator)
    generator.manual_seed(number)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    images = things[labels] + 2 * torch.randn(size, 3, 32, 32, generator=generator)
    return images.to(DEVICE), labels.to(DEVICE)


def memory_in_use() -> int:
    """Bytes asked for, which do not depend on how the allocator cuts its blocks."""
    gc.collect()
    return torch.cuda.memory_stats()["requested_bytes.all.current"]


class Run:
    """A ViT and its optimizer. `forward` is what is called: the model, or that compiled."""

    def __init__(
        self, kind: str, engine: Engine = "native", dtype: torch.dtype = torch.bfloat16
    ) -> None:
        self.model = vit(kind, engine)
        self.forward: Any = self.model
        self.dtype = dtype
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Forward and backward; returns the loss."""
        self.optimizer.zero_grad()
        with torch.autocast(DEVICE, self.dtype, enabled=self.dtype != torch.float32):
            loss = F.cross_entropy(self.forward(images).float(), labels)
        loss.backward()
        return loss.detach()

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """The gradients, then the optimizer; returns the loss before it."""
        loss = self.gradients(images, labels)
        self.optimizer.step()
        return loss

    def grads(self) -> dict[str, Tensor]:
        """The gradients that there are now, as copies."""
        return {name: p.grad.clone() for name, p in self.model.named_parameters()}
