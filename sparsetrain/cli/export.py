"""`export`: a checkpoint's model as any tool reads it, read back and verified."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsetrain.cli.console import relative, show_values
from sparsetrain.cli.export_folder import export_folder
from sparsetrain.cli.folder import make_folder
from sparsetrain.cli.load import Trained, load_trained
from sparsetrain.cli.overrides import check_form, split_word, take_allowed
from sparsetrain.cli.quiet import quiet_lightning
from sparsetrain.export import FORMATS, check_tensorrt
from sparsetrain.nn import SparseLinear, SquaredReLU, densify, set_sparse, sparse_linears
from sparsetrain.patterns import Pattern
from sparsetrain.recipe import nearest

_OF_FOLDERS = ("block", "dtype")
_KEYS = ("checkpoint", "format", "out", "prune", "tensorrt", *_OF_FOLDERS)
_PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_ENDINGS = {"safetensors": ".safetensors", "onnx": ".onnx"}


def export(words: list[str]) -> None:
    """Write `checkpoint=…` as a file or a folder of `format=`, read it back, verify it."""
    quiet_lightning()
    allowed, words = take_allowed(words)
    options = _options(words)
    if options["format"] == "onnx":
        _need_onnx()
    trained = load_trained(options["checkpoint"], allowed)
    if options.get("prune") == "true":
        set_sparse(trained.network, True)
    if options.get("tensorrt") == "true":
        check_tensorrt(trained.network)
    if options["format"] == "packed" and not _sparse(trained):
        raise ValueError(f"format=packed: {_why_dense(trained)}")
    if options["format"] in FORMATS:
        export_folder(trained, options)
        return
    layers, relu2 = _sparse(trained), _has_squared_relu(trained.network)
    used = {name: layer.used_weight().clone() for name, layer in layers.items()}
    patterns = {name: layer.pattern for name, layer in layers.items()}
    densify(trained.network, apply_masks=True)
    kind = options["format"]
    out = Path(options.get("out") or Path(options["checkpoint"]).with_suffix(_ENDINGS[kind]))
    if out.is_dir():
        raise ValueError(f"out={out} is a folder: give a file in it, as {out}/vit{_ENDINGS[kind]}")
    make_folder(out.parent, f"out={out}")
    if kind == "safetensors":
        written = write_safetensors(trained.network, out, _metadata(trained, relu2))
    else:
        written = write_onnx(trained.network, out, trained.config.model.img_size)
    verify(written, used, patterns)
    rows = [("written", f"{relative(out)} ({out.stat().st_size / 1e6:.1f} MB)")]
    values = sum(weight.numel() for weight in used.values())
    kinds = ", ".join(sorted({str(pattern) for pattern in patterns.values()}))
    rows.append(("layers", f"{len(used)} {kinds}: {values:,} values verified"))
    if not used:
        rows[1] = ("layers", _why_dense(trained))
    if relu2:
        what = "squared ReLU, dense: what made it 2:4 is no part of the file"
        rows.append(("activation", what))
    show_values(tuple(rows), prose=("layers", "activation"))


def write_safetensors(
    network: nn.Module, out: Path, metadata: dict[str, str]
) -> Mapping[str, Tensor]:
    """Write the state dict, atomically; returns the weights as read back from the file."""
    from safetensors.torch import load_file, save

    unfinished = out.with_name(f".{out.name}.unfinished")
    state = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    # Not save_file: its files are readable by their owner alone.
    unfinished.write_bytes(save(state, metadata=metadata))
    os.replace(unfinished, out)
    return load_file(out)


def write_onnx(network: nn.Module, out: Path, img_size: int) -> Mapping[str, Tensor]:
    """Write an ONNX graph with a dynamic batch, atomically; returns its initializers by name."""
    import onnx
    from onnx.numpy_helper import to_array

    unfinished = out.with_name(f".unfinished-{out.name}")
    images = torch.randn(2, 3, img_size, img_size)
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=["logits"],
        # Folding would transpose weights and take their names.
        optimize=False,
        verbose=False,
    )
    assert program is not None, "dynamo exports return a program"
    program.save(unfinished, external_data=False)
    os.replace(unfinished, out)
    graph = onnx.load(out).graph
    return {i.name: torch.from_numpy(to_array(i).copy()) for i in graph.initializer}


def _need_onnx() -> None:
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"format=onnx needs {name}: pip install 'sparsetrain[onnx]'")


def verify(
    written: Mapping[str, Tensor], used: Mapping[str, Tensor], patterns: Mapping[str, Pattern]
) -> None:
    """Check that every sparse layer is in the file as it was used, and has its pattern. Raises
    ValueError naming the layer."""
    for name, expected in used.items():
        weight = written.get(f"{name}.weight")
        if weight is None:
            raise ValueError(
                f"export: the file has no {name}.weight; it has {len(written)} tensors"
            )
        if bad := patterns[name].count_violations(weight):
            raise ValueError(f"export: {name}.weight is not {patterns[name]} in {bad} places")
        if not torch.equal(weight, expected):
            raise ValueError(f"export: {name}.weight differs from what the model multiplies by")


def _sparse(trained: Trained) -> dict[str, SparseLinear]:
    return {n: layer for n, layer in sparse_linears(trained.network).items() if layer.sparse}


def _has_squared_relu(network: nn.Module) -> bool:
    return any(isinstance(module, SquaredReLU) for module in network.modules())


def _metadata(trained: Trained, relu2: bool) -> dict[str, str]:
    """What a reader of the file needs to build the network."""
    return {
        "format": "pt",
        "timm_model": trained.config.model.name,
        "mlp_activation": "squared_relu" if relu2 else "the model's own",
    }


def _why_dense(trained: Trained) -> str:
    if trained.phase in ("dense_tail", "dense_warmup"):
        return (
            f"all dense: the checkpoint is from the {trained.phase.replace('_', ' ')}; prune=true "
            "applies the masks, at a cost in accuracy"
        )
    return "all dense: no layer of this run has 2:4 weights"


def _options(words: list[str]) -> dict[str, str]:
    check_form(words)
    options = dict(split_word(word) for word in words)
    for key in options:
        if key not in _KEYS:
            raise ValueError(f"{key}= is no option of export: {nearest(key, _KEYS)}")
    if not options.get("checkpoint"):
        raise ValueError("checkpoint= is missing: give a file that `fit` wrote")
    for key, value in options.items():
        if not value:
            raise ValueError(f"{key}= is empty: give a value or leave it out")
    ending = Path(options.get("out", "")).suffix.lower()
    kinds = {ending: kind for kind, ending in _ENDINGS.items()}
    if ending in _PICKLED and "format" not in options:
        raise ValueError(
            f"out={options['out']}: {ending} is the ending of pickled files, which export does not "
            f"write; give out={Path(options['out']).with_suffix('.safetensors')}"
        )
    if ending and ending not in kinds and "format" not in options:
        raise ValueError(
            f"out={options['out']}: {ending} says none of the formats of export: give a file that "
            f"ends in {' or '.join(kinds)}, or format="
        )
    options.setdefault("format", kinds.get(ending, "safetensors"))
    if options["format"] not in (*_ENDINGS, *FORMATS):
        known = ", ".join((*_ENDINGS, *FORMATS))
        raise ValueError(f"format={options['format']!r}: choose one of {known}")
    for key in _OF_FOLDERS:
        if key in options and options["format"] not in FORMATS:
            raise ValueError(
                f"{key}={options[key]} with format={options['format']}: it is of folders "
                f"({', '.join(FORMATS)}); leave it out"
            )
    if kinds.get(ending, options["format"]) != options["format"]:
        raise ValueError(
            f"format={options['format']} and out={options['out']}: the file would say it is "
            f"{kinds[ending]}; leave one of them out"
        )
    for key in ("prune", "tensorrt"):
        if options.get(key, "false") not in ("true", "false"):
            raise ValueError(f"{key}={options[key]!r}: give true or false")
    return options
