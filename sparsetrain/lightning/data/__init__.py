"""Image data for training: the same samples and the same augmentation on every run.

What one training step sees is a function of (seed, epoch, step) alone. It does not depend on the
number of workers, on how a global batch is split over processes, or on a restart:

    sampler.py      which samples, in which order       keys (epoch, index)
    dataset.py      a key -> one augmented sample        random numbers from (seed, epoch, index)
    loader.py       where a resumed run goes on          position in Lightning's progress counters
    base.py         the LightningDataModule around them
    imagenet.py parquet.py hf.py digits.py synthetic.py  where the images are
    files.py folders.py shards.py parquet_rows.py        how they are found and read
    arrow.py held_out.py                                 errors that name the file; splits
    decode.py                                            bytes -> RGB
    augmented.py transforms.py                           how they are augmented
    cached.py batch_augment.py batch_ops.py draws.py     the same for small sets on the device
"""

from sparsetrain.lightning.data.base import ImageData, Splits
from sparsetrain.lightning.data.dataset import SeededImages
from sparsetrain.lightning.data.digits import Digits
from sparsetrain.lightning.data.hf import HuggingFace
from sparsetrain.lightning.data.imagenet import ImageNet
from sparsetrain.lightning.data.loader import Position, train_position
from sparsetrain.lightning.data.parquet import Parquet
from sparsetrain.lightning.data.sampler import EpochSampler, EvalBatches
from sparsetrain.lightning.data.synthetic import Synthetic
from sparsetrain.lightning.data.transforms import Augment

__all__ = [
    "Augment",
    "Digits",
    "EpochSampler",
    "EvalBatches",
    "HuggingFace",
    "ImageData",
    "ImageNet",
    "Parquet",
    "Position",
    "SeededImages",
    "Splits",
    "Synthetic",
    "train_position",
]
