"""What training and evaluation do to an image."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from sparsetrain.lightning.data import Augment
from sparsetrain.lightning.data.transforms import (
    eval_transform,
    policy_ops,
    resize_transform,
    train_transform,
)

HALF = (0.5, 0.5, 0.5)


def gradient(height=32, width=32):
    """Brightness grows from left to right, 0 to 255."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row[None, :, None], (height, width, 3)).copy())


def augmented(seed=0, **settings):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return train_transform(Augment(**settings), 32, HALF, HALF)(gradient())


def test_no_augmentation_is_resizing_and_normalising():
    whole = augmented(interpolation="bilinear")
    assert torch.equal(whole, resize_transform(32, HALF, HALF)(gradient()))
    assert whole.min() == -1
    assert whole.max() == 1


def test_a_resized_training_image_shows_all_of_it_whatever_its_shape():
    image = train_transform(Augment(interpolation="nearest"), 32, HALF, HALF)(gradient(8, 64))
    assert image.shape == (3, 32, 32)
    assert image[0, 0, 0] < -0.9
    assert image[0, 0, -1] > 0.9


def test_hflip_of_one_always_mirrors():
    torch.testing.assert_close(augmented(hflip=1.0), augmented().flip(-1))


def test_a_crop_of_a_tenth_of_the_area_shows_less_of_the_gradient():
    crop = augmented(scale=(0.1, 0.1))
    assert crop.max() - crop.min() < 1.2


def test_crops_of_a_padded_image_are_shifts_over_black():
    whole = augmented(interpolation="bilinear")
    padded = torch.nn.functional.pad(whole, (2,) * 4, value=-1.0)
    at = {
        (top, left): padded[:, top : top + 32, left : left + 32]
        for top in range(5)
        for left in range(5)
    }
    found = []
    for seed in range(400):
        image = augmented(seed, interpolation="bilinear", crop_padding=2)
        found.append([place for place, crop in at.items() if torch.equal(crop, image)])
    assert all(len(places) == 1 for places in found)
    assert {places[0] for places in found} == set(at)


@pytest.mark.parametrize("padding", [-1, 0.5, "4"])
def test_a_padding_that_is_no_number_of_pixels_is_named(padding):
    with pytest.raises(ValueError, match=f"augment.crop_padding={padding} is no number of pixels"):
        Augment(crop_padding=padding)


def test_random_erasing_of_one_always_erases():
    erased = augmented(reprob=1.0, remode="const") != augmented()
    assert 0.01 < erased.float().mean() < 0.4


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "3a"])
def test_a_policy_changes_images_and_follows_the_random_numbers(policy):
    images = [augmented(seed, auto_augment=policy) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(images[0], images[1])
    assert any(not torch.equal(image, augmented()) for image in images)


def test_color_jitter_changes_brightness():
    assert not torch.equal(augmented(color_jitter=0.5), augmented())


def test_evaluation_crops_the_centre():
    image = eval_transform(16, 0.5, "bilinear", HALF, HALF)(gradient())
    torch.testing.assert_close(image, augmented()[:, 8:24, 8:24])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hflip": 2}, r"augment\.hflip=2 is not in \[0, 1\]"),
        ({"reprob": -0.1}, r"augment\.reprob=-0\.1"),
        ({"scale": (0.5, 0.1)}, r"augment\.scale=\[0\.5, 0\.1\]"),
        ({"scale": (0.5,)}, r"augment\.scale=\[0\.5\]"),
        ({"interpolation": "cubic"}, r"augment\.interpolation='cubic'"),
        ({"interpolation": "random"}, r"needs augment\.scale"),
        ({"remode": "noise"}, r"augment\.remode='noise'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Augment(**settings)


def test_a_crop_part_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"crop_pct=0 is not in \(0, 1\]"):
        eval_transform(16, 0, "bilinear", HALF, HALF)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original", "augmix-m5", "v0"])
def test_a_policy_that_posterizes_to_no_bits_gives_black(policy):
    steps = train_transform(Augment(auto_augment=policy, scale=(0.5, 1.0)), 32, HALF, HALF)
    ops = [op for op in policy_ops(steps.transforms) if op.name.startswith("Posterize")]
    assert ops or policy == "augmix-m5"
    for op in ops:
        assert np.asarray(op.aug_fn(gradient(), 0)).max() == 0
        assert np.asarray(op.aug_fn(gradient(), 1)).max() == 128
        assert np.array_equal(np.asarray(op.aug_fn(gradient(), 8)), np.asarray(gradient()))


def test_the_recipes_policy_at_full_magnitude_takes_every_image():
    steps = train_transform(Augment(auto_augment="rand-m10-inc1"), 32, HALF, HALF)
    for seed in range(300):
        np.random.seed(seed)
        random.seed(seed)
        assert torch.isfinite(steps(gradient())).all()
