"""The YAML of every data set makes it, also under a recipe that sets an augmentation."""

from pathlib import Path

import pytest
from data_helpers import encoded, write_parquet
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sparsetrain.lightning.data import ImageData

CONFIGS = Path(__file__).parents[3] / "configs" / "data"
RUN = OmegaConf.create(
    {
        "seed": 1,
        "model": {"img_size": 16, "num_classes": None},
    }
)
RECIPE = {
    "batch_size": 2,
    "num_workers": 0,
    "augment": {"auto_augment": "3a", "color_jitter": 0.3, "scale": [0.5, 1.0], "reprob": 0.25},
}


def compose(name, **data):
    return OmegaConf.merge(RUN, {"data": OmegaConf.load(CONFIGS / f"{name}.yaml")}, {"data": data})


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for label in range(10):
            (tmp_path / split / str(label)).mkdir(parents=True)
            (tmp_path / split / str(label) / "0.png").write_bytes(encoded(label, "PNG"))
        images = [encoded(label) for label in range(10)]
        write_parquet(tmp_path / f"{split}.parquet", images, list(range(10)))
    return tmp_path


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list("0123456789"))}
    )
    images = [{"bytes": encoded(label), "path": None} for label in range(10)]
    rows = datasets.Dataset.from_dict({"image": images, "label": list(range(10))}, features)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("recipe", [RECIPE, {"batch_size": 2, "num_workers": 0}])
@pytest.mark.parametrize("name", ["imagenet", "parquet", "hf", "digits", "synthetic"])
def test_a_config_makes_a_data_set_that_loads(name, recipe, root, request):
    place = {"root": str(root)} if name in ("imagenet", "parquet") else {}
    if name == "hf":
        place = {"root": str(request.getfixturevalue("saved"))}
    data = instantiate(compose(name, **recipe, **place).data)
    assert isinstance(data, ImageData)
    data.setup()
    assert data.num_classes == (1000 if name == "synthetic" else 10)
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 16, 16)


def test_a_recipe_changes_what_it_names_and_nothing_else():
    augment = instantiate(compose("imagenet", **RECIPE).data).augment
    assert (augment.auto_augment, augment.hflip) == ("3a", 0.5)


def test_imagenet_lies_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("IMAGENET_DIR", "/some/where")
    assert compose("imagenet").data.root == "/some/where"
    monkeypatch.delenv("IMAGENET_DIR")
    assert compose("imagenet").data.root is None
