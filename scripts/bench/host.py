"""The host's time of a training step of `fit`, on a CPU: Python, Lightning, PyTorch's dispatch.

    python -m scripts.bench.host one
    python -m scripts.bench.host fsdp2 --json host.json --profile host.txt
    torchrun --nproc-per-node 2 -m scripts.bench.host ddp

A proxy for the host of a GPU, and no GPU's time: `fit` trains ViT-B's 12 blocks at width 64 on two
images of 5 tokens, compiled as `compile=auto` does on a GPU, with fused AdamW and ops that only
allocate (host_ops.cpp). Launches of CUDA kernels and of NCCL are not in it. `fsdp2` alone is the
first of two processes in a group that sends nothing; under torchrun it and `ddp` are real ones, by
gloo. Prints the CPU time of the main thread, the median of the steps after WARM, and its least.
--profile writes Python's profile of those steps, which take longer then. Further words go to `fit`.
Needs ninja and a C++ compiler.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.utils.cpp_extension import load

from sparsetrain.cli import fit
from sparsetrain.cli.run import run_fit
from sparsetrain.lightning import classifier, ddp
from sparsetrain.lightning.callbacks import compile as compile_
from sparsetrain.lightning.flavour import Callback, pl

WARM = 40
"""Steps before the first that counts: compiling, the first phases."""

WORDS = (
    "recipe=vit_b_24_fast",
    "callbacks=default",
    "data=synthetic",
    "data.batch_size=2",
    "data.num_classes=1000",
    "model.img_size=32",
    "+model.options.embed_dim=64",
    "+model.options.num_heads=4",
    "engine=native",
    "sparsity.schedule.dense_warmup=0",
    "sparsity.schedule.dense_tail=0",
    "optimizer.warmup_epochs=0",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.limit_val_batches=0",
    "callbacks.masks=null",
    "logger=csv",
    "cpu_threads=1",
)


class Clock(Callback):
    """CPU time of the main thread at the start of each step.

    alone: this process answers for both of a group that sends nothing.
    """

    def __init__(self, alone: bool, profiled: bool) -> None:
        self.alone = alone
        self.profile = cProfile.Profile() if profiled else None
        self.at: list[float] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.alone:
            strategy: Any = trainer.strategy
            strategy.reduce_boolean_decision = lambda decision, all=True: decision

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.at.append(time.thread_time())
        if self.profile is not None and len(self.at) == WARM:
            self.profile.enable()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.profile is not None:
            self.profile.disable()

    def steps(self) -> list[float]:
        """Milliseconds of each step that counts."""
        counted = self.at[WARM:]
        return [1e3 * (end - start) for start, end in pairwise(counted)]


def as_on_a_gpu() -> None:
    """Have `fit` do on a CPU what it does on a GPU."""
    source = Path(__file__).with_name("host_ops.cpp")
    load("sparsetrain_host_ops", [str(source)], is_python_module=False)
    compile_.why_eager = lambda trainer: None
    make: Any = classifier.create_optimizer_v2
    classifier.create_optimizer_v2 = lambda *args, **more: make(*args, **{**more, "fused": True})
    ddp.BUCKET_MB = 1  # as many buckets for these few weights


def as_first_of_two() -> None:
    """This process as one of a group of two that sends nothing."""
    from torch.distributed.fsdp._fully_shard import _fsdp_collectives
    from torch.testing._internal.distributed.fake_pg import FakeStore

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "GROUP_RANK": "0"}
    os.environ["TORCHELASTIC_RUN_ID"] = "host"
    init: Any = distributed.init_process_group
    store: Any = FakeStore()
    fake: Any = lambda *args, **more: init(backend="fake", store=store, rank=0, world_size=2)  # noqa: E731
    distributed.init_process_group = distributed.distributed_c10d.init_process_group = fake
    # What is gathered from nobody must be numbers.
    _fsdp_collectives.DefaultAllocMixin.allocate = lambda self, size, *, dtype, device: torch.zeros(
        *size, dtype=dtype, device=device
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the host's part of a step of `fit`.")
    parser.add_argument("mode", choices=("one", "ddp", "fsdp2"))
    parser.add_argument("words", nargs="*", help="of fit")
    parser.add_argument("--steps", type=int, default=140)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", type=Path)
    args = parser.parse_intermixed_args()
    if args.steps < WARM + 2:
        parser.error(
            f"--steps {args.steps}: the first {WARM} are not timed; give {WARM + 2} or more"
        )
    torch.set_num_threads(1)
    started = "WORLD_SIZE" in os.environ
    if args.mode == "ddp" and not started:
        parser.error(
            "ddp wants two processes: torchrun --nproc-per-node 2 -m scripts.bench.host ddp"
        )
    alone = args.mode == "fsdp2" and not started
    as_on_a_gpu()
    if alone:
        as_first_of_two()
    first = os.environ.get("RANK", "0") == "0"  # which writes files
    profile = args.profile if first else None
    clock = Clock(alone, profile is not None)
    several = ["trainer.devices=2", f"trainer.strategy={args.mode}"]
    words = [*WORDS, *(["trainer.devices=1"] if args.mode == "one" else several)]
    build: Any = fit.build_trainer
    fit.build_trainer = lambda config, callbacks: build(config, [clock, *callbacks])
    with tempfile.TemporaryDirectory() as folder:
        words += [f"data.length={4 * args.steps}", f"trainer.max_steps={args.steps}"]
        words += [f"hydra.run.dir={folder}", *args.words]
        sys.argv = ["sparsetrain", "fit", *words]
        run_fit(words)
    steps = clock.steps()
    row = {"mode": args.mode, "median_ms": statistics.median(steps), "min_ms": min(steps)}
    print(f"{args.mode:6} {row['median_ms']:6.1f} ms a step, {row['min_ms']:.1f} at least")
    if args.json and first:
        args.json.write_text(
            json.dumps({**row, "steps": len(steps), "words": args.words}, indent=1)
        )
    if profile is not None and clock.profile is not None:
        text = io.StringIO()
        pstats.Stats(clock.profile, stream=text).sort_stats("tottime").print_stats(60)
        profile.write_text(text.getvalue())


if __name__ == "__main__":
    main()
