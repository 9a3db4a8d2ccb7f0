"""Checkpoints of FSDP2, sharded and whole, are the dense model's and go on in any other setting."""

from copy import deepcopy

import pytest
from nn_checks import layers
from nn_ranks import assert_same_on_every_rank, gathered
from nn_sharded import ALL, Model, adamw, sharded, sparse_model, step
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

import sparsetrain as st
from sparsetrain.nn import load_sparse_state, sparse_state

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class Run:
    """A model and its optimizer, sharded over both ranks or whole on each."""

    def __init__(self, shards: bool, seed: int = 9) -> None:
        model = sparse_model(ALL, seed=seed)
        self.shards = shards
        self.model = sharded(model) if shards else model
        self.optimizer = adamw(self.model)

    def steps(self, number: int = 2) -> list[float]:
        with st.attach(self.model, self.optimizer):
            return [step(self.model, self.optimizer, halved=self.shards) for _ in range(number)]

    def state(self, options: StateDictOptions | None = None) -> dict:
        model, optimizer = get_state_dict(self.model, self.optimizer, options=options)
        return {"model": model, "optimizer": optimizer}

    def load(self, state: dict, masks: dict, options: StateDictOptions | None = None) -> None:
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=options,
        )
        load_sparse_state(self.model, masks)


def trained(shards: bool) -> Run:
    run = Run(shards, seed=0)
    st.update_masks(run.model)
    run.steps()
    return run


def every_checkpoint_goes_on(folder):
    folder = gathered(folder)[0]
    run = trained(shards=True)
    sharded_state = run.state()
    assert sharded_state["model"].keys() == Model().state_dict().keys()
    assert all(isinstance(value, DTensor) for value in sharded_state["model"].values())
    save(sharded_state, checkpoint_id=folder)
    for name, layer in layers(run.model).items():
        mask = sparse_state(run.model)[name]["mask"]
        assert mask.shape[0] == layer.out_features
        assert_same_on_every_rank(mask)
    # Copies, as files are; the first rank alone has the whole state.
    whole, masks = gathered((run.state(WHOLE), sparse_state(run.model)))[0]
    expected = run.steps()

    for shards in (True, False):
        other = Run(shards)
        state = other.state()
        load(state, checkpoint_id=folder)
        other.load(state, masks)
        assert other.steps() == pytest.approx(expected, abs=1e-6), f"sharded to {shards=}"

        other = Run(shards)
        # Loading puts shards into the state it is given.
        other.load(deepcopy(whole), masks, FROM_FIRST if shards else None)
        assert other.steps() == pytest.approx(expected, abs=1e-6), f"whole to {shards=}"


def test_sharded_and_whole_checkpoints_go_on_sharded_and_in_one_process(ranks, tmp_path):
    ranks(every_checkpoint_goes_on, str(tmp_path))


def a_checkpoint_of_one_process_goes_on_sharded():
    run, other = trained(shards=False), Run(shards=True)
    other.load(gathered(run.state())[0], sparse_state(run.model), FROM_FIRST)
    assert st.density(other.model) == 0.5
    assert other.steps() == pytest.approx(run.steps(), abs=1e-6)


def test_a_checkpoint_of_one_process_goes_on_sharded(ranks):
    ranks(a_checkpoint_of_one_process_goes_on_sharded)
