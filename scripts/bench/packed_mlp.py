"""What the MLP of a packed model spends its forward on, and what fusing saves.

    python -m scripts.bench.packed_mlp
    python -m scripts.bench.packed_mlp shapes=25216x1024x4096 json=FILE

What does GELU cost at the end of fc1's product, in a kernel of our own and in
Inductor's (bfloat16)? Is quantizing as a part of the compiled graph faster
than the op (fp8)? What does fc1 with GELU and an 8-bit result at its end take,
with the bound of its rows (fp8)? And the whole MLP, compiled, as one function
or with Inductor's GELU (bfloat16, fp8 and int8)?
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from rich.table import Table
from timm.layers.mlp import Mlp
from torch import Tensor

from scripts.bench.command import run
from sparsetrain import ops
from sparsetrain.bench.environment import environment
from sparsetrain.bench.json_file import write_json
from sparsetrain.bench.products import Shape
from sparsetrain.bench.timing import Run, cuda_clocks, measure
from sparsetrain.cli.bench_words import (
    cuda_device,
    library_words,
    read_options,
    read_path,
    read_rounds,
    read_shapes,
)
from sparsetrain.cli.console import console
from sparsetrain.inference import PackedLinear, PackedMlp
from sparsetrain.reference.quantize import quantize as definition

_E4M3 = torch.float8_e4m3fn
_SHAPES = (Shape(25216, 1024, 4096), Shape(16448, 1280, 5120), Shape(32768, 1280, 5120))
"""ViT-L, ViT-H and Segment Anything's encoder."""


def main(words: list[str]) -> None:
    """Time the parts at each shape, in turn."""
    options = read_options(words, ("shapes", "rounds", "json"))
    shapes, rounds = read_shapes(options, _SHAPES), read_rounds(options, 20)
    file, device = read_path("json", options), cuda_device()
    console.print(library_words(), style="dim")
    clocks = cuda_clocks()
    table = Table("µs, medians", *(str(shape) for shape in shapes), box=None)
    found = []
    for shape in shapes:
        torch.compiler.reset()
        with torch.inference_mode():
            found.append(measure(parts(shape, device), clocks.warm, rounds))
    for name in found[0]:
        table.add_row(name, *(f"{times[name].median:.0f}" for times in found))
    console.print(table)
    if file is not None:
        command = " ".join(["python -m scripts.bench.packed_mlp", *words])
        medians = {
            str(shape): {name: time.median for name, time in times.items()}
            for shape, times in zip(shapes, found, strict=True)
        }
        about = environment(command, library_words())
        write_json(file, {"about": about, "rounds": rounds, "us": medians})


def parts(shape: Shape, device: torch.device) -> dict[str, Run]:
    """What is timed, by name; each gives its result."""

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, device=device).bfloat16()

    x_TI, z_TH = normal(shape.tokens, shape.features), normal(shape.tokens, shape.hidden)
    w_HI, b_H = normal(shape.hidden, shape.features), normal(shape.hidden)
    w24_HI = ops.mask24(w_HI, ops.select24(w_HI, "row"))
    in_16 = PackedLinear.pack(w24_HI, b_H, torch.bfloat16)
    in_8 = PackedLinear.pack(w24_HI, b_H, _E4M3)
    gelu = torch.compile(F.gelu)
    alone = torch.compile(lambda z: definition(z, _E4M3, "row", False))
    fused = torch.compile(lambda z: definition(F.gelu(z), _E4M3, "row", False))
    assert in_8.scales is not None, "8-bit values have scales"
    q_TI, scales = ops.quantize(x_TI, _E4M3)
    given = in_8.values, in_8.meta, in_8.scales, q_TI.T, scales.T, in_8.bias, True
    mlps: dict[str, Run] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp8", _E4M3), ("int8", torch.int8)):
        apart = _mlp(w24_HI, b_H, dtype)
        one = torch.compile(PackedMlp.from_dense(apart))
        apart = torch.compile(apart)
        mlps[f"MLP, {name}, GELU Inductor's"] = partial(apart, x_TI)
        mlps[f"MLP, {name}, one function"] = partial(one, x_TI)
    return {
        "fc1, bf16": lambda: in_16.of_tokens(x_TI),
        "fc1 with GELU at its end": lambda: in_16.gelu_of_tokens(x_TI),
        "fc1, fp8, x quantized": lambda: ops.scaled_matmul24(*given),
        "fc1, fp8, GELU at its end, fp8": lambda: in_8.gelu_of_rows(q_TI, scales, "none"),
        "GELU": lambda: gelu(z_TH),
        "GELU: the op": lambda: ops.gelu(z_TH),
        "quantize: the op": lambda: ops.quantize(z_TH, _E4M3),
        "quantize: in the graph": lambda: alone(z_TH),
        "GELU, then the op": lambda: ops.quantize(gelu(z_TH), _E4M3),
        "GELU and quantize in one graph": lambda: fused(z_TH),
        "GELU and quantize: one op": lambda: ops.gelu_quantize(z_TH, "none", _E4M3),
        **mlps,
    }


def _mlp(w24_HI: Tensor, b_H: Tensor, dtype: torch.dtype) -> Mlp:
    """An MLP packed in `dtype`: fc1 has this weight, fc2 its transpose, made 2:4 along its rows."""
    hidden, features = w24_HI.shape
    w_OH = w24_HI.T.contiguous()
    w24_OH = ops.mask24(w_OH, ops.select24(w_OH, "row"))
    mlp = Mlp(features, hidden).eval()
    mlp.fc1 = PackedLinear.pack(w24_HI, b_H, dtype)  # pyright: ignore
    mlp.fc2 = PackedLinear.pack(w24_OH, b_H[:features], dtype)  # pyright: ignore
    return mlp


if __name__ == "__main__":
    run(main, __doc__)
