"""Tests of the section on searches: its sentences hold the numbers of their row, and its tables those of the search."""

from typing import Any

import pytest

from prunescope.assets.publishing.explorer_data import asking
from prunescope.pipelines.reporting.explorer.query_cache import QueryCache
from prunescope.pipelines.reporting.explorer.searches import searches, sentence
from tests.sql.built_whole import crowded_warehouse

ROW: dict[str, Any] = {
    "recipe": "mixed-20-1a2b3c",
    "removed": 0.2004,
    "budget": "parameters",
    "measured_nats": 0.15,
    "measured_low": 0.12,
    "measured_high": 0.18,
    "n_items": 24,
    "measure": "kl_texts",
    "removed_share": 0.2,
    "kl_nats": 0.21,
    "kl_low": 0.19,
    "kl_high": 0.24,
    "other_recipe": "sparsegpt-20",
    "other_removed_share": 0.205,
    "other_kl_nats": 0.38,
    "other_kl_low": 0.33,
    "other_kl_high": 0.43,
    "difference": -0.17,
    "difference_low": -0.2,
    "difference_high": -0.14,
    "same_steps": 12.0,
    "other_same_steps": 4.25,
    "n_questions": 100,
    "same_options": 86.0,
    "other_same_options": 81.0,
}


def test_a_result_is_set_against_the_best_published_recipe_on_the_studys_data() -> None:
    assert sentence(ROW) == (
        "mixed-20-1a2b3c removes 20.0 % of the layers' weights. On the study's texts, its KL is 0.210 [0.190, 0.240] "
        "nats. The best published recipe, sparsegpt-20, removes 20.5 % and has 0.380 [0.330, 0.430] nats. The "
        "difference is −0.170 [−0.200, −0.140], in favour of the search. On average, its text has 12.0 steps in common "
        "with the dense text; that of sparsegpt-20 has 4.25. It chooses the dense model's option in 86 of 100 "
        "questions; sparsegpt-20 does in 81."
    )


def test_a_result_without_a_judgement_speaks_of_its_own_items() -> None:
    assert sentence(ROW | {"kl_nats": None, "budget": "bytes"}) == (
        "mixed-20-1a2b3c removes 20.0 % of the layers' bytes. On the 24 items of the search, its objective is 0.150 "
        "[0.120, 0.180] nats. The study's own data do not compare it with a published recipe of this budget."
    )
    assert sentence(ROW | {"kl_nats": None, "recipe": None}).startswith("The search removes 20.0 %")


@pytest.mark.parametrize(
    ("low", "high", "meaning"),
    [
        (-0.2, 0.01, "which shows no difference"),
        (0.1, 0.2, "in favour of the published recipe"),
        (None, None, "with too little data for an interval"),
    ],
)
def test_a_difference_is_called_one_only_beyond_its_interval(low: Any, high: Any, meaning: str) -> None:
    assert f", {meaning}." in sentence(ROW | {"difference_low": low, "difference_high": high})


def test_prompts_stand_in_where_no_text_was_measured() -> None:
    unmeasured = dict.fromkeys(("same_steps", "same_options", "kl_low", "kl_high"))
    said = sentence(ROW | {"measure": "kl_prompts"} | unmeasured)
    assert "On the study's prompts, its KL is 0.210 nats." in said
    assert "On average" not in said
    assert "questions" not in said


@pytest.mark.parametrize("is_split", [True, False])
def test_each_searched_model_has_its_results_and_an_allocation_of_all_sublayers(is_split: bool) -> None:
    warehouse = crowded_warehouse()
    for table in ("search_effects", "search_trials"):
        rows = [row for row in warehouse.rows[table] if row["model"] == "tiny"]
        warehouse.rows[table] = [row for row in rows if is_split or row.get("matrix", "all") == "all"]
    with warehouse.opened() as connection:
        (entry,) = searches(QueryCache(asking(connection), is_whole=True), ["tiny", "other"])
    assert entry["model"] == "tiny"
    where = [result["sql"]["where"] for result in entry["results"]]
    assert where == [{"model": "tiny", "search": "0a1b2c3d", "trial": "1"}]
    assert len(entry["tables"]) == 1 + is_split
    assert not any("search" in table["columns"] for table in entry["tables"])  # there is only one
    *of_matrices, rows = [
        [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]] for table in entry["tables"]
    ]
    for own in of_matrices:
        assert [(row["sublayer"], row["matrix"]) for row in own] == [
            (kind, name) for kind in ("attn", "mlp") for name in ("down_proj", "up_proj")
        ]
    assert [(row["treatment"], row["sublayers"], row["sublayer_names"]) for row in rows] == [
        ("keep", 2, "attn.0 attn.1"),
        ("wanda-50", 2, "mlp.0 mlp.1"),
    ]
