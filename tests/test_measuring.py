"""The harness of the benchmarks: turns, and targets that decide how a benchmark ends."""

import pytest

from tests.benchmarks.measuring import Table, in_turns, machine


def test_works_take_turns_and_the_shortest_time_of_each_counts() -> None:
    calls = list[str]()
    found = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert calls == [*"ababab"]
    assert set(found) == {*"ab"}
    assert min(found.values()) > 0


@pytest.mark.parametrize(
    ("target", "end"), [({"most": 2.0}, 0), ({"most": 1.5}, 1), ({"least": 2.0}, 0), ({"least": 2.5}, 1), ({}, 0)]
)
def test_a_table_names_the_machine_and_ends_with_1_if_a_target_is_missed(
    target: dict[str, float], end: int, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table()
    table.add("ratio", 2.0, **target)
    with pytest.raises(SystemExit) as ended:
        table.print()
    assert ended.value.code == end
    first, *_, row = capsys.readouterr().out.splitlines()
    assert first.startswith(machine().partition(";")[0][:20])
    assert row.split()[:2] == ["ratio", "2"]
    assert row.endswith("MISSED") is bool(end)
