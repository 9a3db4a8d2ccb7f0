"""AutoAugment's policy for CIFAR-10 in batches is torchvision's for single images."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision import transforms as tv
from torchvision.transforms.autoaugment import _apply_op

from sparsetrain.lightning.data.batch_layers import apply
from sparsetrain.lightning.data.batch_policies import (
    LAYER_DRAWS,
    AutoAugment,
    Drawn,
    RandAugment,
    batched,
)
from sparsetrain.lightning.data.draws import AUGMENT_STREAM, uniform
from sparsetrain.lightning.data.transforms import Augment, train_transform

SIZE, FILL = 32, [120.0, 130.0, 140.0]
MODE = tv.InterpolationMode.BILINEAR
THEIRS = tv.AutoAugment(tv.AutoAugmentPolicy.CIFAR10, MODE, FILL)
NAMES = sorted({operation[0] for both in THEIRS.policies for operation in both})


def picture() -> Any:
    pixels = np.random.RandomState(0).randint(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5))


def drawn_for(row: int, layer: int, sign: float) -> Drawn:
    """The operation of a layer of one sub-policy, applied for certain."""
    draws = torch.zeros(1, 2 * LAYER_DRAWS)
    draws[0, 0] = (row + 0.5) / len(THEIRS.policies)
    draws[0, [2, LAYER_DRAWS + 2]] = sign
    return AutoAugment().draw(draws, 0.0, SIZE)[layer]


def applied(drawn: Drawn) -> torch.Tensor:
    x = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None].clone()
    apply(x, drawn, torch.tensor(FILL))
    return x[0].permute(1, 2, 0).int()


@pytest.mark.parametrize("name", NAMES)
def test_each_operation_of_the_policy_is_torchvisions(name):
    magnitudes, signed = THEIRS._augmentation_space(10, (SIZE, SIZE))[name]
    for row, both in enumerate(THEIRS.policies):
        for layer, (this, prob, number) in enumerate(both):
            if this != name or prob == 0:
                continue
            magnitude = 0.0 if number is None else float(magnitudes[number])
            for sign, drawn in ((1, drawn_for(row, layer, 0.9)), (-1, drawn_for(row, layer, 0.1))):
                theirs = _apply_op(picture(), name, magnitude * (sign if signed else 1), MODE, FILL)
                assert (applied(drawn) - torch.from_numpy(np.array(theirs)).int()).abs().max() <= 1


def test_sub_policies_are_drawn_evenly_and_operations_with_their_probability():
    draws = uniform(1, 0, torch.arange(20_000), 2 * LAYER_DRAWS, AUGMENT_STREAM)
    layers = AutoAugment().draw(draws, 0.0, SIZE)
    for layer, drawn in enumerate(layers):
        probabilities = [both[layer][1] for both in THEIRS.policies]
        kept = float((drawn.op >= 0).float().mean())
        assert kept == pytest.approx(sum(probabilities) / len(probabilities), abs=0.015)
    rows = Counter((draws[:, 0] * 25).long().tolist())
    assert min(rows.values()) > 650
    assert len(rows) == 25


def test_moves_are_read_bicubically_as_often_as_asked():
    draws = uniform(2, 0, torch.arange(20_000), 2 * LAYER_DRAWS, AUGMENT_STREAM)
    for policy in (AutoAugment(), RandAugment()):
        op = policy.draw(draws, 0.25, SIZE)[0].op
        moves = torch.isin(op, torch.tensor([3.0, 11, 12, 13, 14])).sum()
        assert float((op >= 100).sum() / ((op >= 100).sum() + moves)) == pytest.approx(
            0.25, abs=0.03
        )


def test_names_of_policies():
    assert isinstance(batched("cifar10"), AutoAugment)
    assert batched("rand-m9-mstd0.5-inc1") == RandAugment(9, 2, 0.5, 0.5, 10)
    assert batched("rand-m12-n3-p0.7-mmax15-inc1") == RandAugment(12, 3, 0.7, 0, 15)
    assert [batched(name) for name in ("rand-m9", "3a", "cifar100", "")] == [None] * 4


@pytest.mark.parametrize("policy", ["cifar10", "rand-m9-mstd0.5-inc1", "v0", "augmix-m5"])
def test_a_policy_that_moves_images_refuses_lanczos(policy):
    with pytest.raises(ValueError, match="'lanczos' cannot move images"):
        Augment(policy, interpolation="lanczos")
    Augment("3a", interpolation="lanczos")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "random"])
def test_the_policy_for_single_images_takes_each_interpolation(interpolation):
    augment = Augment("cifar10", scale=(0.5, 1.0), color_jitter=0.3, interpolation=interpolation)
    steps = train_transform(augment, SIZE, (0.5,) * 3, (0.5,) * 3)
    assert all(steps(picture()).shape == (3, SIZE, SIZE) for _ in range(40))
