"""Train a ViT on every GPU: is what each rank does the same, do checkpoints go
on, and how fast.

    torchrun --nproc-per-node 2 scripts/check_distributed.py \\
        strategy=fsdp2 json=fsdp2-2.json

model=vit_large_patch16_224 (timm), batch=128 (of each rank), steps=30 (timed,
after 10), strategy=ddp (or fsdp2), variant=all+attn (see `bench step`),
compile=true, bucket=100 (MB of gradients that DDP sums at once; compiled, it
cuts the graph there), gradients=float32 (or bfloat16: what DDP sums),
checkpoint=true (save and load), keep= (folder that the checkpoints stay in),
resume= (such a folder, which another number of processes may have written: go
on from it), json= (file to write).

Images are random and stay on the device; fused AdamW; bfloat16 by autocast
under DDP and by MixedPrecisionPolicy under FSDP2. Runs with one process too,
and on CPUs, where nothing is timed. Exits with an error where a check fails.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from distributed_training import Options, Training, parse
from help_text import answer_help
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

import sparsetrain as st
from sparsetrain.bench.environment import environment
from sparsetrain.bench.gpu_trace import profile_of
from sparsetrain.bench.variants import graphs_compiled, many_graphs
from sparsetrain.cli.bench_words import library_words
from sparsetrain.nn import load_sparse_state, sparse_linears, sparse_state

WARM_UP = 10
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
LOAD_WHOLE = StateDictOptions(full_state_dict=True)


def check_masks(model: nn.Module) -> int:
    """Every mask is rank 0's and its weight's density 0.5; how many there are."""
    stats = st.inspect(model)
    for layer, found in zip(sparse_linears(model).values(), stats, strict=True):
        first = layer.current_mask().clone()
        dist.broadcast(first, 0)
        if not torch.equal(first, layer.current_mask()):
            sys.exit(f"rank {dist.get_rank()}: the mask of {found.name} is not rank 0's")
        if found.density != 0.5:
            sys.exit(f"rank {dist.get_rank()}: the density of {found.name} is {found.density}")
    return len(stats)


def check_checkpoints(training: Training, folder: Path) -> dict[str, list[float]]:
    """Losses of two steps after saving, and after loading each kind of checkpoint: equal."""
    save(training.state(), checkpoint_id=folder / "sharded")
    masks = sparse_state(training.model)
    whole = training.state(WHOLE) | {"masks": masks}
    if dist.get_rank() == 0:
        torch.save(whole, folder / "whole.pt")
    del whole
    dist.barrier()
    losses = {"saved": training.losses(2)}
    state = training.state()
    load(state, checkpoint_id=folder / "sharded")
    training.load(state)
    load_sparse_state(training.model, masks)  # loading weights drops the masks of others
    losses["sharded"] = training.losses(2)
    state = torch.load(folder / "whole.pt", weights_only=True, mmap=True)
    training.load(state, LOAD_WHOLE)
    load_sparse_state(training.model, state["masks"])
    losses["whole"] = training.losses(2)
    for kind, (first, second) in losses.items():
        expected = losses["saved"]
        # A backward may add in another order each time, which the second loss shows.
        if abs(first - expected[0]) > 1e-5 or abs(second - expected[1]) > 1e-2:
            sys.exit(f"the losses after loading the {kind} checkpoint differ: {losses}")
    return losses


def check_resumed(training: Training, folder: Path) -> list[float]:
    """Losses of two steps from a sharded checkpoint that other ranks wrote. Its weights are those
    of the whole one, bit by bit."""
    whole = torch.load(folder / "whole.pt", weights_only=True, mmap=True)
    state = training.state()
    load(state, checkpoint_id=folder / "sharded")
    training.load(state)
    load_sparse_state(training.model, whole["masks"])
    found = training.state(WHOLE)["model"]
    bad = [name for name, x in found.items() if not torch.equal(x, whole["model"][name])]
    if dist.get_rank() == 0 and (bad or found.keys() != whole["model"].keys()):
        sys.exit(f"resume={folder}: {bad} are not what was saved")
    return training.losses(2)


def traced(training: Training, steps: int = 5) -> dict[str, float]:
    """Milliseconds of a step on this rank's GPU: in which any kernel ran, of NCCL's and of all
    others; and how many kernels. Where the GPU is idle for long, the host limits the step; where
    the others take longer than on one GPU, NCCL's take multiprocessors and memory from them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            training.step()
        torch.cuda.synchronize()
    events: Any = profiler.events()
    profile = profile_of(events, steps)
    nccl = [kernel for kernel in profile.kernels if kernel.name.startswith("nccl")]
    nccl_ms, all_ms = (sum(k.ms for k in kernels) for kernels in (nccl, profile.kernels))
    launches = sum(kernel.launches for kernel in profile.kernels)
    return {
        "traced_ms": profile.span,
        "busy_ms": profile.busy,
        "nccl_ms": nccl_ms,
        "other_kernels_ms": all_ms - nccl_ms,
        "launches": launches,
    }


def measure(training: Training, steps: int) -> dict[str, float]:
    """A step's median milliseconds on the slowest rank, the peak of the fullest, and where the time
    of this one goes."""
    torch.cuda.reset_peak_memory_stats()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    dist.barrier()
    events[0].record()
    for event in events[1:]:
        training.step()
        event.record()
    torch.cuda.synchronize()
    median = statistics.median(a.elapsed_time(b) for a, b in pairwise(events))
    peak = torch.cuda.max_memory_allocated() / 2**30
    worst = torch.tensor([median, peak], device="cuda")
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    step_ms, peak_gib = worst.tolist()
    rate = 1000 * dist.get_world_size() * len(training.images) / step_ms
    found = {"images_per_s": rate, "step_ms": step_ms, "peak_gib": peak_gib}
    return found | traced(training)


def run(options: Options, device: torch.device) -> dict[str, Any]:
    """What was found, as it goes into the file."""
    training = Training(options, device)
    found: dict[str, Any] = {"ranks": dist.get_world_size(), "losses": training.losses(WARM_UP)}
    if options.resume:
        found["losses_resumed"] = check_resumed(training, Path(options.resume))
    if device.type == "cuda":
        found |= measure(training, options.steps)
        found["about"] = environment(f"torchrun {' '.join(sys.argv)}", library_words())
    found["graphs"] = graphs_compiled()
    found["masks_checked"] = check_masks(training.model)
    if options.checkpoint:
        with tempfile.TemporaryDirectory() as own:
            folders = [options.keep or own]
            dist.broadcast_object_list(folders, 0)
            found["losses_after_checkpoints"] = check_checkpoints(training, Path(folders[0]))
            dist.barrier()
    return found


def main() -> None:
    answer_help(__doc__)
    try:
        options = parse(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
    if not dist.is_torchelastic_launched():
        sys.exit("start it with torchrun --nproc-per-node N scripts/check_distributed.py")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    with many_graphs():
        found = run(options, device)
    if dist.get_rank() == 0:
        for name, value in found.items():
            print(f"{name}: {value}")
        if options.json:
            Path(options.json).write_text(json.dumps(asdict(options) | found, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
