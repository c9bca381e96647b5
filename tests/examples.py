"""Selection of what `make test` runs: a third of a property's random examples and of a rule's parameters."""

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
    """Mark as exhaustive all but every third parameter of each test with the mark `third`, from the mark's offset on.

    Parameters that are exhaustive anyway do not count, and a test that was selected with fewer than three keeps them.
    Tests of one family have different offsets, so that `make test` meets each member of the family in some test.
    """
    rules: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("third") and not item.get_closest_marker("exhaustive"):
            rules[item.nodeid.partition("[")[0]].append(item)
    for rule in rules.values():
        for place, item in enumerate(rule):
            mark = item.get_closest_marker("third")
            if mark and len(rule) > 2 and (place - mark.args[0]) % 3:
                item.add_marker(pytest.mark.exhaustive)
