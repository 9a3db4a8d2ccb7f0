"""The ways to train a model that `bench step` and scripts/bench/mlp.py compare.

Each is a copy of the same model, made sparse or not, in eager mode or compiled whole: without a
graph break, for the shapes it has. bfloat16 autocast, float32 parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.bench.dense_fp8 import Sharing, make_fp8
from sparsetrain.bench.torchao_fp8 import make_torchao_fp8
from sparsetrain.nn import Report, SquaredReLU, grouped
from sparsetrain.nn.roles import put_act, roles_of
from sparsetrain.products import Engine

Forward = Callable[[Tensor], Tensor]
Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]

MODES: tuple[Mode, ...] = (
    "default",
    "reduce-overhead",
    "max-autotune",
    "max-autotune-no-cudagraphs",
)
"""What `compile=` chooses from: the modes of torch.compile."""

DENSE = "dense"
"""The variant that the others are compared with."""

EAGER = "dense-eager"

_GRAPHS = 64


@dataclass(frozen=True)
class Variant:
    """One of them. sparsity: None leaves it dense; squared_relu: put into every MLP, as 2:4
    activations do; dense_fp8: globs of linear layers that run dense in fp8; torchao_fp8: the same
    by torchao."""

    name: str
    what: str
    sparsity: st.Sparsity | None = None
    squared_relu: bool = False
    compiled: bool = True
    dense_fp8: tuple[str, ...] = ()
    torchao_fp8: tuple[str, ...] = ()


@dataclass(frozen=True)
class InferenceVariant:
    """A way to run a model without gradients, compiled, in bfloat16. packed: the dtype that its 2:4
    weights are packed in; apart: the children of its MLPs are called; dense_fp8: what of a dense
    operand in fp8 shares a scale; dense_int8: dense, in int8 by row."""

    name: str
    what: str
    packed: torch.dtype | None = None
    apart: bool = False
    dense_fp8: Sharing | None = None
    dense_int8: bool = False


@dataclass(frozen=True)
class Setting:
    """How to run: mode of torch.compile, device, engine of the sparse layers."""

    rounds: int
    mode: Mode
    device: torch.device
    engine: Engine | Literal["auto"] = "auto"


_MLP, _ATTENTION = ("*mlp*",), ("*mlp*", "*attn*")
_ACTIVATION = st.Activation24()

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(EAGER, "the dense model, not compiled", compiled=False),
        Variant(DENSE, "the dense model, compiled: what × is over"),
        Variant("dense-relu2", "dense, compiled, squared ReLU for GELU", squared_relu=True),
        Variant("weights", "2:4 weights in the MLPs (STE)", st.Sparsity(_MLP)),
        Variant("weights+attn", "the same in qkv and proj as well", st.Sparsity(_ATTENTION)),
        Variant(
            "activations",
            "2:4 hidden activations through squared ReLU, dense weights",
            st.Sparsity(_MLP, weight=None, activation=_ACTIVATION),
        ),
        Variant(
            "all",
            "2:4 activations and weights in the MLPs: six sparse products of six",
            st.Sparsity(_MLP, activation=_ACTIVATION),
        ),
        Variant(
            "all+attn",
            "the same, and 2:4 weights in qkv and proj",
            st.Sparsity(_ATTENTION, activation=_ACTIVATION),
        ),
        Variant(
            "dense-fp8",
            "dense, those layers in fp8 by row through torch._scaled_mm, grad weight in bfloat16",
            dense_fp8=_ATTENTION,
        ),
        Variant(
            "fp8",
            "as all+attn, products but grad weights in fp8 (st.FP8)",
            st.Sparsity(_ATTENTION, activation=_ACTIVATION, format=st.FP8()),
        ),
    )
}

PEER_VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            "torchao-fp8",
            "dense, those layers in fp8 by torchao's float8 training, recipe rowwise",
            torchao_fp8=_ATTENTION,
        ),
    )
}
"""Those of other libraries, which run only where they are named."""

INFERENCE_VARIANTS = {
    variant.name: variant
    for variant in (
        InferenceVariant(DENSE, "the dense model: what × is over"),
        InferenceVariant("bf16-24", "2:4 weights, bfloat16 (st.quantize)", torch.bfloat16),
        InferenceVariant(
            "dense-fp8",
            "dense, in fp8 through torch._scaled_mm, a scale for each row of weight and input",
            dense_fp8="row",
        ),
        InferenceVariant(
            "dense-fp8-tensor",
            "the same with one scale for a weight, and one for an input",
            dense_fp8="tensor",
        ),
        InferenceVariant(
            "dense-int8",
            "dense, in int8 through torch._int_mm, a scale for each row of weight and input",
            dense_int8=True,
        ),
        InferenceVariant("fp8-24", "2:4 weights, fp8 (st.quantize)", torch.float8_e4m3fn),
        InferenceVariant("int8-24", "2:4 weights, int8 (st.quantize)", torch.int8),
    )
}
"""Those of `bench step mode=inference`; but for the first they change the layers of INFERENCE."""

INFERENCE_APART = {
    variant.name: variant
    for variant in (
        InferenceVariant(
            "fp8-24-apart",
            "as fp8-24, but GELU and quantizing are Inductor's, no op",
            torch.float8_e4m3fn,
            apart=True,
        ),
        InferenceVariant("int8-24-apart", "the same of int8-24", torch.int8, apart=True),
    )
}
"""What MLPs as one function are compared with; they run only where they are named."""

INFERENCE = _ATTENTION


def prepare(
    model: nn.Module,
    variant: Variant,
    engine: Engine | Literal["auto"] = "auto",
    example: Tensor | None = None,
) -> Report | None:
    """Make the model the variant, in place, and choose its masks once; what became of its layers.

    example: an input of the size of training, for `auto` to ask what each product gains.
    Raises ValueError as `sparsify` does.
    """
    if variant.squared_relu:
        for module in model.modules():
            if roles_of(module):
                put_act(module, SquaredReLU())
    make_fp8(model, variant.dense_fp8)
    if variant.torchao_fp8:
        make_torchao_fp8(model, variant.torchao_fp8)
    if variant.sparsity is None:
        return None
    tokens = None
    if engine == "auto" and example is not None:
        tokens = st.count_tokens(model, example.to("meta", torch.float32))
    report = st.sparsify(model, variant.sparsity, engine=engine, tokens=tokens)
    st.update_masks(model)
    return report


def compiled(
    model: nn.Module, variant: Variant | InferenceVariant, mode: Mode = "default"
) -> Forward:
    """The model's forward, compiled on its first call if the variant is."""
    if isinstance(variant, Variant) and not variant.compiled:
        return model
    return torch.compile(model, fullgraph=True, dynamic=False, mode=mode)


def many_graphs() -> AbstractContextManager[None]:
    """Let torch.compile make more than 8 graphs of the same code: each variant of a model runs the
    same `forward`. It raises at the limit."""
    return torch._dynamo.config.patch(recompile_limit=_GRAPHS)


def graphs_compiled() -> int:
    """How many graphs torch.compile has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def engine_counts(report: Report) -> dict[str, int]:
    """How many layers run on each engine."""
    counts: dict[str, int] = {}
    for layer in report.converted:
        engine = layer.engine.partition(":")[0]
        counts[engine] = counts.get(engine, 0) + 1
    return counts


def layer_words(report: Report) -> tuple[str, ...]:
    """What the products of each kind of native layer gain, where that is known; why layers that
    were to be sparse are not native; the report's word about missing kernels."""
    lines = [
        f"{row.name} ({count}): {row.engine}"
        for row, count in grouped(report.converted)
        if row.engine.partition(":")[0] != "native" or "×" in row.engine
    ]
    lines += [
        f"{row.name} ({count}): dense: {row.reason}"
        for row, count in grouped(report.skipped)
        if row.reason != "not named by include"
    ]
    return (*lines, report.kernels) if report.kernels else tuple(lines)
