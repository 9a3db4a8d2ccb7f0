"""Permutations that leave a model's function as it is, so that 2:4 masks keep more of its weights.

`permute` is the whole of it: `find` knows which units of a model may change places, `search` in
which order they keep most.
"""

from sparsetrain.permutation.permute import permute
from sparsetrain.permutation.report import PermutedLayer, PermuteReport

__all__ = ["PermuteReport", "PermutedLayer", "permute"]
