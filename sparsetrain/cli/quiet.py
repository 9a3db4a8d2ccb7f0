"""Lightning's and timm's chatter that a user of the command can do nothing about."""

from __future__ import annotations

import logging
import warnings


def quiet_lightning() -> None:
    """Leave errors and our own words on the terminal."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        # Its one message says which process ended, before Lightning kills the others.
        logging.getLogger(f"{name}.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    # Of wandb's telemetry, where its server does not take it.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    for message in (
        r".*does not have many workers.*",
        r".*The dirpath has changed from.*",
        r".*Our suggested max number of worker.*",
        r".*is smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*Experiment logs directory .* exists and is not empty.*",
        # The summary says that no validation ran.
        r".*monitor='val/top1'\)` could not find the monitored key.*",
        # On a cluster's login node.
        r".*`srun` command is available on your system but is not used.*",
        r".*isinstance\(treespec, LeafSpec\).*",
    ):
        warnings.filterwarnings("ignore", message=message)
