"""Every data set: what it reads, how it is named, and that workers change nothing."""

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_helpers import COMMON, encoded, write_parquet

from sparsetrain.lightning.data import Augment, Digits, ImageNet, Parquet, Synthetic
from sparsetrain.lightning.data.parquet_rows import ParquetSource

AUGMENT = Augment("rand-m9-mstd0.5-inc1", reprob=0.5, hflip=0.5, scale=(0.2, 1.0))
CIFAR = Path(__file__).parents[4] / "shared" / "data"


def ready(data):
    data.setup("fit")
    return data


def source(data, split) -> Any:
    """What is behind a split: a different type for every data set."""
    return getattr(data.splits, split).source


@pytest.fixture(params=["folders", "shards", "parquet", "digits", "synthetic"])
def make(request):
    """Makes one of the data sets, given the number of workers."""
    common = {key: value for key, value in COMMON.items() if key != "num_workers"}
    if request.param == "digits":
        common |= {"batch_size": 359, "num_classes": 10}
        return lambda workers: ready(Digits(num_workers=workers, **common))
    if request.param == "synthetic":
        del common["mean"], common["std"]
        return lambda workers: ready(
            Synthetic(length=9, val_length=5, num_workers=workers, **common)
        )
    root = request.getfixturevalue(request.param)
    kind = Parquet if request.param == "parquet" else ImageNet
    return lambda workers: ready(kind(root, num_workers=workers, augment=AUGMENT, **common))


def test_two_workers_give_the_batches_of_none(make):
    for loader in ("train_dataloader", "val_dataloader"):
        alone, helped = list(getattr(make(0), loader)()), list(getattr(make(2), loader)())
        assert len(alone) == len(helped) >= 1
        for (image, label), (same_image, same_label) in zip(alone, helped, strict=True):
            assert torch.equal(image, same_image)
            assert torch.equal(label, same_label)


def test_a_pickled_data_set_reads_the_same(make):
    images = make(0).splits.train
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy[(1, 2)][0], images[(1, 2)][0])


def test_batches_are_float_images_and_integer_labels(make):
    images, labels = next(iter(make(0).train_dataloader()))
    assert images.dtype == torch.float32
    assert images.shape[1:] == (3, 16, 16)
    assert labels.dtype == torch.int64


def test_setting_up_again_opens_nothing_again(make):
    data = make(0)
    splits = data.splits
    data.prepare_data()
    data.setup("validate")
    assert data.splits is splits


def test_a_data_set_says_how_many_classes_it_has_when_the_model_does_not(folders, shards, parquet):
    common = {**COMMON, "num_classes": None}
    for data in (
        ImageNet(folders, **common),
        ImageNet(shards, **common),
        Parquet(parquet, **common),
    ):
        assert ready(data).num_classes == 2
    assert ready(Digits(**common)).num_classes == 10
    assert ready(ImageNet(shards, **{**COMMON, "num_classes": 3})).num_classes == 3


def test_asking_before_setup_says_what_to_call():
    with pytest.raises(RuntimeError, match=r"Digits is not open yet; call setup\(\) first"):
        _ = Digits(**{**COMMON, "num_classes": 10}).num_train


def test_folders_read_each_image_with_the_label_of_its_class(folders):
    data = ready(ImageNet(folders, **COMMON))
    assert (data.name, data.num_train) == ("imagenet set (6 train / 2 val)", 6)
    assert data.class_names == ["cat", "dog"]
    image, label = source(data, "train").read(4)
    assert label == 1
    path = folders / "train" / "dog" / "1.JPEG"
    assert image == (path.read_bytes(), str(path))


def test_a_folder_named_validation_is_the_validation_split(folders):
    (folders / "val").rename(folders / "validation")
    assert ready(ImageNet(folders, **COMMON)).name == "imagenet set (6 train / 2 val)"


def test_shards_pair_images_and_labels_across_files(shards):
    data = ready(ImageNet(shards, **COMMON))
    assert data.name == "imagenet shards (6 train / 2 val)"
    assert data.class_names is None
    for seed in range(6):
        image, label = source(data, "train").read(seed)
        assert label == seed % 2
        assert image.data == encoded(seed, "JPEG" if seed % 3 % 2 else "PNG")


@pytest.mark.parametrize("memory_gb", [4.0, 0.0], ids=["in memory", "by row group"])
def test_parquet_reads_rows_across_groups_and_files(parquet, memory_gb):
    files = sorted((parquet / "data").glob("train*"))
    rows = ParquetSource(files, "image", "label", memory_gb)
    for index, seed in enumerate([0, 1, 2, 10, 11, 12]):
        image, label = rows.read(index)
        assert label == seed % 10 % 2
        assert image.data == encoded(seed)


def test_parquet_is_named_after_its_folder(parquet):
    assert ready(Parquet(parquet, **COMMON)).name == "parquet parquet (6 train / 2 val)"


def test_parquet_takes_plain_bytes_and_other_column_names(tmp_path):
    for split in ("train", "test"):
        path = tmp_path / f"{split}.parquet"
        write_parquet(path, [encoded(1), encoded(2)], [0, 1], struct=False)
        pq.write_table(pq.read_table(path).rename_columns(["picture", "kind"]), path)
    data = ready(Parquet(tmp_path, image_column="picture", label_column="kind", **COMMON))
    assert source(data, "train").read(1)[0].data == encoded(2)


@pytest.mark.parametrize(
    "metadata",
    [
        {"classes": "cat,dog"},
        {"huggingface": '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'},
    ],
)
def test_parquet_finds_class_names_in_the_metadata(tmp_path, metadata):
    for split in ("train", "val"):
        write_parquet(tmp_path / f"{split}.parquet", [encoded(0)] * 2, [0, 1], metadata)
    assert ready(Parquet(tmp_path, **COMMON)).class_names == ["cat", "dog"]


def test_published_test_files_are_left_alone_when_there_is_a_validation_split(parquet):
    write_parquet(parquet / "data" / "test-0.parquet", [encoded(0)] * 2, [-1, -1])
    assert ready(Parquet(parquet, **COMMON)).name.endswith("(6 train / 2 val)")


@pytest.mark.skipif(not (CIFAR / "cifar10-train.parquet").exists(), reason="no CIFAR-10 files")
def test_cifar10_is_read_as_it_is_published():
    data = ready(Parquet(CIFAR, **{**COMMON, "num_classes": 10}))
    assert data.name == "parquet data (50,000 train / 10,000 val)"
    assert (data.class_names or [])[9] == "truck"
    raw = pa.Table.from_batches(
        [next(pq.ParquetFile(CIFAR / "cifar10-train.parquet").iter_batches(3))]
    )
    image, label = source(data, "train").read(2)
    assert label == raw["label"][2].as_py()
    assert image.data == raw["image"][2]["bytes"].as_py()


def test_digits_are_split_the_same_for_every_seed():
    one, other = (ready(Digits(**{**COMMON, "num_classes": 10, "seed": seed})) for seed in (1, 2))
    assert one.name == "digits (1,437 train / 360 val)"
    assert torch.equal(
        torch.tensor(source(one, "val").images), torch.tensor(source(other, "val").images)
    )


def test_digits_are_stratified_and_not_in_both_splits():
    data = ready(Digits(**{**COMMON, "num_classes": 10}))
    counts = torch.bincount(torch.tensor(source(data, "val").labels))
    assert 34 <= counts.min() <= counts.max() <= 37
    train = {image.tobytes() for image in source(data, "train").images}
    assert not any(image.tobytes() in train for image in source(data, "val").images)


def test_digits_say_that_a_recipes_augmentation_is_not_used():
    data = ready(Digits(augment=AUGMENT, **{**COMMON, "num_classes": 10}))
    assert data.name == "digits, not augmented (1,437 train / 360 val)"
    plain = ready(Digits(**{**COMMON, "num_classes": 10}))
    assert torch.equal(data.splits.train[(0, 0)][0], plain.splits.train[(1, 0)][0])


def test_workers_are_kept_between_epochs_and_load_ahead(folders):
    loader = ready(ImageNet(folders, **{**COMMON, "num_workers": 1}, prefetch_factor=3))
    train: Any = loader.train_dataloader()
    assert train.persistent_workers
    assert train.prefetch_factor == 3


def test_a_small_digit_is_resized_once_and_a_large_one_each_time():
    for size, once in ((8, True), (65, False)):
        digits = Digits(**{**COMMON, "num_classes": 10, "img_size": size})
        digits.setup()
        images = digits.splits.train
        first, again = images[(0, 3)], images[(1, 3)]
        assert torch.equal(first[0], again[0])
        assert (first[0] is again[0]) == once
