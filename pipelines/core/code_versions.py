"""Versions of the computations.

Raise one when its numbers change: stored results of that step and of every step that depends on it become stale.
"""

MODELS = "1"
STATISTICS = "2"
PRUNING = "3"
EXTERNAL = "1"  # of checkpoints made elsewhere, beside that of pruning
MASKS = "1"
TRACES = "8"
SAMPLING = "1"
TEXTS = "5"
TASKS = "2"
RETRIEVAL = "1"
SPEED = "1"
SEARCH = "3"
