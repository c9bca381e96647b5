"""Tests that YAML is read as plain data, within limits of size and values."""

import os
from datetime import date
from pathlib import Path

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.safe_yaml import MAX_BYTES, parse_yaml, read_yaml

BILLION_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
# Merged mappings grow while they are built.
MERGED = "b0: &b0 {k: v}\n" + "".join(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


def test_plain_data_and_aliases_are_read() -> None:
    text = "one: &one {a: 1, b: [true, 2.5, null, 2026-01-31, text]}\ntwo: {<<: *one, a: 2}\n"
    b = [True, 2.5, None, date(2026, 1, 31), "text"]
    assert parse_yaml(text, "x") == {"one": {"a": 1, "b": b}, "two": {"a": 2, "b": b}}
    assert parse_yaml("", "x") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BILLION_LAUGHS, "x: more than 100,000 values with aliases expanded"),
        (MERGED, "x: more than 100,000 values"),
        ("a: &a [*a]", "x: more than 100,000 values"),
        ("a: " + "[" * 100_000, "x: nested too deep"),
        ("a: !!python/object/apply:os.system [id]", "x: line 1: not valid YAML: could not determine a constructor"),
        ("a: !!python/name:os.system", "x: line 1: not valid YAML: could not determine a constructor"),
        ("a: 2026-02-31", "x: not valid YAML: day is out of range"),
        ("a: 1" + "0" * 5000, "x: not valid YAML: Exceeds the limit"),
        ("a: 1\nb: 2\n'a': 3", "x: line 3: `a` is set on line 1 already; leave one out"),
        ("a: {b: [{c: 1, c: 2}]}", "x: line 1: `c` is set on line 1 already"),
        ("a: {[b]: c}", "x: line 1: not valid YAML: found unhashable key"),
        ("a: 1\n--- \nb: 2", "x: line 2: not valid YAML"),
        ("a: \0", "x: not valid YAML: .*special characters are not allowed"),
        ("a" * (MAX_BYTES + 1), "x: larger than 1,000,000 bytes"),
    ],
    ids=range(14),
)
def test_other_or_excessive_data_is_refused_by_line(text: str, why: str) -> None:
    with pytest.raises(InputError, match=f"^{why}"):
        parse_yaml(text, "x")


def test_numbers_that_yaml_reads_in_base_60_or_8_stay_texts() -> None:
    text = "[1:30, -1:00:05, 1:30.5, 010, 0, -7, 1_000, 0x1F, 1.5, 2026-01-31, '1:30']"
    plain = [0, -7, 1000, 31, 1.5, date(2026, 1, 31)]
    assert parse_yaml(text, "x") == ["1:30", "-1:00:05", "1:30.5", "010", *plain, "1:30"]


def test_repeated_keys_pass_where_they_are_allowed() -> None:
    assert parse_yaml("{a: 1, a: 2}", "x", unique=False) == {"a": 2}


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"^file 'a+…': longer than a path can be"):
        read_yaml(Path("a" * 300 + ".yaml"))


def test_oversized_and_undecodable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(
        InputError, match=r"large.yaml: 1,099,511,627,776 bytes, over the 1,000,000 that a YAML file may have"
    ):
        read_yaml(path, "watch list")
    path.write_bytes(b"a: \xff")
    with pytest.raises(InputError, match=r"large.yaml, line 1: not UTF-8 text"):
        read_yaml(path)
    with pytest.raises(InputError, match=r"none.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")
