"""A folder of packed weights: what is in it, and that the model of it is the quantized one."""

import copy
import json
from typing import Any

import pytest
import torch
from nn_checks import Net, normal, seeded
from safetensors.torch import load_file, save_file

import sparsetrain as st
from sparsetrain.inference import DTYPES

E4M3 = torch.float8_e4m3fn


def pruned() -> Any:
    net = seeded(Net())
    st.prune(net, st.Magnitude(), st.Sparsity(("mlp*",)))
    return net.eval()


def outputs(net):
    dtype = torch.float16 if net.mlp.fc1.values.dtype == torch.float16 else torch.bfloat16
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        return net(normal(6, 8))


@pytest.fixture
def folder(tmp_path):
    st.save_pretrained(pruned(), tmp_path / "out", "packed")
    return tmp_path / "out"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_model_of_a_folder_gives_the_outputs_of_the_quantized_one_bit_for_bit(dtype, tmp_path):
    net = pruned()
    densities = st.save_pretrained(net, tmp_path / "out", "packed", dtype=dtype)
    assert list(densities) == ["mlp.fc1", "mlp.fc2"]
    assert 0.45 < min(densities.values()) <= 0.5, "int8 rounds some to zero"
    report = st.quantize(net, dtype)
    other: Any = seeded(Net(), seed=1)
    assert st.load_packed(other, tmp_path / "out").converted == report.converted
    assert type(other.mlp) is type(net.mlp)
    assert torch.equal(outputs(other), outputs(net))


def test_a_quantized_model_is_saved_as_it_is(tmp_path):
    net, other = pruned(), Net()
    st.quantize(net, torch.int8, include=("mlp.fc1",))
    expected = outputs(net)
    st.save_pretrained(net, tmp_path / "out", "packed")
    st.load_packed(other, tmp_path / "out")
    assert torch.equal(outputs(other), expected)
    with pytest.raises(ValueError, match=r"^dtype=torch.float8_e4m3fn: the model is packed in tor"):
        st.save_pretrained(net, tmp_path / "other", "packed", dtype=E4M3)
    with pytest.raises(ValueError, match=r"^format=dense: the model is packed .*: use format='pac"):
        st.save_pretrained(net, tmp_path / "other")


def test_activations_that_became_squared_relu_are_squared_relu_in_the_model_of_the_folder(tmp_path):
    net, other, net2 = seeded(Net()), Net(), Net()
    st.sparsify(net, st.Sparsity(("mlp*",), activation=st.Activation24()))
    st.quantize(net)
    st.save_pretrained(net, tmp_path / "out", "packed")
    st.load_packed(other, tmp_path / "out")
    assert torch.equal(outputs(other), outputs(net))
    header = json.loads((tmp_path / "out" / "sparsity.json").read_text())
    (tmp_path / "out" / "sparsity.json").write_text(json.dumps(header | {"squared_relu": ["act"]}))
    with pytest.raises(ValueError, match=r"another model: act is squared ReLU there and absent he"):
        st.load_packed(net2, tmp_path / "out")


def test_a_layer_in_two_places_is_loaded_into_both(tmp_path):
    def build(seed: int) -> Any:
        net = seeded(Net(), seed)
        net.again = torch.nn.Sequential(net.mlp, net.head)
        return net

    net, other = build(0), build(1)
    st.prune(net, st.Magnitude(), st.Sparsity(("mlp*",)))
    st.save_pretrained(net, tmp_path / "out", "packed")
    st.load_packed(other, tmp_path / "out")
    st.quantize(net)
    assert other.again[0] is other.mlp
    assert torch.equal(outputs(other), outputs(net))
    with pytest.raises(ValueError, match=r"is of another model: again"):
        st.load_packed(Net(), tmp_path / "out")


def test_a_compiled_model_is_saved_and_loaded_by_its_own_names(tmp_path):
    net, other = pruned(), Net()

    def compiled(module: Any) -> Any:
        return torch.compile(module, backend="eager")

    st.save_pretrained(compiled(net), tmp_path / "out", "packed")
    st.load_packed(compiled(other), tmp_path / "out")
    st.quantize(compiled(net), include=("mlp*",))
    assert torch.equal(outputs(other), outputs(net))
    net.mlp = compiled(net.mlp)
    with pytest.raises(ValueError, match=r"^mlp was compiled by itself, .*in place \(mlp.compile"):
        st.save_pretrained(net, tmp_path / "other", "packed")


def test_the_report_of_a_loaded_model_names_what_stays_dense(folder):
    net: Any = Net()
    net.experts = torch.nn.Parameter(torch.zeros(4, 8, 8))
    with pytest.raises(ValueError, match=r"another model: experts is absent there and \(4, 8, 8\)"):
        st.load_packed(net, folder)
    report = st.load_packed(Net(), folder)
    assert [row.name for row in report.dense] == ["embed", "head"]


def test_the_header_says_how_values_metadata_and_scales_lie(folder):
    header = json.loads((folder / "sparsity.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    assert header["layout"]["dtype"] == "float8_e4m3fn"
    weight = _dense_by(header["layout"], tensors, "mlp.fc2", *[8, 16])
    exact = pruned().mlp.fc2.evaluated_weight()
    assert torch.equal(weight != 0, exact != 0)
    assert (weight - exact).abs().max() < 0.07 * exact.abs().max()
    assert header["weights"]["mlp.fc2.weight"] == {"shape": [8, 16], "density": 0.5}


def _dense_by(layout, tensors, name, rows, columns):
    """A weight read by what the header says alone: each bit of a byte's address has a name."""
    values, meta = tensors[f"{name}.values"].float(), tensors[f"{name}.meta"].flatten()
    bits = layout["meta"]["order"].split()[2:]
    groups = layout["meta"]["columns"] // 4
    weight = torch.zeros(rows, columns)
    for row in range(rows):
        for group in range(columns // 4):
            assert group < groups, "one atom"
            parts = {"r": row % 64, "g": group}
            address = 0
            for bit in bits:
                address = address << 1 | parts[bit[0]] >> int(bit[1:]) & 1
            nibble = int(meta[address // 2]) >> 4 * (address % 2) & 15
            for place, position in enumerate((nibble & 3, nibble >> 2)):
                weight[row, 4 * group + position] = values[row, 2 * group + place]
    return weight * tensors[f"{name}.scales"]


def test_an_empty_model_and_one_of_another_shape_are_refused_unchanged(folder):
    for change, complaint in (
        (lambda net: setattr(net, "head", torch.nn.Linear(8, 3)), r"head.weight is \(4, 8\) there"),
        (lambda net: setattr(net, "mlp", torch.nn.Linear(8, 8)), r"mlp.weight is absent there and"),
        (lambda net: setattr(net.mlp, "fc1", torch.nn.Linear(4, 16)), r"mlp.fc1 is a weight of \["),
    ):
        net: Any = Net()
        change(net)
        before = str(net)
        with pytest.raises(ValueError, match=rf"is of another model: {complaint}"):
            st.load_packed(net, folder)
        assert str(net) == before


def test_what_is_no_dense_model_is_refused(folder):
    packed: Any = pruned()
    st.quantize(packed)
    for model, complaint in (
        (packed, "^the model is packed already: build it again, and load into the dense one"),
        (
            Net().to("meta"),
            "^embed.weight is on the meta device: build the model on a CPU or a GPU",
        ),
        (Net().state_dict(), "^model is OrderedDict: give an nn.Module"),
        (Net, "^model is the class Net: give an nn.Module"),
    ):
        with pytest.raises(ValueError, match=complaint):
            st.load_packed(model, folder)  # pyright: ignore


def test_files_that_are_not_whole_or_not_of_one_folder_are_one_line(folder):
    whole = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"is a file: give the folder that it is in$"):
        st.load_packed(Net(), folder / "model.safetensors")
    for bytes_ in (whole[:200], b"version https://git-lfs.github.com/spec/v1"):
        (folder / "model.safetensors").write_bytes(bytes_)
        with pytest.raises(
            ValueError, match=r"safetensors cannot be read \(.*\): copy or export it"
        ):
            st.load_packed(Net(), folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"cannot be read \(No such file .*: copy or export it aga"
    ):
        st.load_weights(folder)
    (folder / "model.safetensors").write_bytes(whole)
    header = json.loads((folder / "sparsity.json").read_text())
    (folder / "sparsity.json").write_text(json.dumps(header | {"tied": {"a": "b"}}))
    with pytest.raises(ValueError, match=r"is not of this model.safetensors, which has no 'b'"):
        st.load_weights(folder)


def test_bytes_in_another_order_are_refused(folder):
    header = json.loads((folder / "sparsity.json").read_text())
    header["layout"]["meta"]["order"] = "r0 g0"
    (folder / "sparsity.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=r"lie in another order than this version of sparsetrain"):
        st.load_packed(Net(), folder)


def spoil(folder, name, change):
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file({key: tensor for key, tensor in tensors.items() if tensor.numel()}, folder / "x")
    (folder / "x").replace(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("values", lambda t: t.float(), r"values is not \[16, 4\] of torch.float8_e4m3fn"),
        ("values", lambda t: t[:, :2].contiguous(), r"values is not \[16, 4\]"),
        ("meta", lambda t: t[:, :, :512].contiguous(), r"meta is not uint8 \[1, 1, 1024\]"),
        ("meta", torch.zeros_like, r"meta has positions that no 2:4 row has"),
        ("scales", lambda t: t.half(), r"scales is not float32 \[16, 1\]"),
    ],
)
def test_tensors_that_are_not_as_the_header_says_are_named(folder, name, change, complaint):
    spoil(folder, f"mlp.fc1.{name}", change)
    with pytest.raises(ValueError, match=rf": mlp\.fc1\.{complaint}.*; export it again$"):
        st.load_packed(Net(), folder)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("{", "has no sparsity.json that can be read: give a folder that export format=packed"),
        ('{"format": "csr", "weights": {}}', "has format='csr': give a folder"),
        ('{"format": "packed", "weights": {"a.weight": {"shape": [8, 7]}}}', "a is no shape of a"),
        ('{"format": "packed", "weights": {"a.weight": {"shape": "88"}}}', "a is no shape of a"),
        ('{"format": "packed", "weights": ["a"]}', "has no sparsity.json that can be read"),
    ],
)
def test_a_header_that_is_not_one_is_one_line(folder, header, complaint):
    (folder / "sparsity.json").write_text(header)
    with pytest.raises(ValueError, match=complaint):
        st.load_packed(copy.deepcopy(Net()), folder)
