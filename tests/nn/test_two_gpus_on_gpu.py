"""Two GPUs in one process: another current device, replicas, a model on both, a stream each."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.methods import STE
from sparsetrain.select import ROW

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 GPUs"),
]

MLPS = ("*mlp*",)
SPARSITIES = {
    "STE": st.Sparsity(MLPS),
    "SR-STE": st.Sparsity(MLPS, weight=st.SRSTE()),
    "row masks": st.Sparsity(MLPS, weight=STE(), selection=ROW),
    "S-STE": st.Sparsity(MLPS, weight=st.SSTE(mvue=False), selection=ROW),
    "STEP": st.Sparsity(MLPS, weight=st.STEP(), schedule=st.Schedule(dense_warmup=0.4)),
    "MVUE": st.Sparsity(MLPS, weight=STE(mvue=True)),
    "activations": st.Sparsity(MLPS, weight=None, activation=st.Activation24()),
    "all": st.Sparsity(MLPS, activation=st.Activation24()),
    "blocks": st.Sparsity(MLPS, pattern=st.Block(32, 32, 0.5)),
}
STEPS = 5


def vit(sparsity: st.Sparsity, engine: Any = "auto") -> Any:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=8)
    st.sparsify(model, sparsity, engine=engine)
    return model


def images(device: str, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 32, 32, generator=generator).to(device)


def train(model: nn.Module, x: Tensor) -> Tensor:
    """What each parameter changed by in a few steps, on the CPU."""
    before = [p.detach().flatten().cpu() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    with st.attach(model, optimizer, total_steps=STEPS):
        for _ in range(STEPS):
            torch.manual_seed(2)  # MVUE's samples; each GPU draws its own
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(x).float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    after = [p.detach().flatten().cpu() for p in model.parameters()]
    return torch.cat([new - old for new, old in zip(after, before, strict=True)])


def assert_as_far(found: Tensor, expected: Tensor) -> None:
    """AdamW's steps are signs at first, and sums of a GPU come in any order."""
    assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("engine", ["native", "masked"])
@pytest.mark.parametrize("name", SPARSITIES)
def test_a_model_on_the_second_gpu_trains_as_on_the_first(name, engine):
    if name == "blocks" and engine == "native":
        pytest.skip("blocks are multiplied dense")
    if name == "STEP" and engine == "native":
        pytest.skip("as STE")
    found = []
    for device in ("cuda:0", "cuda:1"):
        assert torch.cuda.current_device() == 0
        model = vit(SPARSITIES[name], engine).to(device)
        found.append(train(model, images(device)))
        assert all(row.density == 0.5 for row in st.inspect(model))
    assert_as_far(found[1], found[0])


class Halves(nn.Module):
    """A model that takes the two halves of a batch one after the other, as two replicas do at
    once. Products of another size sum in another order, and small values change their mask."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(half) for half in x.chunk(2)])


@pytest.mark.parametrize("packed", [False, True], ids=["packs", "packed once"])
@pytest.mark.parametrize("kept", [False, True], ids=["chooses", "kept"])
@pytest.mark.parametrize("name", ["STE", "S-STE", "all", "blocks"])
def test_replicas_of_data_parallel_give_what_one_gpu_does(name, kept, packed):
    model = vit(SPARSITIES[name]).to("cuda:0")
    if kept:
        st.update_masks(model)
        with torch.no_grad():  # else the masks chosen anew are the same
            for parameter in model.parameters():
                parameter.mul_(torch.rand_like(parameter))
    x = images("cuda:0", 32)

    def gradients(module: nn.Module) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            if packed:
                with st.packed_once(model):
                    out = module(x)
                    out.float().square().sum().backward()
            else:
                out = module(x)
                out.float().square().sum().backward()
        return out.detach().float(), [p.grad.clone() for p in model.parameters()]

    one, grads = gradients(Halves(model))
    two, found = gradients(nn.DataParallel(model, [0, 1]))
    # Threads of replicas may sum in another order, and values of activations that are almost as
    # large as each other then change places in their masks.
    assert (two - one).norm() < 0.02 * one.norm()
    for a, b in zip(grads, found, strict=True):
        assert (a - b).norm() <= 0.05 * a.norm() + 1e-6


def test_data_parallel_trains_attached():
    one = train(Halves(vit(SPARSITIES["SR-STE"]).to("cuda:0")), images("cuda:0"))
    two = train(nn.DataParallel(vit(SPARSITIES["SR-STE"]).to("cuda:0"), [0, 1]), images("cuda:0"))
    assert_as_far(two, one)


class OnBoth(nn.Module):
    """A ViT whose last block is on the second GPU."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit.to("cuda:0")
        self.vit.blocks[-1].to("cuda:1")

    def forward(self, x: Tensor) -> Tensor:
        vit = self.vit
        x = vit._pos_embed(vit.patch_embed(x))
        x = vit.blocks[1](vit.blocks[0](x).to("cuda:1")).to("cuda:0")
        return vit.forward_head(vit.norm(x))


@pytest.mark.parametrize("name", ["SR-STE", "S-STE", "all"])
def test_a_model_on_both_gpus_trains_as_on_one(name):
    one = train(vit(SPARSITIES[name]).to("cuda:0"), images("cuda:0"))
    two = train(OnBoth(vit(SPARSITIES[name])), images("cuda:0"))
    assert_as_far(two, one)


@pytest.mark.parametrize("name", ["STE", "all", "activations"])
def test_an_input_on_the_other_gpu_is_refused_and_nothing_breaks(name):
    model = vit(SPARSITIES[name]).to("cuda:0")
    mlp = model.blocks[0].mlp
    x = torch.randn(16, 192, device="cuda:1")
    with torch.autocast("cuda", torch.bfloat16), pytest.raises((RuntimeError, ValueError)) as error:
        mlp(x)
    assert "cuda:1" in str(error.value)
    torch.cuda.synchronize(0)
    torch.cuda.synchronize(1)
    with torch.autocast("cuda", torch.bfloat16):
        assert mlp(x.to("cuda:0")).isfinite().all()


def test_a_stream_of_each_gpu_gives_what_one_after_the_other_does():
    devices = ("cuda:0", "cuda:1")
    alone = [train(vit(SPARSITIES["all"]).to(device), images(device)) for device in devices]
    models = [vit(SPARSITIES["all"]).to(device) for device in devices]
    streams = [torch.cuda.Stream(device) for device in devices]
    together = []
    for model, stream, device in zip(models, streams, devices, strict=True):
        torch.cuda.synchronize(device)
        with torch.cuda.stream(stream):
            together.append(train(model, images(device)))
    for one, other in zip(alone, together, strict=True):
        assert_as_far(other, one)
