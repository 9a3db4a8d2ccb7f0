"""Reading a data set runs none of what is in it."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sparsetrain.lightning.data.decode import Decode, Encoded
from sparsetrain.lightning.data.hf import RowSource, saved_splits
from sparsetrain.lightning.data.parquet_rows import ParquetSource, read_class_names
from sparsetrain.lightning.data.shards import ShardSource


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def marker(tmp_path):
    """Never made: asserted at the end of each test."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def shard(folder: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(folder / "train.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder / "train.tar"


def test_members_of_a_shard_that_hold_pickles_are_skipped(tmp_path, marker):
    kinds = ("pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "cls.pkl", "jpg.pyd")
    pickled = pickle.dumps(Touch(marker))
    others = {f"a.{kind}": pickled for kind in kinds}
    source = ShardSource([shard(tmp_path, {"a.png": png(), "a.cls": b"3", **others})])
    assert len(source) == 1
    assert source.read(0)[1] == 3


@pytest.mark.parametrize("kind", ["cls", "png"])
def test_a_pickle_in_place_of_a_label_or_an_image_is_refused(tmp_path, marker, kind):
    members = {"a.png": png(), "a.cls": b"3", f"a.{kind}": pickle.dumps(Touch(marker))}
    with pytest.raises(ValueError, match=r"not a class number|cannot decode"):
        Decode()(ShardSource([shard(tmp_path, members)]).read(0)[0])


def write_parquet(path: Path, images: list[bytes], metadata: dict, of_field: dict) -> Path:
    image = pa.field("image", pa.binary(), metadata=of_field)
    schema = pa.schema([image, pa.field("label", pa.int64())], metadata=metadata)
    pq.write_table(pa.table({"image": images, "label": [1] * len(images)}, schema=schema), path)
    return path


@pytest.mark.parametrize("name", ["arrow.py_extension_type", "unknown.type"])
def test_an_extension_type_of_parquet_is_not_unpickled(tmp_path, marker, name):
    pickled = pickle.dumps(Touch(marker))
    of_field = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickled}
    path = write_parquet(tmp_path / "train.parquet", [png()], {}, of_field)
    source = ParquetSource([path], "image", "label", memory_gb=1.0)
    assert source.read(0)[1] == 1


@pytest.mark.parametrize("key", ["pandas", "huggingface", "classes", "ARROW:schema"])
def test_metadata_of_parquet_is_not_unpickled(tmp_path, marker, key):
    path = write_parquet(
        tmp_path / "train.parquet", [png()], {key: pickle.dumps(Touch(marker))}, {}
    )
    try:
        read_class_names(path, "label")
        assert ParquetSource([path], "image", "label", memory_gb=1.0).read(0)[1] == 1
    except ValueError:  # no JSON, no text, no schema
        assert key != "pandas"


def test_an_image_of_parquet_that_is_a_pickle_is_refused(tmp_path, marker):
    path = write_parquet(tmp_path / "train.parquet", [pickle.dumps(Touch(marker))], {}, {})
    with pytest.raises(ValueError, match="cannot decode the image in row 0"):
        Decode()(ParquetSource([path], "image", "label", memory_gb=1.0).read(0)[0])


def test_nothing_that_datasets_saved_is_unpickled_or_followed(tmp_path, marker):
    datasets = pytest.importorskip("datasets")
    pickled = pickle.dumps(Touch(marker))
    images = [{"bytes": pickled, "path": None}, {"bytes": None, "path": "/etc/hostname"}]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = pa.table({"image": images, "label": [0, 1]}).cast(features.arrow_schema)
    datasets.Dataset(rows).save_to_disk(tmp_path / "set", num_proc=None)
    file = next((tmp_path / "set").glob("*.arrow"))
    with (
        pa.OSFile(str(file), "wb") as out,
        pa.ipc.new_stream(
            out, rows.schema.with_metadata({b"pandas": pickled, **(rows.schema.metadata or {})})
        ) as writer,
    ):
        writer.write_table(rows)
    source = RowSource(saved_splits(tmp_path / "set")[""], "image", "label", "set")
    with pytest.raises(ValueError, match="cannot decode the image in row 0 of set"):
        Decode()(source.read(0)[0])
    with pytest.raises(ValueError, match="no image bytes in row 1 of set, only a path"):
        source.read(1)


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for Ghostscript")
def test_no_program_is_started_for_an_image(tmp_path, marker, monkeypatch):
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {marker}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ValueError, match="cannot decode the image here"):
        Decode()(Encoded(eps, "here"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_the_formats_of_photographs_are_decoded(kind):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(file, kind)
    assert np.asarray(Decode()(Encoded(file.getvalue(), "here"))).mean() == pytest.approx(
        200, abs=3
    )


def test_a_jpeg_of_several_pictures_is_decoded():
    file = io.BytesIO()
    picture = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
    picture.save(file, "MPO", save_all=True, append_images=[picture])
    assert Decode()(Encoded(file.getvalue(), "here")).size == (8, 8)
