"""Random numbers of a sample: a pure function of (seed, epoch, index), on any device.

Philox's counter is (index, place, epoch, stream) and its key is the seed, so a sample's numbers
depend neither on the batch that it is in nor on what was drawn before.
"""

import torch
from torch import Tensor

from sparsetrain.reference.philox import philox4x32, uniform24

AUGMENT_STREAM = 2
_LOW32 = 0xFFFFFFFF


def uniform(seed: int, epoch: int, index_B: Tensor, count: int, stream: int) -> Tensor:
    """Numbers in [0, 1), float32 [B, count], on the device of `index_B` (int64 [B])."""
    device = index_B.device
    place_P = torch.arange((count + 3) // 4, device=device)
    epoch_, stream_ = (torch.tensor(value, device=device) for value in (epoch, stream))
    key = tuple(torch.tensor(word, device=device) for word in (seed & _LOW32, seed >> 32 & _LOW32))
    words = philox4x32((index_B[:, None], place_P[None], epoch_, stream_), (key[0], key[1]))
    return uniform24(torch.stack(words, dim=-1).flatten(1)[:, :count])


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on a device; on CUDA neither side waits."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def normal(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normal numbers of each two uniform ones (Box and Muller)."""
    radius, angle = torch.sqrt(-2 * torch.log1p(-u)), 2 * torch.pi * v
    return radius * torch.cos(angle), radius * torch.sin(angle)
