"""The run's config in its checkpoints."""

from __future__ import annotations

from typing import Any

from sparsetrain.lightning.flavour import Callback, pl


class SaveConfig(Callback):
    """Put plain values under `sparsetrain_config` of every checkpoint, so that a checkpoint can
    be validated and exported by itself. classes: their names, None where the data has none.

    permuted: what a permutation before the first masks won, empty without one.
    """

    def __init__(
        self, config: dict[str, Any], overrides: list[str], classes: list[str] | None = None
    ) -> None:
        self.saved = {"config": config, "overrides": overrides, "classes": classes}
        self.permuted = ""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["sparsetrain_config"] = self.saved | {"permuted": self.permuted}
