"""Loading processes outlast the signal that asks a whole job to end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sparsetrain.lightning import read_checkpoint
from sparsetrain.lightning.data.workers import Loader, outlast_sigterm

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture
def two_threads() -> Iterator[None]:
    """After this PyTorch starts threads in every forked process, before any of our code."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "start", ["fork", *(pytest.param(s, marks=pytest.mark.slow) for s in ("spawn", "forkserver"))]
)
def test_a_loading_process_ends_by_the_sigterm_of_its_parent_alone(start, two_threads):
    batches, worker = started(start)
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # another process
    time.sleep(0.5)
    assert worker.is_alive()
    assert [int(batch) for batch in batches][-1] == 99
    worker.join(10)
    assert worker.exitcode == 0
    batches, worker = started(start)
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def started(start: str) -> Any:
    """Batches that a process loads, and that process."""
    data: Any = range(100)
    loader = Loader(
        data, num_workers=1, worker_init_fn=outlast_sigterm, multiprocessing_context=start
    )
    batches: Any = iter(loader)
    next(batches)
    return batches, batches._workers[0]


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["null", "augment"])
def test_a_job_whose_processes_all_get_sigterm_saves(tmp_path, gpu):
    train = tmp_path / "set"
    for label in range(2):
        write_images(train / f"{label}", 60)
    words = [
        "recipe=vit_tiny_24",
        "data=imagenet",
        f"data.root={train}",
        "data.val_fraction=0.1",
        f"data.gpu={gpu}",
        "cpu_threads=2",
        "data.num_workers=2",
        "data.batch_size=8",
        "trainer.limit_val_batches=0",
        "trainer.log_every_n_steps=1",
        "logger=csv",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    with (tmp_path / "said").open("w") as said:
        run = subprocess.Popen(
            [sys.executable, "-m", "sparsetrain", "fit", *words],
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        metrics = tmp_path / "run" / "metrics.csv"
        for _ in range(600):
            if metrics.exists() and metrics.read_text().count("\n") > 3:
                break
            time.sleep(0.2)
        os.killpg(run.pid, signal.SIGTERM)
        status = run.wait(60)
    text = (tmp_path / "said").read_text()
    assert status == 143, text[-2000:]
    assert "interrupted by SIGTERM after step" in text
    saved = tmp_path / "run" / "checkpoints" / "interrupted.ckpt"
    assert read_checkpoint(saved)["global_step"] > 0


def write_images(folder, count):
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    for number in range(count):
        pixels = random.randint(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
