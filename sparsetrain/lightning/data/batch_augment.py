"""`Augment` for whole batches on the device: the distribution of `transforms.train_transform`.

Every random number is a function of (seed, epoch, index), see draws.py, and no image depends on
the others of its batch. The order is that of the transform for single images: crop and flip,
the policy, normalisation, erasing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsetrain.lightning.data.batch_crop import (
    BOX_DRAWS,
    crop_each,
    crop_padded,
    crop_resize,
    draw_boxes,
)
from sparsetrain.lightning.data.batch_layers import apply
from sparsetrain.lightning.data.batch_policies import LAYER_DRAWS, batched
from sparsetrain.lightning.data.draws import AUGMENT_STREAM, uniform, upload
from sparsetrain.lightning.data.transforms import Augment

CROP_DRAWS = ERASE_DRAWS = BOX_DRAWS + 2
NOISE_DRAWS, SHIFT_DRAWS = 1, 2
NOISE = 2**22
"""Normal numbers that the noise of erased boxes is taken from, at least."""
CHUNK_PIXELS = 4 * 256 * 224**2
"""Augmented at once: enough that launching kernels costs little. The float32 result has 0.6 GB."""


class BatchAugment:
    """Augment a batch: uint8 images -> float32 [B, 3, img_size, img_size], normalised.

    Args:
        augment: what is random; its `color_jitter` has no form here.
        img_size: edge of the result, pixels.
        mean, std: of each channel, subtracted from and divided into values in [0, 1].
        seed: with epoch and index it decides every random number.
        device: where images are augmented; random numbers are drawn on the CPU.
        crop: whether images are cropped and mirrored here; if not, they were, and are changed in
            place.

    Raises:
        ValueError: for a part of `augment` that has no batched form.
    """

    def __init__(
        self,
        augment: Augment,
        img_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        device: torch.device,
        crop: bool = True,
    ) -> None:
        policy = augment.auto_augment
        if augment.color_jitter is not None and policy is None:
            raise ValueError(
                f"data.augment.color_jitter={augment.color_jitter} has no form on the GPU; give "
                "null, or data.cache=null and data.gpu=augment, which leaves it to the loading "
                "processes"
            )
        moves = (crop and augment.scale is not None) or policy is not None
        if moves and augment.interpolation not in ("bilinear", "bicubic", "random"):
            raise ValueError(
                f"data.augment.interpolation={augment.interpolation} has no form on the GPU; give "
                "bilinear, bicubic or random, or data.cache=null data.gpu=null"
            )
        self.augment = augment
        self.policy = None if policy is None else batched(policy)
        if policy is not None and self.policy is None:
            raise ValueError(
                f"data.augment.auto_augment={policy!r} has no form on the GPU; give cifar10, "
                "rand-m9-mstd0.5-inc1 with numbers of yours, or null; or data.cache=null and "
                "data.gpu=augment, which leaves it to the loading processes"
            )
        self.bicubic = {"bilinear": 0.0, "random": 0.5}.get(augment.interpolation, 1.0)
        self.img_size = img_size
        self.seed = seed
        self.device = device
        self.crop = crop
        mean_C, std_C = torch.tensor(mean), torch.tensor(std)
        self.fill_C = (255 * mean_C).round().clamp(max=255).to(device)
        self.scale_C11 = (1 / (255 * std_C)).view(-1, 1, 1).to(device)
        self.shift_C11 = (-mean_C / std_C).view(-1, 1, 1).to(device)
        self.noise: Tensor | None = None

    def batches_at_once(self, batch_size: int) -> int:
        """How many batches are augmented together."""
        return max(1, CHUNK_PIXELS // (batch_size * self.img_size**2))

    @torch.no_grad()
    def __call__(self, images: Tensor | Sequence[Tensor], epoch: int, index_B: Tensor) -> Tensor:
        """images: [B, 3, h, w], or one [3, h, w] for each sample, on the device; without
        `augment.scale` a batch has the size of the result already. index_B: int64 [B] on the CPU,
        the samples' numbers in the set."""
        layers = 0 if self.policy is None else self.policy.layers
        sizes = [CROP_DRAWS, ERASE_DRAWS, LAYER_DRAWS * layers, NOISE_DRAWS, SHIFT_DRAWS]
        draws = uniform(self.seed, epoch, index_B, sum(sizes), AUGMENT_STREAM)
        crop, erase, policy, noise, shift = draws.split(sizes, dim=1)
        x = self._crop(images, crop) if self.crop else images
        assert isinstance(x, Tensor)
        if self.crop and self.augment.crop_padding:
            x = crop_padded(x, shift, self.augment.crop_padding)
        if self.policy is not None:
            for layer in self.policy.draw(policy, self.bicubic, self.img_size):
                apply(x, layer, self.fill_C)
        x = torch.addcmul(self.shift_C11, x.float(), self.scale_C11)
        if self.augment.reprob > 0:
            self._erase(x, erase, noise[:, 0])
        return x

    def _crop(self, images: Tensor | Sequence[Tensor], draws: Tensor) -> Tensor:
        """uint8 [B, 3, img_size, img_size], which nothing else refers to."""
        flip = draws[:, -1] < self.augment.hflip
        bicubic = draws[:, -2] < self.bicubic
        if isinstance(images, Tensor) and self.augment.scale is None:
            rows = upload(flip.nonzero()[:, 0], self.device)
            x = images.clone()
            x[rows] = x[rows].flip(3)
            return x
        one_size = isinstance(images, Tensor)
        shapes = [images.shape] if one_size else [image.shape for image in images]
        sizes = torch.tensor([shape[-2:] for shape in shapes]).expand(len(images), 2)
        box = torch.cat((torch.zeros_like(sizes), sizes), dim=1)
        if self.augment.scale is not None:
            low, high = self.augment.scale
            box = draw_boxes(draws, sizes, (low, high), 3 / 4, whole=True).long()
        if one_size:
            x = crop_resize(images.float(), box, flip, self.img_size, bicubic)
            return x.to(torch.uint8, memory_format=torch.contiguous_format)
        return crop_each(images, box, flip, self.img_size, bicubic)

    def _erase(self, x: Tensor, draws: Tensor, noise: Tensor) -> None:
        """Fill a random box of some samples, in place."""
        B, C, H, W = x.shape
        rows = (draws[:, -1] < self.augment.reprob).nonzero()[:, 0]
        size = torch.tensor([[H, W]]).expand(B, 2)
        boxes = upload(draw_boxes(draws, size, (0.02, 1 / 3), 0.3)[rows], self.device)
        top, left, height, width = (edge[:, None] for edge in boxes.unbind(1))
        y = torch.arange(H, device=self.device)
        z = torch.arange(W, device=self.device)
        down = (y >= top) & (y < top + height)
        along = (z >= left) & (z < left + width)
        erased = down[:, None, :, None] & along[:, None, None, :]
        at = upload(rows, self.device)
        x[at] = torch.where(erased, self._filling(noise[rows], (C, H, W)), x[at])

    def _filling(self, draws_N: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """What boxes are filled with: 0, or normal numbers for each sample's colour or pixels, from
        a random place of the same ones."""
        C, H, W = shape
        if self.augment.remode == "const":
            return torch.zeros((), device=self.device)
        if self.augment.remode == "rand":
            H = W = 1
        if self.noise is None:
            # drawn on the CPU, so that a GPU has the same
            generator = torch.Generator().manual_seed(self.seed)
            count = max(NOISE, 2 * C * H * W)  # of images of more than 836 pixels
            self.noise = torch.randn(count, generator=generator).to(self.device)
        windows = self.noise.unfold(0, C * H * W, 1)
        at_N = upload((draws_N * len(windows)).long(), self.device)
        return windows[at_N].view(-1, C, H, W)
