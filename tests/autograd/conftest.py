"""Gradients are held to the accuracy rule of the ops, which lies beside their tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "ops"))
