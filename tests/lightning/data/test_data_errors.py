"""Every mistake with a data set is one line that names the argument and what to do."""

import sys
import tarfile

import pytest
from data_helpers import COMMON, encoded, write_parquet, write_shard

from sparsetrain.lightning.data import Digits, HuggingFace, ImageNet, Parquet, Synthetic


def refuses(data, error, *said):
    with pytest.raises(error) as caught:
        data.setup()
    message = str(caught.value)
    assert "\n" not in message
    for words in said:
        assert words in message


def test_a_missing_root_names_the_nearest_folder(folders):
    root = folders.parent / "sets" / "deep"
    refuses(ImageNet(root, **COMMON), FileNotFoundError, f"data.root={root}", "did you mean set?")


def test_no_root_at_all_says_what_to_give():
    refuses(Parquet(None, **COMMON), FileNotFoundError, "set data.root=<folder>", "*train*.parquet")


@pytest.mark.parametrize("root", ["", " "])
def test_an_empty_root_is_not_the_folder_of_the_process(root):
    refuses(ImageNet(root, **COMMON), FileNotFoundError, "data.root is empty; set data.root=<fol")


def test_class_folders_without_splits_name_the_fraction(folders):
    said = "has no train split", "cat, dog", "set data.val_fraction=0.1"
    refuses(ImageNet(folders / "train", **COMMON), FileNotFoundError, *said)


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_folder_too_high_says_which_is_meant(folders, fraction):
    data = ImageNet(folders.parent, val_fraction=fraction, **COMMON)
    refuses(data, FileNotFoundError, f"has all images in set/; set data.root={folders}")


def test_images_in_no_class_folder_are_told_where_they_belong(tmp_path):
    (tmp_path / "1.png").write_bytes(encoded(1, "PNG"))
    with pytest.raises(FileNotFoundError, match="put its images into a folder for each class"):
        ImageNet(tmp_path, val_fraction=0.5, **COMMON).setup("fit")


@pytest.mark.parametrize("kept", [0, 100, 1500])
def test_a_damaged_parquet_file_is_named(parquet, kept):
    path = parquet / "data" / "train-1.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    refuses(Parquet(parquet, **COMMON), ValueError, f"cannot read {path} (", "fetch or write it")


def test_a_damaged_row_group_is_named_when_it_is_read(parquet):
    path = parquet / "data" / "train-1.parquet"
    whole = path.read_bytes()
    data = Parquet(parquet, memory_gb=0.0, **COMMON)
    path.write_bytes(whole[:4] + bytes(60) + whole[64:])  # the header of the first page
    data.setup()
    with pytest.raises(ValueError, match=r"cannot read .*train-1\.parquet"):
        data.splits.train[(0, 3)]


def test_a_root_that_is_a_file_is_named(folders):
    file = folders / "train" / "cat" / "0.JPEG"
    refuses(ImageNet(file, **COMMON), FileNotFoundError, f"data.root={file} is a file")


def test_an_empty_root_lists_what_was_looked_for(tmp_path):
    said = f"data.root={tmp_path} has no train split and is empty; wanted", "a folder per class"
    refuses(ImageNet(tmp_path, **COMMON), FileNotFoundError, *said)
    said = f"data.root={tmp_path} has no train split and is empty", "*train*.parquet"
    refuses(Parquet(tmp_path, **COMMON), FileNotFoundError, *said)


def test_a_missing_validation_folder_is_named(folders):
    (folders / "val").rename(folders / "other")
    refuses(ImageNet(folders, **COMMON), FileNotFoundError, "no val/, validation/", "other")


def test_missing_validation_shards_are_named(shards):
    (shards / "in-val-0.tar").unlink()
    refuses(ImageNet(shards, **COMMON), FileNotFoundError, "no val split", "in-train-0.tar")


def test_a_class_folder_without_images_is_named(folders):
    for file in (folders / "train" / "dog").iterdir():
        file.rename(file.with_suffix(".txt"))
    refuses(ImageNet(folders, **COMMON), ValueError, "train/dog has no images", "0.txt")


def test_images_without_class_folders_are_explained(folders):
    for folder in (folders / "val").iterdir():
        (folder / "0.JPEG").rename(folders / "val" / f"{folder.name}.JPEG")
        folder.rmdir()
    refuses(
        ImageNet(folders, **COMMON),
        ValueError,
        "no class folders",
        "into val/<class>/, or set data.val",
    )


def test_a_wrong_number_of_classes_says_the_right_one(folders):
    said = "train has 2 classes but model.num_classes=5; set model.num_classes=2"
    refuses(ImageNet(folders, **{**COMMON, "num_classes": 5}), ValueError, said)


def test_splits_with_different_classes_name_the_difference(folders):
    (folders / "val" / "dog").rename(folders / "val" / "fox")
    refuses(ImageNet(folders, **COMMON), ValueError, "only one has dog, fox")


def test_a_shard_label_outside_the_classes_is_named(shards):
    said = "label 1 of sample 1 ", "labels run 0..1", "set model.num_classes=2"
    refuses(ImageNet(shards, **{**COMMON, "num_classes": 1}), ValueError, *said)


def test_a_shard_image_without_label_is_named(shards):
    write_shard(shards / "in-train-2.tar", [("a.jpg", b""), ("b.jpg", b""), ("b.cls", b"1")])
    refuses(ImageNet(shards, **COMMON), ValueError, "in-train-2.tar has 1 image(s)", "'/a'")


def test_a_shard_label_that_is_no_number_is_named(shards):
    write_shard(shards / "in-train-2.tar", [("a.jpg", b""), ("a.cls", b"cat")])
    refuses(ImageNet(shards, **COMMON), ValueError, "in-train-2.tar: a.cls holds b'cat'")


def test_a_shard_without_images_is_named(shards):
    write_shard(shards / "in-train-2.tar", [("a.cls", b"1")])
    refuses(ImageNet(shards, **COMMON), ValueError, "in-train-2.tar has no images")


@pytest.mark.parametrize("kept", [0, 700, "to the next header", "into the next header"])
def test_a_truncated_shard_is_named(shards, kept):
    path = shards / "in-train-1.tar"
    with tarfile.open(path) as shard:
        header = shard.getmember("./n1.jpg").offset
    stop = {"to the next header": header, "into the next header": header + 99}.get(kept, kept)
    path.write_bytes(path.read_bytes()[:stop])
    refuses(ImageNet(shards, **COMMON), ValueError, "in-train-1.tar is not a whole tar file")


def test_a_parquet_label_outside_the_classes_is_named(parquet):
    said = "train-0.parquet", "label 1 of sample 1 ", "set model.num_classes=2"
    refuses(Parquet(parquet, **{**COMMON, "num_classes": 1}), ValueError, *said)


def test_negative_labels_are_to_be_dropped(tmp_path):
    for split in ("train", "val"):
        write_parquet(tmp_path / f"{split}.parquet", [encoded(0)] * 2, [0, -1])
    said = "label -1 of sample 1 ", "drop the negative labels"
    refuses(Parquet(tmp_path, **COMMON), ValueError, *said)


def test_class_names_that_do_not_fit_the_model_say_how_many_there_are(tmp_path):
    for split in ("train", "val"):
        path = tmp_path / f"{split}.parquet"
        write_parquet(path, [encoded(0)] * 2, [0, 1], {"classes": "a,b,c"})
    refuses(Parquet(tmp_path, **COMMON), ValueError, "has 3 classes", "set model.num_classes=3")


def test_a_missing_parquet_column_lists_those_there_are(parquet):
    data = Parquet(parquet, image_column="img", **COMMON)
    refuses(data, ValueError, "data.image_column='img' is not", "image, label")


def test_parquet_columns_of_the_wrong_type_are_named(parquet):
    swapped = Parquet(parquet, image_column="label", **COMMON)
    refuses(swapped, ValueError, "data.image_column='label' has type int64")
    swapped = Parquet(parquet, label_column="image", **COMMON)
    refuses(swapped, ValueError, "data.label_column='image' has type struct")


def test_missing_labels_are_counted(tmp_path):
    write_parquet(tmp_path / "train.parquet", [encoded(0)] * 2, [0, None])
    write_parquet(tmp_path / "val.parquet", [encoded(0)] * 2, [0, 1])
    refuses(Parquet(tmp_path, **COMMON), ValueError, "train.parquet has 1 row(s) without label")


def test_a_parquet_file_without_rows_is_named(tmp_path):
    write_parquet(tmp_path / "train.parquet", [], [])
    write_parquet(tmp_path / "val.parquet", [encoded(0)] * 2, [0, 1])
    refuses(Parquet(tmp_path, **COMMON), ValueError, "no rows in", "train.parquet")


def test_a_parquet_row_without_bytes_is_named(tmp_path):
    write_parquet(tmp_path / "train.parquet", [encoded(0)] * 4 + [None], [0] * 5)
    write_parquet(tmp_path / "val.parquet", [encoded(0)] * 2, [0, 1])
    data = Parquet(tmp_path, **COMMON)
    data.setup()
    with pytest.raises(ValueError, match=r"no image bytes in row 4 of .*train\.parquet"):
        data.splits.train[(0, 4)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_file_is_named_also_from_a_worker(folders, workers):
    file = folders / "train" / "dog" / "1.JPEG"
    file.write_bytes(file.read_bytes()[:500])
    data = ImageNet(folders, **{**COMMON, "num_workers": workers})
    data.setup()
    with pytest.raises(ValueError, match=r"cannot decode the image .*train/dog/1\.JPEG \(500 byt"):
        list(data.train_dataloader())


@pytest.mark.slow
def test_a_truncated_shard_image_is_found_by_its_byte(shards):
    write_shard(shards / "in-train-2.tar", [("a.jpg", encoded(0)[:300]), ("a.cls", b"1")])
    data = ImageNet(shards, **COMMON)
    data.setup()
    with pytest.raises(ValueError, match=r"at byte 512 of .*in-train-2\.tar"):
        data.splits.train[(0, 6)]


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_a_truncated_parquet_image_is_found_by_its_row(parquet, memory_gb):
    images = [encoded(0), encoded(1), encoded(2), encoded(3)[:300]]
    write_parquet(parquet / "data" / "train-1.parquet", images, [0] * 4)
    data = Parquet(parquet, memory_gb=memory_gb, **COMMON)
    data.setup()
    with pytest.raises(ValueError, match=r"in row 3 of .*train-1\.parquet \(300 bytes\)"):
        data.splits.train[(0, 6)]


def test_fewer_images_than_a_batch_are_refused(folders):
    data = ImageNet(folders, **{**COMMON, "batch_size": 7})
    data.setup()
    with pytest.raises(ValueError, match=r"batch_size=7 .* there are 6; set data\.batch_size to"):
        data.train_dataloader()


def test_digits_need_ten_classes():
    refuses(Digits(**COMMON), ValueError, "digits: label 2 of", "model.num_classes=2")


@pytest.mark.parametrize("name", ["batch_size", "img_size", "num_classes"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"data.{name}=0 must be at least 1"):
        Digits(**{**COMMON, name: 0})


def test_a_synthetic_set_without_images_is_refused():
    common = {key: value for key, value in COMMON.items() if key not in ("mean", "std")}
    with pytest.raises(ValueError, match=r"data\.val_length=0 must be at least 1"):
        Synthetic(length=4, val_length=0, **common)


@pytest.mark.parametrize(
    ("kind", "home", "package", "extra"),
    [(Parquet, "parquet_rows", "pyarrow", "parquet"), (HuggingFace, "arrow", "datasets", "hf")],
)
def test_a_package_that_is_not_installed_says_which_extra_brings_it(
    tmp_path, monkeypatch, kind, home, package, extra
):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"sparsetrain.lightning.data.{home}", raising=False)
    with pytest.raises(ValueError, match=rf"data=(parquet|hf) needs .*{package}.*\[{extra}\]"):
        kind(tmp_path, **COMMON).setup("fit")
