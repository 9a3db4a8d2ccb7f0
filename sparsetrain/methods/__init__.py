"""Training methods: one file each, a frozen type, what it computes, and a card."""

from sparsetrain.methods.activation24 import Activation24
from sparsetrain.methods.dropout24 import ActivationDropout24
from sparsetrain.methods.hooks import Seen, reset
from sparsetrain.methods.learned import LearnedScores
from sparsetrain.methods.movement import Movement
from sparsetrain.methods.rigl import RigL
from sparsetrain.methods.s_ste import SSTE
from sparsetrain.methods.sr_ste import SRSTE, add_pruned_decay
from sparsetrain.methods.ste import STE
from sparsetrain.methods.step import STEP, freeze_second_moment

ActivationMethod = Activation24 | ActivationDropout24
WeightMethod = STE | SSTE
"""Others are kinds of STE."""

__all__ = [
    "SRSTE",
    "SSTE",
    "STE",
    "STEP",
    "Activation24",
    "ActivationDropout24",
    "ActivationMethod",
    "LearnedScores",
    "Movement",
    "RigL",
    "Seen",
    "WeightMethod",
    "add_pruned_decay",
    "freeze_second_moment",
    "reset",
]
