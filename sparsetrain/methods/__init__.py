"""Training methods: one file each, a frozen type, what it computes, and a card."""

from sparsetrain.methods.activation24 import Activation24
from sparsetrain.methods.s_ste import SSTE
from sparsetrain.methods.sr_ste import SRSTE, add_pruned_decay
from sparsetrain.methods.ste import STE
from sparsetrain.methods.step import STEP, freeze_second_moment

WeightMethod = STE | SRSTE | SSTE

__all__ = [
    "SRSTE",
    "SSTE",
    "STE",
    "STEP",
    "Activation24",
    "WeightMethod",
    "add_pruned_decay",
    "freeze_second_moment",
]
