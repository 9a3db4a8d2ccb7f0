"""Numbers read later are those of when they were asked for."""

import pytest
import torch

from sparsetrain.lightning.later import Later


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_changes_after_it_was_asked_do_not_show(device):
    values = torch.tensor([1.0, torch.nan], device=device)
    later = Later(values)
    values.zero_()
    assert later.read().tolist() == pytest.approx([1.0, torch.nan], nan_ok=True)


@pytest.mark.gpu
def test_asking_does_not_wait_and_reading_does():
    values = torch.ones(4, device="cuda")
    torch.cuda.synchronize()
    torch.cuda._sleep(500_000_000)
    values.mul_(3)
    later = Later(values)
    assert not torch.cuda.current_stream().query()
    assert later.read().tolist() == [3.0] * 4
