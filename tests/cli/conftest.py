"""One short run that most tests look at."""

import pytest
from cli_helpers import WHOLE, Run, fit


@pytest.fixture(scope="session", autouse=True)
def neither_data_nor_key():
    """Nothing of the machine's settings reaches a run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IMAGENET_DIR", "HYDRA_FULL_ERROR", "COLUMNS"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Run:
    """Eight steps of vit_tiny_24 in two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    ended = fit(folder, *WHOLE)
    assert ended.status == 0, ended.err
    return Run(folder, ended)


@pytest.fixture(scope="session")
def dense_tail(tmp_path_factory) -> Run:
    """A run whose last steps are dense."""
    folder = tmp_path_factory.mktemp("tail")
    ended = fit(folder, *WHOLE, "trainer.max_epochs=1", "sparsity.schedule.dense_tail=0.5")
    assert ended.status == 0, ended.err
    return Run(folder, ended)
