"""`data.cache=gpu`: the samples and the augmentation of the other path, and exact resume."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from data_helpers import COMMON, encoded, write_parquet
from pytorch_lightning.callbacks import ModelCheckpoint

from sparsetrain.lightning.data import Augment, Digits, Parquet, Synthetic, batch_augment
from sparsetrain.lightning.data.batch_augment import (
    CROP_DRAWS,
    BatchAugment,
)
from sparsetrain.lightning.data.batch_crop import draw_boxes
from sparsetrain.lightning.data.draws import AUGMENT_STREAM, normal, uniform
from sparsetrain.lightning.data.transforms import train_transform

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]

STRONG = Augment("rand-m9-mstd0.5-inc1", reprob=0.25, hflip=0.5, scale=(0.5, 1.0))
CPU = torch.device("cpu")


@pytest.fixture
def squares(tmp_path):
    """24 training images and 5 for validation, all of 20x20."""
    for name, first, count in (("train", 0, 24), ("test", 50, 5)):
        images = [encoded(first + i, "PNG", (20, 20)) for i in range(count)]
        write_parquet(tmp_path / f"{name}.parquet", images, [i % 2 for i in range(count)])
    return tmp_path


def data(root, augment=STRONG, **changed) -> Parquet:
    settings = {**COMMON, "batch_size": 4, "cache": "gpu", "augment": augment, **changed}
    module = Parquet(root, **settings)
    module.setup()
    return module


class Recorder(pl.LightningModule):
    """Writes down the sum of every image that it is trained on, with its label."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch):
        images, labels = batch
        sums = images.double().sum(dim=(1, 2, 3))
        self.seen.append(list(zip(labels.tolist(), sums.tolist(), strict=True)))
        return (self.weight * images).mean()

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, module, resume=None):
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        max_epochs=3,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)],
    )
    trainer.fit(recorder, datamodule=module, ckpt_path=resume, weights_only=False)
    return recorder.seen


@pytest.mark.parametrize("chunk_batches", [1, 4, 100])
def test_a_run_resumed_after_any_step_sees_the_same_pixels(
    squares, tmp_path, monkeypatch, chunk_batches
):
    monkeypatch.setattr(batch_augment, "CHUNK_PIXELS", chunk_batches * 4 * 16 * 16)
    saved = tmp_path / "saved"
    whole = fit(saved, data(squares))
    assert len(whole) == 18
    for path in sorted(saved.iterdir())[::4]:
        step = torch.load(path, weights_only=False)["global_step"]
        assert fit(tmp_path / "again", data(squares), path) == whole[step:], path.name


def test_resuming_mid_epoch_on_another_order_is_refused(squares, tmp_path):
    fit(tmp_path / "saved", data(squares))
    with pytest.raises(ValueError, match="global_batch 4 -> 3"):
        fit(tmp_path, data(squares, batch_size=3), tmp_path / "saved" / "epoch=0-step=2.ckpt")


def test_validation_is_that_of_the_images_read_one_by_one(squares):
    images, labels = next(iter(data(squares).val_dataloader()))
    want, want_labels = next(iter(data(squares, cache=None).val_dataloader()))
    torch.testing.assert_close(images, want)
    assert torch.equal(labels, want_labels)


def test_without_augmentation_training_is_that_of_the_images_read_one_by_one(squares):
    plain = Augment()
    for (images, labels), (want, want_labels) in zip(
        data(squares, plain).train_dataloader(),
        data(squares, plain, cache=None).train_dataloader(),
        strict=True,
    ):
        torch.testing.assert_close(images, want)
        assert torch.equal(labels, want_labels)


def test_two_processes_see_the_samples_of_one_with_the_double_batch(squares):
    def batches(rank, size, world):
        module = data(squares, batch_size=size)
        module._place = lambda: (rank, world)
        return list(module.train_dataloader())

    for one, first, second in zip(
        batches(0, 8, 1), batches(0, 4, 2), batches(1, 4, 2), strict=True
    ):
        for whole, a, b in zip(one, first, second, strict=True):
            torch.testing.assert_close(whole, torch.stack((a, b), dim=1).flatten(0, 1))


def test_the_next_epoch_is_augmented_anew():
    augment = BatchAugment(STRONG, 16, (0.5,) * 3, (0.5,) * 3, 0, CPU)
    images = torch.randint(0, 256, (8, 3, 20, 20), dtype=torch.uint8)
    first, again, second = (augment(images, epoch, torch.arange(8)) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert ((first - second).abs().flatten(1).amax(1) > 0.1).all()


def test_boxes_of_large_images_are_filled_with_noise(monkeypatch):
    monkeypatch.setattr(batch_augment, "NOISE", 8)
    augment = BatchAugment(Augment(reprob=1.0), 32, (0.5,) * 3, (0.5,) * 3, 0, CPU)
    images = torch.zeros(40, 3, 32, 32, dtype=torch.uint8)
    erased = augment(images, 0, torch.arange(40))
    noise = erased[erased != -1]
    assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)


def test_a_samples_numbers_depend_on_its_index_alone():
    whole = uniform(5, 2, torch.arange(10), 7, AUGMENT_STREAM)
    part = uniform(5, 2, torch.tensor([8, 3]), 7, AUGMENT_STREAM)
    assert torch.equal(part, whole[[8, 3]])
    assert not torch.equal(whole, uniform(6, 2, torch.arange(10), 7, AUGMENT_STREAM))


def test_drawn_numbers_are_uniform_and_normal():
    u = uniform(1, 0, torch.arange(4000), 10, AUGMENT_STREAM)
    assert float(u.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(u.var()) == pytest.approx(1 / 12, abs=0.002)
    for numbers in normal(*u.chunk(2, dim=1)):
        assert float(numbers.mean()) == pytest.approx(0, abs=0.03)
        assert float(numbers.var()) == pytest.approx(1, abs=0.05)


def square(count):
    return torch.tensor([[64, 64]]).expand(count, 2)


def test_boxes_have_the_areas_that_were_asked_for():
    draws = uniform(1, 0, torch.arange(4000), CROP_DRAWS, AUGMENT_STREAM)
    box = draw_boxes(draws, square(4000), (0.2, 0.6), 3 / 4, whole=True)
    top, left, height, width = box.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + height <= 64) & (left + width <= 64)).all())
    area = height * width / 64**2
    assert 0.19 < float(area.min()) < 0.21
    assert 0.58 < float(area.max()) < 0.62
    assert float(area.mean()) == pytest.approx(0.4, abs=0.01)
    assert 0.7 < float((width / height).min()) < 0.8


def test_where_no_box_fits_the_crop_is_the_largest_and_nothing_is_erased():
    draws = torch.full((1, CROP_DRAWS), 0.0)  # the widest ratio, the smallest area
    wide = torch.tensor([[20, 64]])
    assert draw_boxes(draws, square(1), (1, 1), 3 / 4, whole=True).tolist() == [[0, 0, 64, 64]]
    assert draw_boxes(draws, wide, (1, 1), 3 / 4, whole=True).tolist() == [[0, 18, 20, 27]]
    assert draw_boxes(draws, square(1), (1, 1), 0.3).tolist() == [[0, 0, 0, 0]]


def moments(images: torch.Tensor) -> torch.Tensor:
    """Per channel mean, deviation, and mean absolute step to the right neighbour."""
    step = (images[..., 1:] - images[..., :-1]).abs()
    return torch.cat([images.mean((0, 2, 3)), images.std((0, 2, 3)), step.mean((0, 2, 3))])


@pytest.mark.parametrize(
    "augment",
    [
        Augment(scale=(0.3, 1.0), hflip=0.5, interpolation="random"),
        Augment(reprob=0.5, remode="pixel"),
        Augment(reprob=0.5, remode="const"),
        Augment("rand-m9-mstd0.5-inc1", interpolation="bilinear"),
        Augment("rand-m7-n3-inc1", interpolation="bilinear"),
        Augment("cifar10", interpolation="bilinear"),
        Augment("cifar10", scale=(0.5, 1.0), interpolation="random"),
    ],
    ids=str,
)
def test_augmented_batches_are_distributed_as_single_images_are(augment):
    from PIL import Image, ImageFilter

    pixels = np.random.RandomState(0).randint(0, 256, (24, 24, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5))
    count, mean, std = 1200, (0.5, 0.4, 0.6), (0.2, 0.3, 0.25)
    one = train_transform(augment, 24, mean, std)
    torch.manual_seed(0)
    want = torch.stack([one(image) for _ in range(count)])
    batched = BatchAugment(augment, 24, mean, std, 0, CPU)
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).expand(count, 3, 24, 24)
    got = batched(x, 0, torch.arange(count))
    # Standard errors of these moments over 1,200 draws are up to 0.02.
    torch.testing.assert_close(moments(got), moments(want), atol=0.07, rtol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "cifar10"])
def test_a_gpu_augments_as_the_cpu_does(policy):
    x = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
    index = torch.arange(512)
    augment = Augment(policy, 0.25, "pixel", 0.5, (0.5, 1.0), None, "bilinear")
    want, got = (
        BatchAugment(augment, 32, (0.5,) * 3, (0.25,) * 3, 0, device)(x.to(device), 3, index)
        for device in (CPU, torch.device("cuda"))
    )
    # Rounding to whole values can go either way, and equalizing makes much of one of them.
    off = ((got.cpu() - want).abs() > 2 / 255 / 0.25).float().mean()
    assert float(off) < 0.005


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        (Augment("rand-m9"), "auto_augment='rand-m9' has no form on the GPU"),
        (Augment("rand-m9-inc1-tweights"), "has no form"),
        (Augment("3a"), "auto_augment='3a' has no form"),
        (Augment(color_jitter=0.4), "color_jitter=0.4 has no form"),
        (Augment(scale=(0.5, 1), interpolation="lanczos"), "interpolation=lanczos has no form"),
    ],
)
def test_an_augmentation_without_a_batched_form_is_refused(squares, augment, said):
    with pytest.raises(ValueError, match=said):
        data(squares, augment).train_dataloader()


def test_images_of_several_sizes_are_refused_unless_they_are_resized(tmp_path):
    images = [encoded(i, "PNG", size) for i, size in enumerate([(20, 20), (20, 24)] * 4)]
    for name in ("train", "test"):
        write_parquet(tmp_path / f"{name}.parquet", images, [0, 1] * 4)
    with pytest.raises(ValueError, match="keeps images of one size, but there are 20x20 and 24x20"):
        data(tmp_path).train_dataloader()
    assert len(list(data(tmp_path, Augment()).train_dataloader())) == 2


def test_digits_can_be_cached_and_random_images_cannot():
    digits = Digits(**{**COMMON, "num_classes": 10, "cache": "gpu"})
    digits.setup()
    images, _ = next(iter(digits.train_dataloader()))
    assert images.shape == (2, 3, 16, 16)
    assert "cache" not in Synthetic.__init__.__annotations__


def test_another_word_than_gpu_is_refused(squares):
    with pytest.raises(ValueError, match=r"data.cache='cpu': give gpu or null"):
        data(squares, cache="cpu")


def indices(images) -> list[int]:
    return list(images.source.indices)


def test_a_part_of_the_training_images_can_be_held_out(squares):
    halves = data(squares, Augment(), val_fraction=0.25, batch_size=2)
    assert (halves.num_train, len(halves.splits.val)) == (18, 6)
    other = data(squares, Augment(), val_fraction=0.25, batch_size=2, seed=1)
    assert indices(other.splits.val) == indices(halves.splits.val)
    both = indices(halves.splits.train) + indices(halves.splits.val)
    assert sorted(both) == list(range(24))
    with pytest.raises(ValueError, match=r"val_fraction=0.01 of 24 training images holds out 0"):
        data(squares, val_fraction=0.01)
    with pytest.raises(ValueError, match=r"data.val_fraction=1.0 is not a fraction"):
        data(squares, val_fraction=1.0)
