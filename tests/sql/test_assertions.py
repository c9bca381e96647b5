"""Assertions in SQL: each finds nothing in a good warehouse, and something in one that breaks its rule."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from prunescope.warehouse.catalogue import database
from prunescope.warehouse.tables import TABLES
from tests.sql.built_searches import search_effect
from tests.sql.built_whole import whole_warehouse
from tests.sql.warehouse_builder import Handmade, Memory, Row, rows_of

FILES = sorted((database.SQL / "tests").glob("assert_*.sql"))


@dataclass(frozen=True)
class Break:
    """A change of the first row of a table with the values `where`; without new values, all such rows are removed."""

    table: str
    where: dict[str, object]
    values: dict[str, object] = field(default_factory=dict)

    def apply(self, warehouse: Handmade) -> None:
        found = warehouse.where(self.table, **self.where)
        if self.values:
            found[0].update(self.values)
        else:
            warehouse.rows[self.table] = [row for row in warehouse.rows[self.table] if row not in found]


def change(table: str, where: dict[str, object], **values: object) -> Break:
    return Break(table, where, values)


def without(table: str, **where: object) -> Break:
    return Break(table, where)


STEP_0 = {"recipe": "wanda-50", "prompt_id": "p0", "step": 0, "temperature": 1.0}
FORCED, RUNNING = STEP_0 | {"trajectory": "teacher_forced"}, STEP_0 | {"trajectory": "free_running"}
LAST = STEP_0 | {"layer": 1, "sublayer": "mlp", "scope": "propagated", "lens": "normed"}
ALONE = LAST | {"scope": "isolated"}
UNTOUCHED = {"recipe": "attn-drop-1", "layer": 0, "scope": "local"}
DENSE, QUESTION = {"recipe": "dense"}, {"recipe": "wanda-50", "prompt_id": "p0"}

BROKEN = [
    ("every_variant_has_its_dense_model", without("variants", recipe="dense")),
    ("trajectories_start_equal", change("decoding_steps", RUNNING, kl_dense_pruned_nats=9.0)),
    ("trajectories_start_equal", change("decoding_steps", RUNNING, token_id_pruned=8)),
    ("trajectories_start_equal", change("decoding_steps", STEP_0 | {"trajectory": "own_text"}, token_id_pruned=8)),
    ("trajectories_start_equal", change("decoding_steps", STEP_0 | {"trajectory": "fork"}, kl_dense_pruned_nats=1e-9)),
    ("last_layer_is_the_output", change("layer_transitions", LAST, kl_dense_pruned_nats=9.0)),
    ("last_layer_is_the_output", change("layer_transitions", LAST, var_p_dz=9.0)),
    ("isolated_at_the_top_is_local", change("layer_transitions", ALONE, kl_dense_pruned_nats=9.0)),
    ("isolated_at_the_top_is_local", change("layer_transitions", ALONE, norm_dh=9.0)),
    ("dense_against_itself_is_zero", change("layer_transitions", DENSE, norm_dz=1e-30)),
    ("dense_against_itself_is_zero", change("layer_transitions", UNTOUCHED, one_minus_cos_p=1e-30)),
    ("dense_against_itself_is_zero", change("decoding_steps", DENSE, js_nats=1e-30)),
    ("dense_against_itself_is_zero", change("option_subspace", DENSE, kl_options_dense_pruned_nats=1e-30)),
    ("dense_against_itself_is_zero", change("generations", DENSE, first_flip_step=3)),
    ("dense_against_itself_is_zero", change("text_tokens", DENSE, js_nats=1e-30)),
    ("texts_agree_with_themselves", change("text_tokens", {"recipe": "wanda-50"}, log_p_target_dense=-0.5)),
    ("texts_agree_with_themselves", change("text_tokens", {"recipe": "wanda-50"}, token_id=4)),
    ("texts_agree_with_themselves", without("text_tokens", recipe="wanda-50", window_id=1)),
    ("texts_agree_with_themselves", change("text_tokens", {"recipe": "wanda-50", "position": 1}, window_id=1)),
    ("first_flip_is_the_first_difference", change("generations", {"recipe": "wanda-50"}, first_flip_step=99)),
    ("first_flip_is_the_first_difference", change("decoding_steps", RUNNING | DENSE, token_id_pruned=9)),
    ("first_flip_is_the_first_difference", change("decoding_steps", FORCED | DENSE, is_top1_same=False)),
    ("top_tokens_are_ranked", change("top_tokens", {"rank": 1}, token_id=8)),
    ("top_tokens_are_ranked", change("top_tokens", {"rank": 2}, rank=3)),
    ("top_tokens_are_ranked", change("top_tokens", {"rank": 2, "side": "dense"}, logit_dense=3.0)),
    ("ranks_agree_with_tokens", change("decoding_steps", FORCED | DENSE, token_id_pruned=9)),
    ("ranks_agree_with_tokens", change("decoding_steps", FORCED | DENSE, rank_of_pruned_top1=2)),
    ("options_agree_with_themselves", change("option_subspace", QUESTION, options=["A", "B", "C"])),
    ("options_agree_with_themselves", change("option_subspace", QUESTION, p_options_pruned=[0.1, 0.1, 0.1, 0.1])),
    ("options_agree_with_themselves", change("option_subspace", QUESTION, mass_dense=0.9)),
    ("options_agree_with_themselves", change("option_subspace", QUESTION, argmax_pruned="D")),
    ("options_agree_with_themselves", change("option_subspace", QUESTION, is_argmax_same=False)),
    ("options_agree_with_themselves", change("option_subspace", QUESTION, gold="Z")),
    ("options_agree_with_themselves", change("option_subspace", QUESTION, rank_dense=[9, 2, 3, 4])),
    ("a_search_has_one_result", change("search_trials", {"strategy": "random", "is_result": False}, is_result=True)),
    ("a_search_changes_earlier_trials", change("search_trials", {"parent": 0}, parent=7)),
    ("a_search_changes_earlier_trials", without("search_trials", trial=0)),
    ("search_means_are_those_of_items", change("search_effects", {"treatment": "drop"}, kl_dense_pruned_nats=9.0)),
    ("search_means_are_those_of_items", change("search_trials", {"trial": 3}, item_nats=[0.1, 0.1, 9.0])),
]


@pytest.fixture(scope="module")
def right() -> Handmade:
    """Build the good warehouse, whose rows a test copies before it changes them."""
    return whole_warehouse()


@pytest.fixture(scope="module")
def good(right: Handmade) -> Iterator[Memory]:
    memory = Memory()
    memory.fill(right)
    with memory.connection:
        yield memory


def failures(memory: Memory) -> dict[str, list[Row]]:
    found = {path.stem: rows_of(memory.connection, path.read_text()) for path in FILES}
    return {name: rows for name, rows in found.items() if rows}


def test_no_assertion_fails_in_a_good_warehouse(good: Memory) -> None:
    assert failures(good) == {}


def test_no_assertion_fails_on_an_empty_warehouse() -> None:
    assert failures(Memory()) == {}


@pytest.mark.parametrize(("name", "broken"), BROKEN)
def test_an_assertion_finds_broken_rows(name: str, broken: Break, good: Memory, right: Handmade) -> None:
    warehouse, table = Handmade(), TABLES[broken.table]
    warehouse.rows[broken.table] = [dict(row) for row in right.rows[broken.table]]
    broken.apply(warehouse)
    good.fill_table(table, warehouse.rows[broken.table], checked=False)
    try:
        assert rows_of(good.connection, (database.SQL / "tests" / f"assert_{name}.sql").read_text())
    finally:
        good.fill_table(table, right.rows[broken.table], checked=False)


@pytest.mark.parametrize(
    ("dtype", "trajectory", "margin", "is_tie"),
    [
        ("bfloat16", "teacher_forced", 0.1, True),
        ("bfloat16", "teacher_forced", 0.3, False),
        ("bfloat16", "own_text", 0.1, False),
        ("float32", "teacher_forced", 0.1, False),
        ("float32", "teacher_forced", 1e-4, True),
    ],
)
def test_a_pass_over_the_dense_text_prefers_its_tokens_except_at_ties(
    dtype: str, trajectory: str, margin: float, is_tie: bool
) -> None:
    warehouse = Handmade().model().variant("dense").step("dense", "p", 0, 0.0, trajectory=trajectory)
    warehouse.rows["models"][0]["dtype"] = dtype
    (step,) = warehouse.rows["decoding_steps"]
    step |= {"token_id_pruned": step["token_id_pruned"] + 1, "margin_dense": margin, "margin_pruned": margin}
    memory = Memory()
    memory.fill(warehouse)

    assert ("assert_dense_against_itself_is_zero" not in failures(memory)) is is_tie


def test_a_tie_turned_by_rounding_raises_no_alarm() -> None:
    warehouse = Handmade().model().variant("dense").variant("wanda-50").generation("wanda-50", "p", flip=0)
    for trajectory, flips in (("teacher_forced", False), ("free_running", True)):
        warehouse.step("wanda-50", "p", 0, 1.0, trajectory=trajectory, flips=flips, margin_pruned=1e-4)
        warehouse.top_tokens("wanda-50", "p", 0, trajectory=trajectory, flips=flips)
    memory = Memory()
    memory.fill(warehouse)

    assert failures(memory) == {}


def test_an_effect_that_was_measured_on_fewer_items_or_interpolated_is_no_mean_over_its_items() -> None:
    warehouse = Handmade().model()
    # On its two items the second treatment costs half of the first: half of the mean of the first over all four.
    search_effect(warehouse, "mlp.0", "drop", [0.2, 0.4, 0.8, 1.0])
    search_effect(warehouse, "mlp.0", "wanda-50", [0.1, 0.2], kl=0.3)
    search_effect(warehouse, "mlp.0", "wanda-30", [], kl=0.1)
    memory = Memory()
    memory.fill(warehouse)
    assert failures(memory) == {}


def test_every_assertion_has_a_broken_case() -> None:
    assert {path.stem for path in FILES} == {f"assert_{name}" for name, _ in BROKEN}
