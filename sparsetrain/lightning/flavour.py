"""Lightning is published as two packages with the same code, `pytorch_lightning` and `lightning`,
and neither knows the classes of the other.

pl: the first one that is installed; `fit` uses its classes.
Callback, Checkpoint, …: base classes of what a trainer is given. Where both packages are installed,
each is a subclass of both packages' classes, so trainers of either accept it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from types import ModuleType, new_class
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet

SUPPORTED = SpecifierSet(">=2.6,!=2.6.2,!=2.6.3")
"""2.6.2 and 2.6.3 were published by an attacker and steal credentials on import:
GHSA-w37p-236h-pfx3. A version that is not supported is not imported."""

_MODULES = {"pytorch-lightning": "pytorch_lightning", "lightning": "lightning.pytorch"}


def _installed() -> tuple[ModuleType, ...]:
    """The packages that may be imported. Raises ImportError where there is none."""
    found, others = [], []
    for package, module in _MODULES.items():
        try:
            number = version(package)
        except PackageNotFoundError:
            continue
        if SUPPORTED.contains(number, prereleases=True):
            found.append(import_module(module))
        else:
            others.append(f"{package} {number} is not supported; ")
    if not found:
        raise ImportError(f"{''.join(others)}pip install 'pytorch-lightning{SUPPORTED}'")
    return tuple(found)


LIGHTNINGS = _installed()
"""Those that are installed, at least one."""


def _joined(path: str) -> Any:
    """The class at a path like `callbacks.Callback`, or a subclass of both packages' classes, which
    runs the code of the first."""
    classes = each(path)
    return classes[0] if len(classes) == 1 else new_class(classes[0].__name__, classes)


def each(path: str) -> tuple[Any, ...]:
    """The class at a path like `strategies.DDPStrategy` in every package, for `isinstance`."""
    return tuple(attrgetter(path)(package) for package in LIGHTNINGS)


def package_of(pl_module: Any) -> Any:
    """The package that a LightningModule is of. Raises TypeError if it is of none."""
    for package in LIGHTNINGS:
        if isinstance(pl_module, package.LightningModule):
            return package
    raise TypeError(
        f"{type(pl_module).__name__} is no LightningModule of pytorch_lightning or lightning "
        f"{SUPPORTED}"
    )


if TYPE_CHECKING:
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from pytorch_lightning.callbacks import (
        Callback,
        Checkpoint,
        ProgressBar,
        WeightAveraging,
    )
    from pytorch_lightning.loggers import WandbLogger
    from pytorch_lightning.plugins import MixedPrecision, Precision, TorchCheckpointIO
    from pytorch_lightning.utilities import GradClipAlgorithmType
else:
    pl = LIGHTNINGS[0]
    Callback = _joined("callbacks.Callback")
    Checkpoint = _joined("callbacks.Checkpoint")
    ProgressBar = _joined("callbacks.ProgressBar")
    WeightAveraging = _joined("callbacks.WeightAveraging")
    TorchCheckpointIO = _joined("plugins.TorchCheckpointIO")

    WandbLogger = pl.loggers.WandbLogger
    SLURMEnvironment = import_module(f"{pl.__name__}.plugins.environments").SLURMEnvironment
    MixedPrecision, Precision = pl.plugins.MixedPrecision, pl.plugins.Precision
    GradClipAlgorithmType = pl.utilities.GradClipAlgorithmType
