"""The photographs that `scripts.bench.images` makes."""

from typing import Any

from scripts.bench.photos import HEIGHT, WIDTH, kilobytes, make_folder
from sparsetrain.lightning.data import ImageNet


def test_photographs_have_the_size_of_imagenets(tmp_path):
    make_folder(tmp_path, distinct=10, copies=3)
    assert 60 < kilobytes(tmp_path) < 120
    settings: dict[str, Any] = {
        "batch_size": 2,
        "num_workers": 0,
        "img_size": 32,
        "num_classes": None,
        "seed": 0,
    }
    data = ImageNet(tmp_path, mean=(0.5,) * 3, std=(0.5,) * 3, **settings)
    data.setup()
    assert data.name.endswith(" (30 train / 10 val)")
    image, _ = data.splits.train.source.read(0)
    assert data.decode(image).size == (WIDTH, HEIGHT)
    make_folder(tmp_path, distinct=99, copies=9)
    assert len(list((tmp_path / "train").rglob("*.jpg"))) == 30, "made once"
