"""Speed beside the dense model, worked by hand."""

import pytest

from tests.sql.built_tasks import speed
from tests.sql.warehouse_builder import Ask, Handmade

QUERY = "select * from speed_summary order by recipe, length, machine"


def warehouse() -> Handmade:
    return Handmade().model().variant("dense").variant("block-drop-1", method="drop", dropped=["attn.0", "mlp.0"])


def test_a_speedup_is_the_ratio_to_the_dense_side_of_the_same_run(ask: Ask) -> None:
    given = warehouse()
    # The dense side reads 1000 and writes 50 tokens a second, begins after 0.1 s and needs 4000 bytes.
    own = {"prefill_tokens_per_second": 1500.0, "decode_tokens_per_second": 100.0, "seconds_to_first_token": 0.08}
    speed(given, "block-drop-1", sublayers_skipped=2, peak_memory_bytes=3000, **own)
    speed(given, "block-drop-1", length=1024, **(own | {"decode_tokens_per_second": 25.0}))
    short, long = ask(given, QUERY)
    assert short["prefill_speedup"] == pytest.approx(1.5)
    assert short["decode_speedup"] == pytest.approx(2.0)
    assert short["first_token_speedup"] == pytest.approx(1.25)
    assert short["peak_memory_ratio"] == pytest.approx(0.75)
    assert (short["sublayers_skipped"], short["equal_sides"]) == (2, None)
    assert (long["length"], long["decode_speedup"]) == (1024, pytest.approx(0.5))


def test_the_noise_of_a_speedup_is_the_largest_dense_ratio_on_that_machine(ask: Ask) -> None:
    given = warehouse()
    speed(given, "dense", prefill_tokens_per_second=980.0, decode_tokens_per_second=52.0)
    speed(given, "block-drop-1", ratio=2.0)
    speed(given, "block-drop-1", ratio=2.0, new_tokens=8)
    dropped, fewer, dense = ask(given, "select * from speed_summary order by recipe, new_tokens desc")
    assert dense["decode_speedup"] == pytest.approx(1.04)
    assert dense["equal_sides"] == dropped["equal_sides"] == pytest.approx(0.04)
    assert fewer["equal_sides"] is None
    elsewhere = warehouse()
    speed(elsewhere, "dense", machine="another processor")
    speed(elsewhere, "block-drop-1")
    assert ask(elsewhere, QUERY)[0]["equal_sides"] is None


def test_unknown_memory_gives_no_ratio_and_keeps_the_speedups(ask: Ask) -> None:
    given = warehouse()
    speed(given, "block-drop-1", ratio=2.0, peak_memory_bytes=None, peak_memory_bytes_dense=None)
    (row,) = ask(given, QUERY)
    assert row["peak_memory_ratio"] is None
    assert row["decode_speedup"] == pytest.approx(2.0)
