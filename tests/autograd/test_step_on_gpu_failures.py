"""Steps that break off, out of memory or at Ctrl-C, leave a model that trains as any other."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, needs_kernels
from matmul_checks import needs_hopper
from step_checks import Batch, Run, batch, kinds, memory_in_use

import sparsetrain as st

pytestmark = [pytest.mark.gpu, needs_kernels, needs_hopper]

MB = 2**20


def assert_trains_as_if_nothing_had_failed(broken: Run, kind: str) -> None:
    """Two steps, masks chosen between them, beside those of a model that never failed."""
    sound = Run(kind)
    for number in range(2):
        losses = [float(run.step(*batch(number))) for run in (broken, sound)]
        # Not exact: the gradients of attention and convolutions are sums in any order.
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        grads = broken.grads()
        for name, expected in sound.grads().items():
            assert (grads[name] - expected).norm() <= 0.02 * expected.norm(), name
        for run in (broken, sound):
            st.update_masks(run.model)


def out_of_memory(*_: Any) -> None:
    torch.empty(2**50, dtype=torch.uint8, device=DEVICE)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


ERRORS = {torch.OutOfMemoryError: out_of_memory, KeyboardInterrupt: interrupt}


@kinds
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", ["forward", "backward"])
def test_a_step_that_breaks_off_in_the_second_block_leaves_the_model_sound(place, error, kind):
    run = Run(kind)
    block = run.model.blocks[1]

    def in_the_backward(module: Any, given: Any, output: torch.Tensor) -> None:
        output.register_hook(ERRORS[error])

    if place == "forward":
        hook = block.attn.proj.register_forward_pre_hook(ERRORS[error])
    else:
        hook = block.attn.register_forward_hook(in_the_backward)
    with pytest.raises(error):
        run.step(*batch(7))
    broke_before_its_end = [p.grad is None for p in run.model.blocks[0].parameters()]
    assert all(broke_before_its_end)
    hook.remove()
    assert_trains_as_if_nothing_had_failed(run, kind)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let this process reserve `size` bytes in all, whatever others have on the GPU."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction(size / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def runs_out_of_memory(run: Run, data: Batch, size: int) -> bool:
    with at_most(size):
        try:
            run.gradients(*data)
        except RuntimeError as error:
            # PyTorch's own error, or what its stable ABI makes of it for a kernel of ours.
            if "out of memory" in str(error) or "API call failed" in str(error):
                return True
            raise
    return False


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    """The thread of autograd may free a failed graph after this thread has caught the error."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@kinds
def test_a_step_may_run_out_of_memory_anywhere(kind):
    """With a twelfth more of the memory that a large step takes each time, it fails later."""
    run = Run(kind)
    masters = [p.detach().clone() for p in run.model.parameters()]
    large = batch(7, size=2048)
    run.gradients(*large)  # so that libraries have their workspaces
    run.optimizer.zero_grad()
    before, held = memory_in_use(), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run.gradients(*large)
    needed = torch.cuda.max_memory_allocated() - held
    for twelfth in range(1, 12):
        run.optimizer.zero_grad()
        assert runs_out_of_memory(run, large, held + needed * twelfth // 12), twelfth
    run.optimizer.zero_grad()
    assert eventually(lambda: memory_in_use() < before + MB)
    for parameter, master in zip(run.model.parameters(), masters, strict=True):
        assert torch.equal(parameter, master)
    assert_trains_as_if_nothing_had_failed(run, kind)
