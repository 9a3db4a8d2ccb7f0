"""When a LightningModule has its layers."""

from __future__ import annotations

from collections.abc import Callable

from sparsetrain.lightning.flavour import package_of, pl


def once_configured(model: pl.LightningModule, act: Callable[[], None]) -> None:
    """Call `act` right after the module's own `configure_model`; now, where it has none."""
    if not package_of(model).utilities.model_helpers.is_overridden("configure_model", model):
        act()
        return
    configure: Callable[[], None] = model.configure_model

    def configure_model() -> None:
        configure()
        # The module's own method again: with this one it could not be pickled.
        del model.configure_model
        act()

    model.configure_model = configure_model
