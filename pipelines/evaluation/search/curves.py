"""Effects of treatments that were not measured, from others of their sublayer that differ in sparsity alone."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prunescope.pipelines.evaluation.search.menu import KEEP, Menu, Option, sparsities

Numbers = NDArray[np.float64]
# Sparsities of one method that are measured in a sublayer; the others lie on the curve through them.
ANCHORS = 3


def methods_of(treatments: Sequence[str]) -> dict[str, str]:
    """Return the treatments of methods with more sparsities than are measured, by name, with their family."""
    own = sparsities(treatments)
    counts = Counter(family for family, _ in own.values())
    return {name: family for name, (family, _) in own.items() if counts[family] > ANCHORS}


def around(sparsity: float, methods: Mapping[str, str]) -> set[str]:
    """Return the names of each method's treatments next to a sparsity, at most and above it."""
    own, found = sparsities([*methods]), set()
    for family in {*methods.values()}:
        values = {own[name][1]: name for name in methods if methods[name] == family}
        found.add(values[max((each for each in values if each <= sparsity), default=min(values))])
        found.add(values[min((each for each in values if each > sparsity), default=max(values))])
    return found


def measured_options(menu: Menu) -> list[int]:
    """Return the options to measure: of each method's sparsities the anchors, and all other treatments.

    The anchors leave out the lowest fifth, whose effects are smallest and whose slope is that of the next.
    """
    chosen = []
    for label in menu.sublayers:
        families: dict[str, list[int]] = {}
        for index, option in enumerate(menu.options):
            if option.sublayer == label and option.treatment != KEEP:
                families.setdefault(menu.families.get(option.treatment, option.treatment), []).append(index)
        for family in families.values():
            own = sorted(family, key=lambda index: menu.options[index].parameters)
            count = min(ANCHORS, len(own))
            first = len(own) // 5 if len(own) > ANCHORS else 0
            chosen += [own[round(place)] for place in np.linspace(first, len(own) - 1, count).tolist()]
    return chosen


def completed(menu: Menu, measured: Mapping[int, float]) -> Numbers:
    """Return an effect of every option, 0 for a sublayer that is kept.

    Between the anchors, and beyond them, the logarithm of the effect is linear in the logarithm of the weights
    removed: an effect grows like a power of the sparsity.

    Args:
        menu: the options.
        measured: effects by the option's number, not negative.
    """
    values = np.zeros(len(menu.options))
    tiny = np.finfo(float).tiny
    for index, option in enumerate(menu.options):
        if index in measured:
            values[index] = measured[index]
        elif option.treatment != KEEP:
            anchors = [each for each in _family(menu, option, measured) if menu.options[each].parameters > 0]
            x = np.log([menu.options[each].parameters for each in anchors])
            y = np.log([max(measured[each], tiny) for each in anchors])
            at = float(np.log(max(option.parameters, 1)))
            place = int(np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2))
            slope = (y[place + 1] - y[place]) / (x[place + 1] - x[place])
            values[index] = float(np.exp(y[place] + slope * (at - x[place])))
    return values


def stand_in(menu: Menu, measured: Sequence[int]) -> list[int | None]:
    """Return for every option the measured one that is most like it: itself, or the nearest anchor; None for keep."""
    known = dict.fromkeys(measured, 0.0)
    found: list[int | None] = []
    for index, option in enumerate(menu.options):
        if option.treatment == KEEP:
            found.append(None)
        elif index in known:
            found.append(index)
        else:
            anchors = _family(menu, option, known)
            found.append(min(anchors, key=lambda each: abs(menu.options[each].parameters - option.parameters)))
    return found


def _family(menu: Menu, option: Option, measured: Mapping[int, float]) -> list[int]:
    """Return the measured options of an option's sublayer and method, by what they remove."""
    family = menu.families[option.treatment]
    own = [
        index
        for index in measured
        if menu.options[index].sublayer == option.sublayer
        and menu.families.get(menu.options[index].treatment) == family
    ]
    return sorted(own, key=lambda index: menu.options[index].parameters)
