"""A packed model in what others do to models: averages, DDP, dtypes, copies, state dicts."""

import copy
import io
from typing import Any

import pytest
import torch
from nn_checks import Net, normal, seeded
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

import sparsetrain as st
from sparsetrain.inference import DTYPES

E4M3 = torch.float8_e4m3fn
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def packed(dtype: torch.dtype, seed: int = 0) -> Any:
    net = seeded(Net(), seed)
    st.prune(net, st.Magnitude(), st.Sparsity(("mlp*",)))
    st.quantize(net, dtype)
    return net


class Both(nn.Module):
    """A student that trains, and a packed teacher."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.student, self.teacher = seeded(nn.Linear(8, 4)), packed(dtype)

    def forward(self, x):
        return (self.student(x) - output(self.teacher, x)).square().sum()


def output(net, x=None):
    wide = None if net.mlp.fc1.scales is not None else net.mlp.fc1.values.dtype
    with torch.no_grad(), torch.autocast("cpu", wide, enabled=wide is not None):
        return net.eval()(normal(6, 8) if x is None else x).float()


def assert_same_bits(net, other):
    """Of the packed weights. An average of constants may change the last bit of a dense one."""
    for layer in ("fc1", "fc2"):
        ours, expected = (getattr(m.mlp, layer).held() for m in (net, other))
        assert ours.keys() == expected.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8))


def timm_ema(version: str, **words: Any) -> Any:
    timm = pytest.importorskip("timm")
    return lambda model: getattr(timm.utils, f"ModelEma{version}")(model, decay=0.9, **words)


def averaged(**words: Any) -> Any:
    return lambda model: AveragedModel(model, **words)


AVERAGES = {
    "timm V2": timm_ema("V2"),
    "timm V3": timm_ema("V3"),
    "timm V3, one by one": timm_ema("V3", foreach=False),
    "timm V3, parameters": timm_ema("V3", exclude_buffers=True),
    "SWA": averaged(use_buffers=True),
    "SWA, parameters": averaged(),
    "EMA": averaged(use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "EMA, one by one": averaged(use_buffers=True, avg_fn=get_ema_avg_fn(0.9)),
}


@dtypes
@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_keeps_the_packed_weights_bit_for_bit(kind, dtype):
    model = Both(dtype)
    average = AVERAGES[kind](model)
    for _ in range(4):
        with torch.no_grad():
            model.student.weight.add_(1)
        (average.update_parameters if "timm" not in kind else average.update)(model)
    assert_same_bits(average.module.teacher, model.teacher)
    assert not torch.equal(average.module.student.weight, model.student.weight)


@dtypes
def test_ddp_on_gloo_trains_beside_a_packed_teacher(dtype):
    dist: Any = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model: Any = nn.parallel.DistributedDataParallel(Both(dtype))
        model(normal(6, 8)).backward()
        assert model.module.student.weight.grad.any()
    finally:
        dist.destroy_process_group()


@dtypes
def test_copies_files_and_state_dicts_give_the_same_outputs(dtype):
    net = packed(dtype)
    expected = output(net)
    file = io.BytesIO()
    torch.save(net, file)
    whole = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    loaded, assigned = packed(dtype, seed=1), packed(dtype, seed=1).to("meta")
    loaded.load_state_dict(state)
    assigned.load_state_dict(state, assign=True)
    called = torch.func.functional_call
    for again in (copy.deepcopy(net), whole, loaded, assigned, net.share_memory()):
        assert torch.equal(output(again), expected)
    if loaded.mlp.fc1.scales is not None:
        other = packed(dtype, seed=1)
        assert torch.equal(called(other, dict(net.state_dict()), (normal(6, 8),)), expected)


@dtypes
def test_safetensors_keeps_it(dtype, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    net, other = packed(dtype), packed(dtype, seed=1)
    safetensors.save_model(net, str(tmp_path / "model"))
    safetensors.load_model(other, str(tmp_path / "model"))
    assert torch.equal(output(other), output(net))


def test_what_is_written_into_a_state_dict_changes_no_layer():
    net = packed(torch.int8)
    expected = output(net)
    for name, tensor in net.state_dict().items():
        if name.startswith("mlp") and not name.endswith("bias"):
            tensor.zero_()
    assert torch.equal(output(net), expected)
    assert [name for name, _ in net.named_buffers()] == []


@dtypes
def test_the_rows_of_a_model_with_packed_layers_are_counted(dtype):
    net = packed(dtype)
    wide = net if net.mlp.fc1.scales is not None else net.to(dtype)
    tokens = st.count_tokens(wide, normal(6, 8).to(wide.head.weight.dtype))
    assert dict(tokens) == {"embed": 6, "head": 6}


def test_float8_is_saved_as_bytes_and_loaded_from_both():
    net, other = packed(E4M3), packed(E4M3, seed=1)
    state = net.state_dict()
    assert state["mlp.fc1.values"].dtype == torch.uint8
    state["mlp.fc1.values"] = state["mlp.fc1.values"].view(E4M3)
    other.load_state_dict(state)
    assert torch.equal(output(other), output(net))


def test_a_state_dict_that_is_not_the_layers_is_refused_and_changes_no_packed_weight():
    net, before = packed(torch.int8), output(packed(torch.int8))
    state = net.state_dict()
    for changes, complaint in (
        ({"mlp.fc1.meta": torch.zeros(3)}, r"mlp.fc1.meta is torch.float32 \[3\] in the file and"),
        ({"mlp.fc1.values": packed(E4M3).mlp.fc1.values}, "values is torch.float8_e4m3fn in the"),
        (
            {"mlp.fc1.meta": state["mlp.fc1.meta"].numpy()},
            "mlp.fc1.meta is ndarray in the file, not",
        ),
        ({"mlp.fc1.meta": state["mlp.fc1.meta"].to("meta")}, "on the meta device in the file"),
        ({"mlp.fc1.more": torch.zeros(3)}, r'Unexpected key.*"mlp.fc1.more"'),
    ):
        with pytest.raises(RuntimeError, match=complaint):
            net.load_state_dict({**state, **changes})
    del state["mlp.fc1.scales"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"mlp.fc1.scales"'):
        net.load_state_dict(state)
    net.load_state_dict(state, strict=False)
    assert torch.equal(output(net), before)


@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # PyTorch's, of the dense layers
def test_a_state_dict_that_would_be_lost_on_the_meta_device_is_refused():
    with pytest.raises(RuntimeError, match=r"values is on the meta device: load with assign=True"):
        packed(torch.int8).to("meta").load_state_dict(packed(torch.int8).state_dict())


@dtypes
def test_a_wide_dtype_changes_the_bias_and_one_of_8_bits_is_refused(dtype):
    net = packed(dtype)
    values = net.mlp.fc1.values.clone()
    for wide in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        net.to(wide)
        assert net.mlp.fc1.bias.dtype == wide
        assert torch.equal(net.mlp.fc1.values.view(torch.uint8), values.view(torch.uint8))
        assert net.mlp.fc1.scales is None or net.mlp.fc1.scales.dtype == torch.float32
    with pytest.raises(ValueError, match=r"^dtype=torch.float8_e4m3fn: the bias of a packed layer"):
        net.to(E4M3)


@dtypes
def test_a_replica_of_data_parallel_computes_the_same(dtype):
    layer = packed(dtype).mlp.fc1
    x = normal(6, 8).to(layer.result_dtype(normal(6, 8)) if layer.scales is not None else dtype)
    replica: Any = layer._replicate_for_data_parallel()
    replica.bias = layer.bias
    assert torch.equal(replica(x), layer(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(in eval mode|num_workers|log_every_n_steps)")
@dtypes
def test_lightnings_weight_averaging_keeps_it(dtype, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.both = Both(dtype)

        def training_step(self, batch, _):
            return self.both(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.both.student.parameters(), lr=0.001)

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[callbacks.EMAWeightAveraging(decay=0.9)],
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(list(normal(32, 8)), batch_size=8))  # pyright: ignore
    assert_same_bits(module.both.teacher, packed(dtype))
