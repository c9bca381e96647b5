"""How much of a property's random examples and of a rule's parameters `make test` runs: a third of them."""

from collections import defaultdict
from collections.abc import Iterable

import pytest

_share = 3


def draw_all() -> None:
    """Draw every example in this process, as an exhaustive run does."""
    global _share  # noqa: PLW0603 - set before test modules, which read it for their decorators, are imported
    _share = 1


def examples(most: int) -> int:
    """Return how many of `most` examples this run draws."""
    return -(-most // _share)


def leave_out(items: Iterable[pytest.Item]) -> None:
    """Mark as exhaustive all but every third parameter of a test with the mark `third`, from the mark's offset on.

    Parameters that are exhaustive anyway are not counted. Tests of one family have different offsets, so that each
    member of the family is in some test of `make test`.
    """
    rules: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("third") and not item.get_closest_marker("exhaustive"):
            rules[item.nodeid.partition("[")[0]].append(item)
    for rule in rules.values():
        for place, item in enumerate(rule):
            mark = item.get_closest_marker("third")
            if mark and (place - mark.args[0]) % 3:
                item.add_marker(pytest.mark.exhaustive)
