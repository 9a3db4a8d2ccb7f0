"""How much of a model is sparse, and which of its matrices are in no `nn.Linear`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsetrain.nn.flops import Tokens
from sparsetrain.nn.linear import sparse_linears
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.report import LayerReport, Shares, grouped
from sparsetrain.nn.roles import known_roles

_SIZEABLE = 0.01  # of the parameters: below, a kind of matrix is not worth a row


def shares_of(model: nn.Module, tokens: Mapping[str, int]) -> Shares:
    """The shares of a sparse model. tokens: rows of each linear layer, empty if not known."""
    sparse = sparse_linears(model)
    parameters = sum(p.numel() for p in model.parameters() if not is_lazy(p))
    pruned = sum({id(m.weight): m.weight.numel() for m in sparse.values()}.values())
    # Of 2:4 activations the product of fc2 is sparse, whatever its weight is.
    mlps = {n: m for n, m in model.named_modules() if isinstance(m, SparseMlp)}
    second = {f"{n}.{known_roles(m).fc2}" for n, m in mlps.items() if m.method is not None}
    names = {*sparse, *second}
    rows = tokens.calls if isinstance(tokens, Tokens) else tokens
    flops = {
        name: 2 * layer.weight.numel() * (rows.get(name, 0) if rows else 1)
        for name, layer in _linears(model)
    }
    total, of = sum(flops.values()), "that its linear layers spend on a token"
    if isinstance(tokens, Tokens):
        total, of = tokens.flops, "of all matrix products of a forward"
    elif rows:
        of = "that its linear layers spend on the tokens of each"
    saved = sum(flops[name] for name in names)
    return Shares(pruned / parameters, saved / total if total else 0.0, of)


def unreached(model: nn.Module) -> tuple[LayerReport, ...]:
    """The matrices in no linear layer, of kinds that hold at least 1 % of the parameters.

    Fused experts, transformers' Conv1D, convolutions, embeddings, the in_proj of attentions.
    """
    least = _SIZEABLE * sum(p.numel() for p in model.parameters() if not is_lazy(p))
    rows = tuple(_rows(model))
    large = [row for row, count in grouped(rows) if count * math.prod(row.shape) >= least]
    kinds = {replace(row, name="") for row in large}
    return tuple(row for row in rows if replace(row, name="") in kinds)


def largest_unreached(model: nn.Module) -> str:
    """The kind of matrices in no linear layer that multiplies most, and why it cannot be sparse;
    empty without one."""
    rows = [row for row in _rows(model) if "looked up" not in row.reason]
    kinds = grouped(tuple(rows))
    if not kinds:
        return ""
    row, count = max(kinds, key=lambda kind: kind[1] * math.prod(kind[0].shape))
    return f"{row.name}{f' ({count})' if count > 1 else ''}: {row.reason}"


def _rows(model: nn.Module) -> Iterator[LayerReport]:
    seen = {id(p) for _, layer in _linears(model) for p in layer.parameters()}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not _is_matrix(parameter):
                continue
            seen.add(id(parameter))
            kind = type(module).__name__
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                why = f"{kind} is looked up, not multiplied"
            elif key == "weight":
                why = f"{kind} is no nn.Linear"
            else:
                why = f"a parameter of {kind}, in no nn.Linear"
            full = name if key == "weight" else f"{name}.{key}".lstrip(".")
            yield LayerReport(full, tuple(parameter.shape), "dense", reason=why)


def _is_matrix(parameter: Tensor) -> bool:
    return not is_lazy(parameter) and sum(size > 1 for size in parameter.shape) > 1


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not is_lazy(module.weight):
            yield name, module
