"""A whole ViT training step on a CUDA device: engines agree, and it compiles without a break."""

import pytest
import torch
import torch.nn.functional as F

import sparsetrain as st
from sparsetrain.products import Engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    # torch 2.10 and 2.11 do this themselves when they trace an autograd.Function.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    # Inductor's advice; the comparison with eager wants float32 as it is.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]

SPARSITIES = {
    "weights": st.Sparsity(include=("*mlp*",), weight=st.STE()),
    "mvue": st.Sparsity(include=("*mlp*",), weight=st.STE(mvue=True)),
    "soft": st.Sparsity(include=("*mlp*",), weight=st.SSTE()),
    "activations": st.Sparsity(include=("*mlp*",), weight=None, activation=st.Activation24()),
    "all": st.Sparsity(include=("*mlp*",), weight=st.STE(), activation=st.Activation24()),
}


def network(sparsity, engine: Engine = "masked"):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, depth=2, num_classes=10
    ).cuda()
    st.sparsify(vit, sparsity, engine=engine)
    return vit


def step(model, vit, dtype, batch=6):
    """Loss and gradients of one step on fixed images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, 32, 32, generator=generator).cuda()
    labels = (torch.arange(batch) % 10).cuda()
    vit.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in vit.named_parameters()}


@pytest.mark.parametrize(
    ("name", "bound"), [("weights", 0.05), ("activations", 0.25), ("all", 0.25)]
)
def test_packed_products_give_the_gradients_of_masked_ones(name, bound):
    """In bfloat16, as there are no others; a rounding may change which activations are kept."""
    masked, native = network(SPARSITIES[name]), network(SPARSITIES[name], "native")
    loss, grads = step(masked, masked, torch.bfloat16)
    loss_native, grads_native = step(native, native, torch.bfloat16)
    torch.testing.assert_close(loss_native, loss, rtol=0.02, atol=0.02)
    for key, grad in grads.items():
        assert (grads_native[key] - grad).norm() <= bound * grad.norm() + 1e-4, key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(SPARSITIES))
def test_a_step_compiles_whole_and_equals_eager(name, dtype):
    torch.compiler.reset()
    vit = network(SPARSITIES[name])
    loss, grads = step(vit, vit, dtype)
    compiled_loss, compiled_grads = step(torch.compile(vit, fullgraph=True), vit, dtype)
    # MVUE samples the gradient, and a compiled graph draws other numbers.
    sampled = name in ("mvue", "soft")
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(compiled_loss, loss, rtol=tolerance, atol=tolerance)
    for key, grad in grads.items():
        assert torch.isfinite(compiled_grads[key]).all()
        if not sampled and dtype == torch.float32:
            torch.testing.assert_close(compiled_grads[key], grad, rtol=1e-3, atol=1e-3)
