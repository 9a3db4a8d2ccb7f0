"""`doctor`: what this machine can run, and why not."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from sparsetrain import native
from sparsetrain.cli.console import console, show_values
from sparsetrain.cores import cores
from sparsetrain.lightning.attention import load_memory_efficient_attention
from sparsetrain.lightning.loggers import has_key, mode_of_environment
from sparsetrain.nn.engine import sm, why_not_native
from sparsetrain.nn.flops import dense_peak_flops
from sparsetrain.products import load_table
from sparsetrain.recipe import data_folder, recipe_names


def doctor(words: list[str]) -> None:
    """Print the versions, devices, engines, data and logging that `fit` would find."""
    if words:
        raise ValueError(f"doctor takes no words, and was given {' '.join(words)!r}")
    console.print("Versions", style="bold")
    _show((("python", platform.python_version()), *_versions()))
    console.print("\nDevices", style="bold")
    _show(_devices())
    console.print("\nEngines", style="bold")
    _show(_engines())
    console.print("\nRuns", style="bold")
    _show(_runs())


def _show(values: tuple[tuple[str, str], ...]) -> None:
    show_values(values, prose=dict(values))


def _versions() -> tuple[tuple[str, str], ...]:
    packages = ("sparsetrain", "torch", "torchvision", "timm", "pytorch-lightning", "hydra-core")
    return tuple((name, _version(name)) for name in (*packages, "wandb", "xformers", "onnx"))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> tuple[tuple[str, str], ...]:
    mine, whole = cores(), os.cpu_count()
    of = "" if mine == whole else f" of the machine's {whole}"
    rows = [("cpu", f"{mine} cores{of}, {torch.get_num_threads()} threads")]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"no device found (torch is built for CUDA {built})" if built else "torch has no CUDA"
        rows.append(("cuda", why))
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        major, minor = torch.cuda.get_device_capability(device)
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        peak = dense_peak_flops(device)
        flops = f"{peak / 1e12:.0f} dense bf16 TFLOP/s" if peak else "dense peak not known: no MFU"
        name = torch.cuda.get_device_name(device)
        rows.append((str(device), f"{name}, sm_{major}{minor}, {memory:.0f} GiB, {flops}"))
    return tuple(rows)


def _engines() -> tuple[tuple[str, str], ...]:
    return (
        ("masked", "yes: dense products with zeros, on CPU and CUDA; no speed-up"),
        ("native", _native()),
        ("aten", _aten()),
        ("kernels", _kernels()),
        ("nvcc", _nvcc()),
        ("xformers", _xformers()),
    )


def _native() -> str:
    if not torch.cuda.is_available():
        return "packed products in plain PyTorch, for tests: no CUDA device"
    gpu = torch.cuda.get_device_capability()
    why = why_not_native(gpu, native.load())
    if why:
        return f"no: {why}"
    return f"yes: sparse tensor cores of {sm(gpu)}; {_tuned()}"


def _tuned() -> str:
    try:
        table = load_table()
    except ValueError as error:
        return str(error)
    if table is None:
        return "not tuned: python -m sparsetrain tune"
    return f"{len(table.entries)} products tuned"


def _aten() -> str:
    if not torch.cuda.is_available():
        return "no: no CUDA device"
    gpu = torch.cuda.get_device_capability()
    if gpu[0] != 8:
        return f"no: PyTorch's own 2:4 products are for compute capability 8.x, this is {sm(gpu)}"
    return f"yes: PyTorch's own 2:4 products, bfloat16 and float16, on {sm(gpu)}"


def _kernels() -> str:
    library = native.load()
    if library.path is not None:
        return f"loaded: {library.path} ({native.sm(library.archs)})"
    return f"no: {library.reason}" + (f"; {library.fix}" if library.fix else "")


def _nvcc() -> str:
    """What `build` would compile with."""
    machine = native.look()
    try:
        toolkit = native.find_toolkit(machine, native.archs_for(machine.gpus) or native.ARCHS)
    except native.BuildError as error:
        return f"no: {error}"
    return f"CUDA {native.dotted(toolkit.cuda)}, {toolkit.nvcc} ({toolkit.where})"


def _xformers() -> str:
    try:
        load_memory_efficient_attention()
    except ValueError as error:
        return f"no: {str(error).removeprefix('model.attention=xformers: ')}"
    if not torch.cuda.is_available():
        return "its library loads, but it computes attention on CUDA devices only"
    return "yes: model.attention=xformers"


def _runs() -> tuple[tuple[str, str], ...]:
    imagenet = os.environ.get("IMAGENET_DIR")
    mode, why = mode_of_environment()
    without = "offline: no key; `wandb sync` uploads later"
    wandb = why or (
        f"{mode}: it has a key" if has_key() else without if mode == "offline" else mode
    )
    return (
        ("recipes", f"{', '.join(recipe_names())} ({data_folder('recipes')})"),
        ("imagenet", imagenet or "IMAGENET_DIR is not set: recipes run on embedded digits"),
        ("wandb", wandb),
    )
