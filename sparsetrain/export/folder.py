"""A folder that holds a model: `model.safetensors`, `config.json` and `sparsity.json`.

Sparse weights are stored as their parts (`parts.py`), because safetensors holds dense arrays alone
and any reader of it then reads them: `NAME.weight.values`, `NAME.weight.crow_indices`, … The header
`sparsity.json` says which they are.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sparsetrain.errors import first_three, installed
from sparsetrain.export.config import CONFIG, write_config
from sparsetrain.export.options import check_options
from sparsetrain.export.packed import packed_state
from sparsetrain.export.parts import PARTS, from_parts, to_parts
from sparsetrain.export.read import HEADER, WEIGHTS, read_folder
from sparsetrain.export.two_of_four import (
    check_semi_structured,
    half_zero,
    lies_in_out,
    out_in,
)
from sparsetrain.export.whole_copy import whole_copy
from sparsetrain.inference import packed_linears
from sparsetrain.nn import SquaredReLU, densify, sparse_linears
from sparsetrain.nn.given import check_module, unwrapped
from sparsetrain.patterns import Block, Combined, Pattern

Format = Literal["dense", "coo", "csr", "bsr", "semi_structured", "packed"]
FORMATS: tuple[Format, ...] = get_args(Format)


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    format: Format = "dense",
    *,
    block: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Write a model of any library into a folder, and compare what is read back.

        st.save_pretrained(model, "out")                    # zeros in dense weights
        st.save_pretrained(model, "out-csr", "csr")         # weights = st.load_weights("out-csr")

    The model stays as it is; of one that is compiled or in DDP the module inside is written, with
    its own names. Weights are those that an evaluation multiplies by. The sparse
    weights are those of the sparse layers. In a model without sparse layers they are those of
    linear layers and convolutions with at least half of their values zero.

    format: `dense` has zeros; with transformers' or timm's `config.json` their own loaders read it.
        `coo`, `csr` and `bsr` are the parts of such tensors of torch.sparse. `semi_structured` is
        dense, checked to be what `torch.sparse.to_sparse_semi_structured` takes: that packs for the
        GPU at hand, so it runs where the weights are loaded. `packed` is the model as `st.quantize`
        makes it, which `st.load_packed` reads.
    block: of bsr, for all sparse weights; None takes those of the layers' patterns, and leaves
        layers without blocks dense with zeros where others have some.
    dtype: floating-point weights are rounded to it; of `packed` that of `st.quantize`, e4m3 if it
        is not given, and the dense rest keeps its own.
    config: of `config.json`; what transformers or timm read if None and the model is theirs.

    Warns of squared ReLUs that 2:4 activations left and `config.json` cannot name: whoever builds
    the model of it has to set them.

    Returns the density of each sparse weight. Raises ValueError, naming the layer, for a weight
    that the format does not take, and for a folder that is not empty.
    """
    check_module(model)
    folder, model = Path(folder), unwrapped(model)
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: choose one of {', '.join(FORMATS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder={folder} is not an empty folder: give another name")
    check_options(format, block, dtype, config)
    if format == "packed":
        state, header = packed_state(model, dtype)
        return _save(folder, *_untied(state), state, header, model, None, config)
    if packed_linears(model):
        raise ValueError(f"format={format}: the model is packed (st.quantize): use format='packed'")
    patterns: dict[str, Pattern | None] = {n: m.pattern for n, m in sparse_linears(model).items()}
    plain = densify(whole_copy(model), apply_masks=True)
    if dtype is not None:
        plain.to(dtype)
    patterns = patterns or dict.fromkeys(half_zero(plain))
    if format != "dense" and not patterns:
        raise ValueError(
            f"format={format}: the model has no sparse layer, and no weight with half of it zero: "
            "prune or train it sparse before, or use format='dense'"
        )
    if format == "bsr" and block is None and any(map(_own_block, patterns.values())):
        patterns = {name: pattern for name, pattern in patterns.items() if _own_block(pattern)}
    state, tied = _untied(plain.state_dict())
    sparse: dict[str, dict[str, Any]] = {}
    tensors = dict(state)
    for name, pattern in patterns.items():
        key = f"{name}.weight"
        if key not in state:
            continue  # tied to one that is written
        weight = state[key]
        if format == "semi_structured":
            check_semi_structured(name, out_in(plain, name))
        sparse[key] = {"shape": list(weight.shape), "density": _density(weight)}
        if format in PARTS:
            turned = lies_in_out(plain, name, weight)
            size = _block(name, weight, pattern, block, turned) if format == "bsr" else None
            flat = weight if weight.ndim == 2 else weight.flatten(1)
            parts = to_parts(flat, format, size)
            del tensors[key]
            tensors |= {f"{key}.{part}": tensor for part, tensor in parts.items()}
    header = {"format": format, "weights": sparse}
    return _save(folder, tensors, tied, state, header, model, dtype, config)


def load_weights(folder: str | Path) -> dict[str, Tensor]:
    """The state dict of a folder that `save_pretrained` wrote, on the CPU.

    Weights that were written as coo, csr or bsr are tensors of torch.sparse: multiply by them, or
    call `to_dense()` for `load_state_dict`. Those of convolutions are [out, in · height · width].
    Packed ones stay `NAME.values`, `NAME.meta` and `NAME.scales`: `load_packed` makes a model of
    them. Raises ValueError for another folder, and for one whose files do not belong together.
    """
    folder = Path(folder)
    header, state = read_folder(folder)
    form = header["format"]
    try:
        for key, each in header["weights"].items() if form in PARTS else ():
            parts = {part: state.pop(f"{key}.{part}") for part in PARTS[form]}
            first, *rest = each["shape"]
            state[key] = from_parts(parts, form, (first, torch.Size(rest).numel()))
        for key, other in header["tied"].items():
            state[key] = state[other]
    except KeyError as error:
        raise ValueError(
            f"folder={folder}: {HEADER} is not of this {WEIGHTS}, which has no {error}: export it "
            "again"
        ) from error
    return state


def _save(
    folder: Path,
    tensors: Mapping[str, Tensor],
    tied: Mapping[str, str],
    state: Mapping[str, Tensor],
    header: Mapping[str, Any],
    model: nn.Module,
    dtype: torch.dtype | None,
    config: Mapping[str, Any] | None,
) -> dict[str, float]:
    """Write them, read them back, and compare with `state`; the density of each sparse weight."""
    squared = [n for n, m in model.named_modules() if isinstance(m, SquaredReLU)]
    describe = partial(write_config, model=model, dtype=dtype, config=config)
    header = {**header, "tied": tied, "squared_relu": squared}
    named = _write(folder, tensors, header, describe)
    _compare(load_weights(folder), state)
    unnamed = [name for name in squared if name not in named]
    if unnamed and config is None and header["format"] != "packed":  # load_packed sets them
        warnings.warn(
            f"folder={folder}: its {CONFIG} cannot name the squared ReLU of "
            f"{first_three(unnamed)}: put it into a model that loads the folder, where {HEADER} "
            "says (docs/export.md)",
            stacklevel=3,
        )
    weights = header["weights"].items()
    return {key.removesuffix(".weight"): each["density"] for key, each in weights}


def _untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that share memory once, under their first name, and the other names: safetensors
    holds no memory twice."""
    first: dict[tuple[int, torch.Size], str] = {}
    kept, tied = {}, {}
    for key, tensor in state.items():
        place = tensor.data_ptr(), tensor.shape
        if tensor.numel() and place in first:
            tied[key] = first[place]
        else:
            first[place] = key
            kept[key] = tensor.detach()
    return kept, tied


def _own_block(pattern: Pattern | None) -> tuple[int, int] | None:
    """Rows and columns of a pattern's blocks; None where it has none."""
    blocks = pattern.block if isinstance(pattern, Combined) else pattern
    return (blocks.rows, blocks.columns) if isinstance(blocks, Block) else None


def _block(
    name: str,
    weight: Tensor,
    pattern: Pattern | None,
    asked: tuple[int, int] | None,
    transposed: bool,
) -> tuple[int, int]:
    size = asked or _own_block(pattern)
    if size is None:
        raise ValueError(
            f"format=bsr: {name} has no blocks of its own: give block= with rows and columns, as "
            "(64, 64), and 64x64 on the command line"
        )
    size = (size[1], size[0]) if transposed else size
    rows, columns = weight.shape[0], weight[0].numel()
    if rows % size[0] or columns % size[1]:
        raise ValueError(
            f"format=bsr: {name}.weight is {rows}×{columns}, not whole blocks of "
            f"{size[0]}×{size[1]}: give another block"
        )
    return size


def _write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    describe: Callable[[Path], set[str]],
) -> set[str]:
    """Write the files of a folder; what `describe` returns."""
    with installed("safetensors", "save_pretrained"):
        from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    named = describe(folder)
    (folder / HEADER).write_text(json.dumps(header, indent=2) + "\n", "utf-8")
    unfinished = folder / f".{WEIGHTS}.unfinished"
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    # Not save_file: its files are readable by their owner alone.
    unfinished.write_bytes(save(plain, metadata={"format": "pt"}))
    os.replace(unfinished, folder / WEIGHTS)
    return named


def _compare(written: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    for key, expected in state.items():
        found = written[key]
        found = found if found.layout == torch.strided else found.to_dense()
        found, expected = found.reshape(expected.shape), expected.cpu()
        if expected.dtype == torch.float8_e4m3fn:
            found, expected = found.view(torch.uint8), expected.view(torch.uint8)
        if not torch.equal(found, expected):
            raise ValueError(f"{key} was read back different from what the model multiplies by")


def _density(weight: Tensor) -> float:
    return int(weight.count_nonzero()) / max(weight.numel(), 1)
