"""Tests that `make test` leaves out every marked test and no other, and that the faults of `mutants` fit the code."""

import pytest

from tests.benchmarks.mutants import ROOT, absent
from tests.examples import leave_out


class Item:
    """A collected test with marks, as pytest has them."""

    def __init__(self, name: str, *marks: pytest.MarkDecorator) -> None:
        self.nodeid, self.marks = name, {mark.name: mark.mark for mark in marks}

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.marks.get(name)

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.marks[mark.name] = mark.mark


def kept(*items: Item) -> list[str]:
    leave_out(items)
    return [item.nodeid for item in items if "exhaustive" not in item.marks]


@pytest.mark.parametrize(("offset", "places"), [(0, [0, 3, 6]), (1, [1, 4]), (2, [2, 5])])
def test_every_third_parameter_stays_from_the_offset_on(offset: int, places: list[int]) -> None:
    third = pytest.mark.third(offset)
    other = [Item(f"b[{place}]") for place in range(4)]
    left = Item("a[left]", third, pytest.mark.exhaustive)
    assert kept(left, *(Item(f"a[{place}]", third) for place in range(7)), *other) == [
        *(f"a[{place}]" for place in places),
        *(item.nodeid for item in other),
    ]


def test_a_parameter_that_is_named_alone_runs() -> None:
    assert kept(Item("a[7]", pytest.mark.third(2))) == ["a[7]"]


def test_every_fault_replaces_a_text_that_is_there_once_and_names_tests_that_exist() -> None:
    assert absent(ROOT) == []
