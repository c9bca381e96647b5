"""Plausibility checks, which warn where numbers leave their arithmetic bounds, and nowhere else."""

import polars as pl
import pytest

from prunescope.warehouse.quality.plausibility_checks import MIN_ROWS, PLAUSIBILITY_CHECKS, measured
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import rows_of

# The theorem holds to third order: estimate, its next terms and the divergence agree.
MOVED = {"kl_dense_pruned_nats": 0.02, "t3_kl_nats": 0.0201, "kappa3_term_nats": -1e-4, "kappa4_term_nats": 0.0}


def found(table: str, recipe: str = "wanda-50", rows: int = MIN_ROWS, **changes) -> dict[str, object]:
    """Return the result of each plausibility check of a table on rows with some columns changed."""
    changed = rows_of(TABLES[table], recipe=recipe, rows=rows).with_columns(
        **{name: value if isinstance(value, pl.Series) else pl.lit(value) for name, value in changes.items()}
    )
    return {each.name: each for each in measured(TABLES[table], changed)}


def warned(table: str, **changes) -> set[str]:
    return {name for name, each in found(table, **changes).items() if each.is_warning}


def test_a_table_without_plausibility_checks_is_not_read() -> None:
    assert measured(TABLES["hidden_states"], rows_of(TABLES["hidden_states"])) == []


@pytest.mark.parametrize("table", PLAUSIBILITY_CHECKS)
def test_sound_rows_and_no_rows_warn_of_nothing(table: str) -> None:
    assert warned(table) == warned(table, rows=0) == set()


@pytest.mark.parametrize("table", ["layer_transitions", "decoding_steps"])
@pytest.mark.parametrize(
    ("wrong", "is_drift"),
    [
        ({}, False),
        ({"t3_kl_nats": 0.0402}, True),  # without the half of its formula
        ({"t3_kl_nats": 0.01}, True),
        ({"t3_kl_nats": 0.01, "kappa3_term_nats": 0.005}, False),  # the series says itself that it has not converged
        ({"t3_kl_nats": 0.01, "kappa4_term_nats": 0.005}, False),
    ],
)
def test_theorem_3_warns_where_its_series_has_converged_to_something_else(
    table: str, wrong: dict[str, float], *, is_drift: bool
) -> None:
    lens = {"lens": "normed"} if table == "layer_transitions" else {}
    assert ("theorem_3_estimates_kl" in warned(table, **lens, **(MOVED | wrong))) is is_drift


def test_theorem_3_shows_its_median_and_skips_few_rows() -> None:
    few = found("decoding_steps", rows=MIN_ROWS - 1, **(MOVED | {"t3_kl_nats": 0.0402}))["theorem_3_estimates_kl"]
    assert few.figures == {"settled_rows": MIN_ROWS - 1, "median_of_t3_over_kl": pytest.approx(2.01)}
    assert not few.is_warning


def test_theorem_3_skips_the_raw_lens_whose_softmax_saturates() -> None:
    wrong = MOVED | {"t3_kl_nats": 0.0402}
    assert "theorem_3_estimates_kl" not in warned("layer_transitions", lens="raw", **wrong)


@pytest.mark.parametrize("table", ["layer_transitions", "decoding_steps", "text_tokens"])
def test_the_dense_model_is_compared_with_itself_to_the_last_bit(table: str) -> None:
    assert warned(table, recipe="dense") == set()
    assert "dense_equals_itself" in warned(table, recipe="dense", kl_dense_pruned_nats=1e-30)


def test_an_unchanged_sublayer_equals_the_dense_one_unless_others_are_pruned() -> None:
    moved = {"is_changed": False, "kl_dense_pruned_nats": 1e-9}
    assert "dense_equals_itself" in warned("layer_transitions", scope="local", **moved)
    assert "dense_equals_itself" in warned("layer_transitions", scope="isolated", **moved)
    assert "dense_equals_itself" not in warned("layer_transitions", scope="propagated", **moved)
    assert "dense_equals_itself" not in warned("layer_transitions", scope="local", **(moved | {"is_changed": True}))


def test_noise_must_be_small() -> None:
    rows = {"recipe": "noise-bfloat16", "trajectory": "teacher_forced"}
    assert "dense_equals_itself" not in warned("decoding_steps", **rows, kl_dense_pruned_nats=0.004)
    assert "dense_equals_itself" in warned("decoding_steps", **rows, kl_dense_pruned_nats=0.06)
    # Behind a flipped token two texts differ, however small the noise.
    free = rows | {"trajectory": "free_running"}
    assert "dense_equals_itself" not in warned("decoding_steps", **free, kl_dense_pruned_nats=9.0)


def test_the_identity_may_be_off_by_rounding_only() -> None:
    assert "kl_keeps_its_identity" not in warned("decoding_steps", identity_residual_nats=-5e-5)
    assert "kl_keeps_its_identity" in warned("decoding_steps", identity_residual_nats=-2e-4)
    # Of hundreds of nats float32 keeps fewer digits behind the point.
    assert "kl_keeps_its_identity" not in warned(
        "decoding_steps", identity_residual_nats=2e-4, kl_dense_pruned_nats=9.0
    )


def test_nan_is_reported_as_text_because_json_lacks_it() -> None:
    told = found("text_tokens", recipe="dense", kl_dense_pruned_nats=float("nan"))
    assert told["dense_equals_itself"].figures["largest_kl_nats"] == "nan"


def test_an_unjudged_sample_warns_unless_it_is_a_program_that_may_not_run() -> None:
    unjudged = pl.Series([None, True, True], dtype=pl.Boolean)
    forgotten = found("task_samples", rows=3, is_correct=unjudged, verdict=pl.Series([None, None, "passed"]))
    assert forgotten["answers_are_graded"].is_warning
    assert forgotten["answers_are_graded"].figures["share_not_graded"] == pytest.approx(1 / 3)
    held = found("task_samples", rows=3, is_correct=unjudged, verdict=pl.Series(["not_run", None, "passed"]))
    assert not held["answers_are_graded"].is_warning
    assert held["answers_are_graded"].figures["share_not_run"] == pytest.approx(1 / 3)
    without_target = found("task_samples", rows=3, is_correct=unjudged, target=pl.Series([None] * 3, dtype=pl.String))
    assert not without_target["answers_are_graded"].is_warning
