"""Versions of the computations: raise one when its numbers change, and what was stored becomes stale.

Raising one recomputes that step and everything behind it, nothing else.
"""

MODELS = "1"
STATISTICS = "2"
PRUNING = "3"
MASKS = "1"
TRACES = "4"
TEXTS = "4"
TASKS = "1"
RETRIEVAL = "1"
SPEED = "1"
