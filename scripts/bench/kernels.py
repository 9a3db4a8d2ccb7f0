"""What a step of `bench step` spends the GPU's time on, kernel by kernel.

    python -m scripts.bench.kernels models=vit_l variants=all+attn,fp8
    python -m scripts.bench.kernels mode=inference models=vit_h \\
        variants=fp8-24 json=kernels.json

For each variant: ms of a step from the first kernel's start to the last one's
end, in which any kernel ran, and of each kernel, with its launches; the mean of
four traced steps. words: mode, models, variants and batch as of `bench step`;
json=FILE for every kernel.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from scripts.bench.command import run
from sparsetrain.bench.environment import environment
from sparsetrain.bench.gpu_trace import Profile, profile_of
from sparsetrain.bench.inference import InferenceStep, prepare_inference, prune_for_inference
from sparsetrain.bench.json_file import write_json
from sparsetrain.bench.step_rows import Vit
from sparsetrain.bench.train_step import TrainStep
from sparsetrain.bench.variants import (
    InferenceVariant,
    Variant,
    compiled,
    many_graphs,
    prepare,
)
from sparsetrain.cli.bench_step import KINDS
from sparsetrain.cli.bench_words import (
    check_name,
    cuda_device,
    library_words,
    read_count,
    read_names,
    read_options,
    read_path,
)
from sparsetrain.cli.console import console
from sparsetrain.lightning.network import build_network

_UNTRACED, _TRACED, _SHOWN, _WIDTH = 6, 4, 40, 100


def main(words: list[str]) -> None:
    """Trace every variant of every model, one after the other."""
    options = read_options(words, ("mode", "models", "variants", "batch", "json"))
    mode = options.get("mode", "train")
    check_name("mode", mode, tuple(KINDS))
    kind = KINDS[mode]
    vits = [kind.models[name] for name in read_names("models", options, tuple(kind.models))]
    names = read_names("variants", options, tuple(kind.variants), tuple(kind.peers))
    batch, file = read_count("batch", options), read_path("json", options)
    device = cuda_device()
    found: dict[str, dict[str, Profile]] = {}
    for vit in vits:
        for name in names:
            variant = {**kind.variants, **kind.peers}[name]
            profile = trace(replace(vit, batch=batch or vit.batch), variant, device)
            found.setdefault(vit.name, {})[name] = profile
            show(f"{vit.name} {name}", profile)
            if file is not None:
                write(file, words, found)


def trace(vit: Vit, variant: Variant | InferenceVariant, device: torch.device) -> Profile:
    """Make the variant, run some steps, and trace the next ones."""
    torch.compiler.reset()
    torch.manual_seed(0)
    with many_graphs():
        step = make_step(vit, variant, device)
        for _ in range(_UNTRACED):
            step.run()
        torch.cuda.synchronize(device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for _ in range(_TRACED):
                step.run()
            torch.cuda.synchronize(device)
    return profile_of(profiler.events() or (), _TRACED)


def make_step(
    vit: Vit, variant: Variant | InferenceVariant, device: torch.device
) -> TrainStep | InferenceStep:
    """The step that `bench step` times."""
    with device:
        model = build_network(vit.timm, vit.pixels, vit.classes)
        images: Tensor = torch.randn(vit.batch, 3, vit.pixels, vit.pixels)
        labels = torch.randint(vit.classes, (vit.batch,)) if vit.classes else None
    if isinstance(variant, Variant):
        assert labels is not None, "only models with classes train"
        prepare(model, variant, "auto", images)
        return TrainStep(model, compiled(model, variant), images, labels)
    model.bfloat16().eval()
    if variant.packed is not None:
        prune_for_inference(model)
    prepare_inference(model, variant)
    return InferenceStep(compiled(model, variant), images.bfloat16())


def show(title: str, profile: Profile) -> None:
    console.print(f"\n{title}: {profile.span:.1f} ms, kernels in {profile.busy:.1f}")
    for kernel in profile.kernels[:_SHOWN]:
        line = f"{kernel.ms:8.3f} {kernel.launches:6.0f}  {kernel.name[:_WIDTH]}"
        console.print(line, markup=False, highlight=False)


def write(file: Path, words: list[str], found: dict[str, dict[str, Profile]]) -> None:
    command = " ".join(["python -m scripts.bench.kernels", *words])
    about = environment(command, library_words())
    models = {
        vit: {name: asdict(profile) for name, profile in profiles.items()}
        for vit, profiles in found.items()
    }
    write_json(file, {"about": about, "models": models})


if __name__ == "__main__":
    run(main, __doc__)
