"""Which engine multiplies a layer, and why: asked once, when a model is made sparse.

    native   CUDA, compute capability 9.0, a kernel library with matmul24
    aten     CUDA, compute capability 8.x, features in multiples of 64
    masked   anywhere; float32 on a GPU too, whatever the layer was given
Where the number of tokens is known, a layer whose native products are no faster than dense ones,
all together, is masked; so is one of which not all is measured and less than LEAST_GAIN expected.
On a CPU `native` is its definition in plain PyTorch: for tests, and only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from sparsetrain import native
from sparsetrain.native import Library
from sparsetrain.native.machine import Version
from sparsetrain.nn.gains import gain_of, products_of
from sparsetrain.nn.sparsity import Part
from sparsetrain.patterns import NM
from sparsetrain.products import (
    ENGINES,
    FP8,
    Engine,
    Entry,
    Problem,
    install,
    load_table,
    native_configs,
)
from sparsetrain.products.aten import FEATURES as ATEN_FEATURES
from sparsetrain.products.problem import LEAST_GAIN

HOPPER: Version = (9, 0)


@dataclass(frozen=True)
class Engines:
    """What layers may run on: asked for, or `auto`. library: as it was loaded.

    gpu: compute capability, None without a CUDA device. entries: what `tune` measured here.
    """

    asked: Engine | Literal["auto"]
    gpu: Version | None
    library: Library
    entries: Mapping[Problem, Entry] = field(default_factory=dict)

    def of_part(
        self, name: str, part: Part, shape: tuple[int, ...], tokens: int | None = None
    ) -> tuple[Engine, str]:
        """The engine of a layer, or MLP, that is to be sparse as `part` says, and a line that says
        which and why.

        shape: (O, I), or (I, H, O) of an MLP. tokens: rows that it multiplies, where that is known.
        Raises ValueError where the engine that was asked for cannot multiply it.
        """
        if not isinstance(part.pattern, NM):
            if self.asked not in ("auto", "masked"):
                raise ValueError(
                    f"engine={self.asked!r}: {name} has the pattern {part.pattern}, and "
                    f"{self.asked} multiplies 2:4 weights alone; use engine='auto'"
                )
            return "masked", f"masked: {part.pattern} has no product of its own"
        if part.format is not None:
            return self._of_format(name, part, part.format, shape, tokens)
        odd = [str(feature) for feature in shape if feature % ATEN_FEATURES]
        obstacle = f"{', '.join(odd)} features are not multiples of {ATEN_FEATURES}" if odd else ""
        if self.asked == "aten" and obstacle:
            raise ValueError(
                f'engine="aten": {name} has {"×".join(map(str, shape))}, and {obstacle};'
                ' use engine="auto" or "masked", or exclude it'
            )
        if self.asked != "auto":
            return self.asked, f"{self.asked}: asked for"
        if self.gpu is None:
            return "masked", f"masked: {self.library.reason or 'no CUDA device'}"
        engine: Engine = "aten" if self.gpu[0] == 8 else "native"
        why = obstacle if engine == "aten" else why_not_native(self.gpu, self.library)
        if why:
            return "masked", f"masked: {why}"
        gain = self._gain(part, shape, tokens) if engine == "native" else None
        return (engine, f"{engine}: {sm(self.gpu)}") if gain is None else _by_gain(*gain)

    def _of_format(
        self, name: str, part: Part, format: FP8, shape: tuple[int, ...], tokens: int | None
    ) -> tuple[Engine, str]:
        """Of products in 8 bits; on a CPU they run in plain PyTorch. The user asked for this
        format, so the gain of its products is reported and decides nothing."""
        obstacle = "" if self.gpu is None else why_not_native(self.gpu, self.library)
        if self.gpu is not None and obstacle:
            raise ValueError(
                f"format={format}: {name} would run on {sm(self.gpu)}: {obstacle}; leave the "
                "format out, or run on a CPU"
            )
        if self.asked not in ("auto", "native"):
            raise ValueError(
                f"engine={self.asked!r}: {name} has format={format}, which engine='native' "
                "multiplies; use that or 'auto'"
            )
        if self.gpu is None:
            return "native", "native: fp8, its definition in plain PyTorch"
        # No times of products by block are known.
        gain = None if format.scaling == "block" else self._gain(part, shape, tokens)
        why = sm(self.gpu) if gain is None else f"{gain[0]}, {gain[2]}, without quantizing"
        return "native", f"native: fp8: {why}"

    def _gain(
        self, part: Part, shape: tuple[int, ...], tokens: int | None
    ) -> tuple[str, float, str] | None:
        """Of each sparse product in words, of their sum, and whether that is measured or expected;
        None where none is known."""
        products = products_of(tokens, shape, part) if tokens else {}
        if not products:
            return None
        sms = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
        gains = {what: gain_of(problem, self.entries, sms) for what, problem in products.items()}
        words = ", ".join(f"{what} {g.dense_us / g.native_us:.2f}×" for what, g in gains.items())
        gain = sum(g.dense_us for g in gains.values()) / sum(g.native_us for g in gains.values())
        return words, gain, "measured" if all(g.measured for g in gains.values()) else "expected"


def _by_gain(words: str, gain: float, source: str) -> tuple[Engine, str]:
    if source == "measured" and gain <= 1:
        return "masked", f"masked: native is no faster here, measured: {words}"
    if source == "expected" and gain < LEAST_GAIN:
        why = f"native may be no faster here, below {LEAST_GAIN}× in all expected"
        return "masked", f"masked: {why}: {words}"
    return "native", f"native: {words}, {source}"


def find_engines(engine: Engine | Literal["auto"], on_cpu: bool = False) -> Engines:
    """What this machine has for `engine`; the kernels are compiled first if there is a GPU.

    on_cpu: the model will run there, whatever else the machine has.

    Where native products may run, the table that `tune` measured goes to the library. Raises
    ValueError for an unknown engine, for one that this machine cannot run, and for a broken table.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: choose auto or one of {', '.join(ENGINES)}")
    if on_cpu and engine == "auto":
        return Engines(engine, None, Library(reason="the model runs on a CPU"))
    if not torch.cuda.is_available():
        if engine == "aten":
            raise ValueError(
                'engine="aten": there is no CUDA device, and PyTorch has these products on compute'
                ' capability 8.x alone; use engine="auto"'
            )
        return Engines(engine, None, native.load())
    library, gpu = native.require(), _capability()
    obstacle, why = why_not_native(gpu, library), ""
    if engine == "native" and obstacle:
        why = f"{obstacle}; {library.fix}" if gpu == HOPPER and library.fix else obstacle
    elif engine == "aten" and gpu[0] != 8:
        why = f"PyTorch's 2:4 products refuse {sm(gpu)}, they are for compute capability 8.x"
    if why:
        raise ValueError(f'engine="{engine}": {why}; use engine="auto"')
    if obstacle or engine == "aten":
        return Engines(engine, gpu, library)
    table = load_table()
    install(native_configs(table))
    return Engines(engine, gpu, library, {} if table is None else table.entries)


def why_not_native(gpu: Version, library: Library) -> str:
    """Why the native products do not run; empty where they do."""
    if gpu != HOPPER:
        return f"native products need compute capability 9.0, and this is {sm(gpu)}"
    if library.path is None:
        return library.reason
    if not torch._C._dispatch_has_kernel_for_dispatch_key("sparsetrain::matmul24", "CUDA"):
        return "the kernel library has no products"
    return ""


def sm(gpu: Version) -> str:
    """'sm_80'."""
    return f"sm_{gpu[0]}{gpu[1]}"


def _capability() -> Version:
    """Of the current CUDA device. Starts CUDA only where the GPUs of the machine differ."""
    gpus = set(native.look().gpus)
    return gpus.pop() if len(gpus) == 1 else torch.cuda.get_device_capability()
