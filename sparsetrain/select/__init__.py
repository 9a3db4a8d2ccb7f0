"""How a mask is chosen from a tensor: a score for each value, and a solver that keeps the best."""

from sparsetrain.select.selection import EXACT, GREEDY, ROW, RULES, SQUARED, Rule, Selection

__all__ = ["EXACT", "GREEDY", "ROW", "RULES", "SQUARED", "Rule", "Selection"]
