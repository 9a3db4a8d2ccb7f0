"""Replacing the modules of a model."""

import pytest
from nn_checks import Mlp
from torch import nn

import sparsetrain as st


class Counted(nn.ModuleList):
    """Knows how often it was walked through."""

    walks = 0

    def named_modules(self, *given, **words):
        self.walks += not given or not given[0]
        return super().named_modules(*given, **words)


def walks(mlps: int, activation) -> list[int]:
    model = Counted([Mlp() for _ in range(mlps)])
    counts = []
    sparsity = st.Sparsity(activation=activation)
    for step in (
        lambda: st.sparsify(model, sparsity, engine="native"),
        lambda: st.densify(model, apply_masks=True),
        lambda: st.quantize(model),
    ):
        model.walks = 0
        step()
        counts.append(model.walks)
    return counts


@pytest.mark.parametrize("activation", [None, st.Activation24()], ids=str)
def test_a_model_of_many_experts_is_not_walked_through_for_each(activation):
    assert walks(2, activation) == walks(20, activation)
