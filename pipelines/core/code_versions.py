"""Versions of the computations.

Raise one when its numbers change: stored results of that step and of every step that depends on it become stale. A
difference in rounding alone, as between two processors, does not count.
"""

MODELS = "1"
STATISTICS = "2"
PRUNING = "3"
EXTERNAL = "1"  # of checkpoints made elsewhere, in addition to that of pruning
REPAIR = "2"  # of repairs, in addition to that of pruning
MASKS = "1"
TRACES = "8"
SAMPLING = "2"
TEXTS = "5"
TASKS = "3"
RETRIEVAL = "1"
SPEED = "1"
SEARCH = "4"
