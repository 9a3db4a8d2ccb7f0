"""Folders and data sets on disk as people have them."""

import pickle
import sys

import pytest
import torch
from data_helpers import COMMON, encoded, write_parquet, write_shard

from sparsetrain.lightning.data import HuggingFace, ImageNet, Parquet


def ready(data):
    data.setup("fit")
    return data


def test_a_folder_without_splits_is_divided(folders):
    data = ready(ImageNet(folders / "train", val_fraction=1 / 3, **COMMON))
    assert data.name == "imagenet train (4 train / 2 val)"
    assert data.class_names == ["cat", "dog"]
    whole = ready(ImageNet(folders, val_fraction=1 / 3, **COMMON))
    assert any("training images validate, and no others" in note for note in whole.notes)
    assert whole.name == "imagenet set (4 train / 2 val)", "val/ is left alone"


@pytest.mark.parametrize(("train", "val"), [("Train", "Val"), ("Training", "Testing")])
def test_splits_are_found_in_upper_case_too(folders, train, val):
    (folders / "train").rename(folders / train)
    (folders / "val").rename(folders / val)
    for fraction, name in ((0.0, "(6 train / 2 val)"), (1 / 3, "(4 train / 2 val)")):
        data = ready(ImageNet(folders, val_fraction=fraction, **COMMON))
        assert data.name == f"imagenet set {name}"
        assert data.class_names == ["cat", "dog"]


def test_an_archive_beside_its_images_is_skipped_and_counted(folders):
    for path in (folders / "train", folders / "train" / "train"):
        write_shard(path.with_suffix(".tar"), [("cat/0.jpg", encoded(0))])
    note = f"{folders}/train: 1 file(s) skipped (.tar 1)"
    assert note in ready(ImageNet(folders, **COMMON)).notes
    assert note in ready(ImageNet(folders / "train", val_fraction=1 / 3, **COMMON)).notes


def test_jpegs_may_be_named_jfif(folders):
    (folders / "train" / "cat" / "0.JPEG").rename(folders / "train" / "cat" / "0.jfif")
    assert ready(ImageNet(folders, **COMMON)).notes == ()


def test_shards_and_parquet_files_without_splits_are_divided(tmp_path):
    members = [(f"{i}.{kind}", data) for i in range(4) for kind, data in sample(i)]
    write_shard(tmp_path / "all.tar", members)
    write_parquet(tmp_path / "all.parquet", [encoded(i) for i in range(4)], [0, 1, 0, 1])
    for kind in (ImageNet, Parquet):
        assert len(ready(kind(tmp_path, val_fraction=0.25, **COMMON)).splits.val) == 1
        fix = r"no train split.*, or set data\.val_fraction=0\.1$"
        with pytest.raises(FileNotFoundError, match=fix):
            ready(kind(tmp_path, **COMMON))


def sample(number):
    return (("webp", encoded(number, "WEBP")), ("cls", str(number % 2).encode()))


def test_images_in_folders_of_a_class_are_found(folders):
    (folders / "train" / "cat" / "images").mkdir()
    (folders / "train" / "cat" / "images" / "4.tif").write_bytes(encoded(9, "TIFF"))
    data = ready(ImageNet(folders, **COMMON))
    assert data.num_train == 7
    assert data.splits.train[(0, 3)][1] == 0


def test_files_that_are_no_images_are_counted(folders):
    for name in ("a.txt", "b.TXT", "c", ".hidden"):
        (folders / "train" / "cat" / name).write_text("")
    (folders / "train" / "list.csv").write_text("")
    data = ready(ImageNet(folders, **COMMON))
    assert data.notes == (f"{folders}/train: 4 file(s) skipped (.csv 1, .txt 2, no suffix 1)",)


def test_shard_labels_without_an_image_are_counted(shards):
    write_shard(shards / "in-train-2.tar", [*pair("a"), ("b.cls", b"1"), ("c.cls", b"0")])
    data = ready(ImageNet(shards, **COMMON))
    assert data.notes == ("train shards: 2 file(s) skipped (label without image 2)",)


def pair(key):
    return [(f"{key}.jpg", encoded(0)), (f"{key}.cls", b"1")]


@pytest.fixture
def save(tmp_path):
    """Saves splits of (number of rows) as `datasets` does; one named "" is a single data set."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["cat", "dog"])}
    )

    def rows(count):
        images = [{"bytes": encoded(i), "path": None} for i in range(count)]
        labels = [i % 2 for i in range(count)]
        return datasets.Dataset.from_dict({"img": images, "fine": labels}, features)

    def save(**splits):
        made = datasets.DatasetDict({name: rows(count) for name, count in splits.items()})
        (made.get("single") or made).save_to_disk(tmp_path / "set")
        return tmp_path / "set"

    return save


def test_what_datasets_saved_is_read(save):
    data = ready(HuggingFace(save(train=5, validation=3, test=2), **COMMON))
    assert data.name == "hf set (5 train / 3 val)"
    assert data.class_names == ["cat", "dog"]
    image, label = data.splits.train.source.read(3)
    assert (image.data, label) == (encoded(3), 1)


def test_a_saved_data_set_reads_the_same_in_workers_and_after_pickling(save):
    root = save(train=6, test=2)
    alone = list(ready(HuggingFace(root, **COMMON)).train_dataloader())
    helped = list(ready(HuggingFace(root, **{**COMMON, "num_workers": 1})).train_dataloader())
    for (images, labels), (same, same_labels) in zip(alone, helped, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)
    images = ready(HuggingFace(root, **COMMON)).splits.train
    assert torch.equal(pickle.loads(pickle.dumps(images))[(1, 2)][0], images[(1, 2)][0])


def test_a_single_saved_data_set_is_divided(save):
    root = save(single=8)
    assert ready(HuggingFace(root, val_fraction=0.25, **COMMON)).name == "hf set (6 train / 2 val)"
    with pytest.raises(FileNotFoundError, match=r"no validation split.*set data.val_fraction=0.1"):
        ready(HuggingFace(root, **COMMON))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image_column": "image"}, r"data.image_column='image' is not a column .*img \(Image\)"),
        ({"image_column": "fine"}, "data.image_column='fine' has type ClassLabel in .*want Image"),
        ({"label_column": "img"}, "data.label_column='img' has type Image .*want ClassLabel or"),
    ],
)
def test_a_column_of_a_saved_data_set_that_does_not_fit_is_named(save, columns, said):
    with pytest.raises(ValueError, match=said):
        ready(HuggingFace(save(train=2, test=2), **columns, **COMMON))


def test_labels_that_are_strings_are_told_how_to_become_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [encoded(0)] * 4, "label": ["cat", "dog"] * 2}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    columns = {"image_column": "image", "label_column": "label"}
    with pytest.raises(ValueError, match=r"has type string .*\.class_encode_column\('label'\)$"):
        ready(HuggingFace(tmp_path / "set", val_fraction=0.5, **columns, **COMMON))


def test_a_saved_data_set_is_not_read_as_folders(save):
    with pytest.raises(FileNotFoundError, match=r"; data=hf reads what is there$"):
        ready(ImageNet(save(train=2, test=2), **COMMON))


def test_a_folder_that_datasets_did_not_write_says_so(folders):
    with pytest.raises(FileNotFoundError, match=r"no dataset_dict.json or state.json.*train, val"):
        ready(HuggingFace(folders, **COMMON))


def test_a_missing_package_names_the_extra(save, monkeypatch):
    root = save(train=2, test=2)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r"data=hf needs datasets: pip install 'sparsetrain\[hf\]'"
    ):
        ready(HuggingFace(root, **COMMON))


def test_one_class_is_not_enough(folders):
    (folders / "train" / "dog").rename(folders / "dog")
    with pytest.raises(ValueError, match="has one class, cat; give at least two"):
        ready(ImageNet(folders, val_fraction=0.4, **{**COMMON, "num_classes": None}))


def test_a_damaged_saved_data_set_is_named(save):
    root = save(train=4, test=2)
    file = next((root / "train").glob("*.arrow"))
    file.write_bytes(b"ARROW1" + file.read_bytes()[6:100])
    with pytest.raises(ValueError, match=rf"cannot read {root}"):
        ready(HuggingFace(root, **COMMON))
