"""Order of the exchanges that a strategy proposes inside an allocation."""

from typing import Any, cast

import numpy as np

from prunescope.pipelines.evaluation.search.allocation import Problem
from prunescope.pipelines.evaluation.search.strategies import Strategy

# Two sublayers of five options each, which remove 0 to 4.
PROBLEM = Problem(np.repeat([0, 1], 5), np.tile(np.arange(5.0), 2))
CURRENT = np.array([2, 7])
COSTS = np.array([-9.0, -4.0, 0.0, 1.0, 2.0, -9.5, -5.0, 0.0, 1.5, 2.5])


def proposals(*tried: tuple[int, int]) -> list[tuple[int, ...]]:
    """Return what a strategy proposes after some choices were tried."""
    unused = cast(Any, None)
    strategy = Strategy(unused, PROBLEM, 4.0, COSTS, unused, unused, 8)
    strategy._tried |= {np.array(choice).tobytes() for choice in tried}
    found = strategy._proposals(CURRENT, COSTS, np.ones(10, dtype=bool))
    return [tuple(choice.tolist()) for choice in found]


def test_the_best_three_exchanges_that_were_not_tried_are_proposed() -> None:
    # By what they gain: 7.5, 6.5, 4, 3, 2.5 and 1.5; all remove 4 or more.
    every = [(4, 5), (0, 9), (3, 6), (4, 6), (1, 8), (1, 9)]
    assert proposals() == every[:3]
    assert proposals(every[0]) == every[1:4]
    assert proposals(every[1], every[2], every[4]) == [every[0], every[3], every[5]]
    assert proposals(*every) == []
