"""What the tests of pruning share: numbers, statistics of inputs, and the best masks by trial."""

import itertools

import torch

from sparsetrain.pruning.statistics import Inputs, Reads


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(tokens, features, seed=1):
    """Inputs whose features differ in scale and depend on each other."""
    x = normal(tokens, features, seed=seed) @ normal(features, features, seed=seed + 1)
    return x * torch.linspace(0.1, 3.0, features)


def inputs_of(x, reads: Reads = "gram"):
    inputs = Inputs(x.shape[1], reads, torch.device("cpu"))
    for part in x.split(7):
        inputs.add(part)
    return inputs


def best_of_rows(score):
    """Two of every four by trying all six, in Python."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    for row, column in itertools.product(range(score.shape[0]), range(0, score.shape[1], 4)):
        pairs = itertools.combinations(range(column, column + 4), 2)
        best = max(pairs, key=lambda pair: sum(score[row, j].item() for j in pair))
        mask[row, list(best)] = True
    return mask
