"""Plausibility checks: statistics of a partition with bounds from arithmetic, outside of which a person should look.

Unlike the rules in `checks`, they only warn.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from prunescope.warehouse.quality.checks import engine
from prunescope.warehouse.schema.table import Table

# NaN and infinity are texts, because JSON lacks them; None if there was nothing to compare.
Figure = float | int | str | None

# Theorem 3 is the second term of a series whose third and fourth terms are stored. If each of those is at most a
# tenth of it, the omitted terms are about a fifth, so a median further off means an error in one of the two.
# Demo study, normed lens: 0.995 to 1.015 for every variant with 70 such rows or more.
_SETTLED = 0.1
_RATIO = (0.8, 1.25)
# The median of fewer rows scatters: that of four rows was 0.88, that of thousands 1.00.
MIN_ROWS = 30
# The identity of the divergence is exact except for the rounding of float32 logits. In the demo study the residual is
# up to 6e-5 nats if the divergence is in the hundreds, and 5e-6 if it is below ten.
_RESIDUAL = 1e-4
# bfloat16 shifts the demo's dense model by 4e-4 nats at the median, larger models by a few thousandths; the mildest
# pruning of the demo shifts it by 0.09.
_NOISE_NATS = 0.05


@dataclass(frozen=True)
class PlausibilityCheck:
    """One comparison on the rows of a partition.

    Attributes:
        name: the statement that should hold.
        doc: compared values and their bounds.
        figures: SQL aggregates over the rows, by name.
        warns: SQL condition over the figures; NULL, where there is nothing to compare, gives no warning.
    """

    name: str
    doc: str
    figures: Mapping[str, str]
    warns: str


@dataclass(frozen=True)
class CheckResult:
    """Result of a comparison."""

    name: str
    figures: Mapping[str, Figure]
    is_warning: bool


def _theorem_3(where: str) -> PlausibilityCheck:
    settled = (
        f"{where} and kl_dense_pruned_nats > 0 and abs(kappa3_term_nats) <= {_SETTLED} * t3_kl_nats "
        f"and abs(kappa4_term_nats) <= {_SETTLED} * t3_kl_nats"
    )
    return PlausibilityCheck(
        "theorem_3_estimates_kl",
        f"If the next two terms of its series are at most {_SETTLED:.0%} of it each, Theorem 3's estimate over the "
        f"measured KL has a median between {_RATIO[0]} and {_RATIO[1]}. Fewer than {MIN_ROWS} rows are not judged.",
        {
            "settled_rows": f"count(*) filter (where {settled})",
            "median_of_t3_over_kl": f"median(t3_kl_nats / kl_dense_pruned_nats) filter (where {settled})",
        },
        f"settled_rows >= {MIN_ROWS} and median_of_t3_over_kl not between {_RATIO[0]} and {_RATIO[1]}",
    )


def _dense(itself: str, noise: str) -> PlausibilityCheck:
    noisy = f"starts_with(recipe, 'noise-') and {noise}"
    return PlausibilityCheck(
        "dense_equals_itself",
        "The dense model against itself, and an unchanged sublayer, differ by exactly zero; the dense model computed "
        f"in another way (recipes noise-*) differs by a median of at most {_NOISE_NATS} nats.",
        {
            "rows_of_dense_against_itself": f"count(*) filter (where {itself})",
            "largest_kl_nats": f"max(kl_dense_pruned_nats) filter (where {itself})",
            "median_kl_of_noise_nats": f"median(kl_dense_pruned_nats) filter (where {noisy})",
        },
        f"largest_kl_nats > 0 or median_kl_of_noise_nats > {_NOISE_NATS}",
    )


_IDENTITY = PlausibilityCheck(
    "kl_keeps_its_identity",
    f"KL summed token by token and KL from the normalisers agree to {_RESIDUAL:g} of 1 + KL nats.",
    {"largest_residual": "max(abs(identity_residual_nats) / (1 + kl_dense_pruned_nats))"},
    f"largest_residual > {_RESIDUAL}",
)
_GRADED = PlausibilityCheck(
    "answers_are_graded",
    "Every sample with a correct answer is graded; programs that were not allowed to run are counted apart.",
    {
        "samples": "count(*)",
        "share_not_graded": "avg(cast(target is not null and is_correct is null and verdict is distinct from 'not_run' "
        "as integer))",
        "share_not_run": "avg(cast(verdict is not distinct from 'not_run' as integer))",
    },
    "share_not_graded > 0",
)
PLAUSIBILITY_CHECKS: Mapping[str, tuple[PlausibilityCheck, ...]] = {
    "layer_transitions": (
        _theorem_3("lens = 'normed'"),
        _IDENTITY,
        _dense(
            "(recipe = 'dense' or (scope <> 'propagated' and not is_changed))",
            "lens = 'normed' and scope = 'propagated'",
        ),
    ),
    "decoding_steps": (
        _theorem_3("true"),
        _IDENTITY,
        _dense("recipe = 'dense'", "trajectory = 'teacher_forced'"),
    ),
    "text_tokens": (_dense("recipe = 'dense'", "true"),),
    "task_samples": (_GRADED,),
}


def measured(table: Table, rows: pl.DataFrame) -> list[CheckResult]:
    """Run all plausibility checks of a table on the rows of one partition."""
    results: list[CheckResult] = []
    if table.name not in PLAUSIBILITY_CHECKS:
        return results
    with engine(os.getpid()).cursor() as connection:
        connection.register("rows", rows.to_arrow())
        for drift in PLAUSIBILITY_CHECKS[table.name]:
            figures = ", ".join(f"{expression} AS {name}" for name, expression in drift.figures.items())
            # Names and expressions come from this module, never from data.
            query = f"SELECT *, coalesce({drift.warns}, false) FROM (SELECT {figures} FROM rows)"  # noqa: S608
            *values, is_warning = connection.execute(query).fetchall()[0]
            plain = [str(value) if isinstance(value, float) and not math.isfinite(value) else value for value in values]
            results.append(CheckResult(drift.name, dict(zip(drift.figures, plain, strict=True)), is_warning))
    return results
