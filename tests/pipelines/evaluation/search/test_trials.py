"""Rows of trials: intervals against scipy, exchanges and allocations as text."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from prunescope.pipelines.evaluation.search.trials import SCHEMA, Trial, exchange, treatments_json
from prunescope.pipelines.metrics.mean_interval import interval


@pytest.mark.parametrize("count", [2, 3, 24])
def test_the_interval_of_a_mean_is_students(count: int) -> None:
    values = np.random.default_rng(count).normal(3, 2, count)
    low, mean, high = interval(values)
    truth = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx(tuple(truth), rel=1e-9)
    assert mean == values.mean()


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert interval(np.full(5, 0.25)) == (0.25, 0.25, 0.25)


def test_an_allocation_is_text_with_sorted_keys_and_without_what_is_kept() -> None:
    found = treatments_json({"mlp.1": "drop", "mlp.0": "keep", "attn.0": "wanda-50"})
    assert found == '{"attn.0": "wanda-50", "mlp.1": "drop"}'
    assert treatments_json({}) == "{}"


def test_an_exchange_names_what_differs_by_layer() -> None:
    before = {"mlp.10": "drop", "mlp.2": "wanda-50", "attn.2": "keep"}
    after = {"mlp.10": "keep", "mlp.2": "drop", "attn.0": "drop"}
    assert exchange(before, after) == "attn.0: keep → drop; mlp.2: wanda-50 → drop; mlp.10: drop → keep"
    assert exchange({"mlp.0": "keep"}, {}) is None


def test_differences_are_paired_over_items_and_a_hidden_trial_predicts_no_nats() -> None:
    generator = np.random.default_rng(0)
    nats = generator.lognormal(size=6)
    ids = tuple(f"i{n}" for n in range(6))
    parent = Trial(0, "hidden", "sum", 0.2, 0.21, {}, 0.5, nats, nats / 3, item_ids=ids)
    child = Trial(1, "hidden", "exchange", 0.2, 0.2, {"mlp.0": "drop"}, 0.5, nats - 0.1, nats / 4, parent, item_ids=ids)
    rows = [trial.row() for trial in (parent, child)]
    first, second = pl.DataFrame(rows, schema=SCHEMA).rows(named=True)
    assert first["parent"] is first["difference_nats"] is first["exchange"] is second["predicted_nats"] is None
    assert second["parent"] == 0
    assert [second[f"difference_{each}"] for each in ("low", "nats", "high")] == pytest.approx([-0.1] * 3)
    assert second["exchange"] == "mlp.0: keep → drop"
    assert child.objective.tolist() == (nats / 4).tolist()
