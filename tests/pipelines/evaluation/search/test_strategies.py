"""Order of the exchanges that a strategy proposes inside an allocation, and of the sublayers that it puts back."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from prunescope.pipelines.evaluation.search.allocation import Numbers, Problem
from prunescope.pipelines.evaluation.search.menu import Allocation
from prunescope.pipelines.evaluation.search.strategies import Restoration, Strategy
from prunescope.pipelines.evaluation.search.trials import Trial
from prunescope.pipelines.models.decoder import Decoder
from tests.pipelines.evaluation.search.engine import menu_of

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


LABELS = ["attn.0", "mlp.0", "attn.1", "mlp.1", "attn.2", "mlp.2"]


def put_back(decoder: Decoder, predicted: Sequence[float], measured: Sequence[float], freed: Sequence[float]) -> str:
    """Return the sublayers in the order in which they are tried, `!` after those that are not accepted.

    `predicted` and `measured` give the change of the KL when a sublayer is put back, independent of the others, and
    `freed` gives its share of the budget. Half of the total may be put back.
    """
    menu = menu_of(decoder, "magnitude-50")
    places = np.array([menu.places[label, "keep"] for label in LABELS])
    removed = np.zeros(len(menu.options))
    removed[[menu.places[label, "magnitude-50"] for label in LABELS]] = freed
    problem = Problem(np.array([[*menu.sublayers].index(option.sublayer) for option in menu.options]), removed)
    tried = list[str]()

    def measure(move: str, allocation: Allocation, expected: float | None, parent: Trial | None) -> Trial:
        assert move == "restore"
        assert parent is not None
        kept = [allocation[label] == "keep" for label in LABELS]
        kl = np.full(2, 100 + sum(np.array(measured)[kept]))
        is_better = bool(kl[0] < parent.nats[0])
        (label,) = (label for label in LABELS if allocation[label] != parent.allocation[label])
        tried.append(label + "!" * (not is_better))
        return Trial(0, "searched", move, 0.5, 0.5, allocation, expected, kl, kl, parent, is_accepted=is_better)

    def in_context(allocation: Allocation, options: Sequence[int]) -> Numbers:
        found = np.full(len(menu.options), np.nan)
        found[places] = predicted
        return np.where(np.isin(np.arange(len(found)), options), found, np.nan)

    whole = dict.fromkeys(LABELS, "magnitude-50")
    start = Trial(0, "searched", "start", 0.5, 1.0, whole, None, np.full(2, 100.0), np.full(2, 100.0))
    Restoration(menu, problem, sum(freed) / 2, removed, measure, in_context, 0, start).run()
    return " ".join(tried)


def test_a_sublayer_that_does_not_keep_its_promise_leaves_its_place_to_the_next(decoder: Decoder) -> None:
    predicted, measured = [-6.0, -5, -4, -3, 1, 0], [1.0, -5, 0, -3, -9, -9]
    found = put_back(decoder, predicted, measured, [1.0] * 6)
    # After mlp.0 and mlp.1, neither of the others that promise something lowers the KL.
    assert found == "attn.0! mlp.0 attn.0! attn.1! mlp.1 attn.0! attn.1!"


@pytest.mark.parametrize("scale", [1, 1e3])
def test_what_costs_nothing_is_put_back_first_by_its_gain_and_the_rest_by_its_gain_per_unit(
    decoder: Decoder, scale: float
) -> None:
    gains = [-5 * scale, -6 * scale, -7 * scale, -3 * scale, -2 * scale, scale]
    assert put_back(decoder, gains, gains, [0, 0, 0, 3, 1, 6]) == "attn.1 mlp.0 attn.0 attn.2 mlp.1"
