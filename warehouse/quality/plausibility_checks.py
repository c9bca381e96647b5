"""Numbers of a partition that arithmetic keeps within bounds: outside them nothing is broken, but a person should look.

Rules that rows must keep are `checks`' business; what to do about a drift is the caller's.
"""

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

from prunescope.warehouse.quality.checks import FINITE, Violation, engine
from prunescope.warehouse.schema.table import Table

# NaN and infinity as text, which JSON has no numbers for; None where nothing was compared.
Figure = float | int | str | None

# Theorem 3 is the second term of a series whose third and fourth terms are stored. Where each of those is at most a
# tenth of it, what the theorem leaves out is about a fifth, so that a median further off is an error in one of the two.
# Demo study, normed lens: 0.995 to 1.015 for every variant with 70 such rows or more.
SETTLED = 0.1
RATIO = (0.8, 1.25)
# Of fewer rows the median itself scatters: of four rows it was 0.88 where of thousands it is 1.00.
FEWEST = 30
# The identity of the divergence is exact; float32 logits round it. The demo study has up to 6e-5 nats where the
# divergence is of hundreds, and 5e-6 where it is below ten.
RESIDUAL = 1e-4
# bfloat16 moves the demo's dense model by 4e-4 nats at the median, larger models by a few thousandths; the mildest
# pruning of the demo moves it by 0.09.
NOISE_NATS = 0.05


@dataclass(frozen=True)
class PlausibilityCheck:
    """One comparison on the rows of a partition.

    Attributes:
        name: a statement that holds where nothing drifts.
        doc: what is compared, and within which bounds.
        figures: SQL aggregates over the rows, by name.
        warns: SQL condition over the figures; NULL, as where there is nothing to compare, is no warning.
    """

    name: str
    doc: str
    figures: Mapping[str, str]
    warns: str


@dataclass(frozen=True)
class CheckResult:
    """What a comparison found.

    Attributes:
        name: that of the drift.
        figures: its numbers by name.
        is_warning: whether they lie outside their bounds.
    """

    name: str
    figures: Mapping[str, Figure]
    is_warning: bool


def _theorem_3(where: str) -> PlausibilityCheck:
    settled = (
        f"{where} and kl_dense_pruned_nats > 0 and abs(kappa3_term_nats) <= {SETTLED} * t3_kl_nats "
        f"and abs(kappa4_term_nats) <= {SETTLED} * t3_kl_nats"
    )
    return PlausibilityCheck(
        "theorem_3_estimates_kl",
        f"Where the next two terms of its series are at most {SETTLED:.0%} of it each, Theorem 3's estimate over the "
        f"KL that was measured has a median between {RATIO[0]} and {RATIO[1]}. Fewer than {FEWEST} such rows say "
        "nothing.",
        {
            "settled_rows": f"count(*) filter (where {settled})",
            "median_of_t3_over_kl": f"median(t3_kl_nats / kl_dense_pruned_nats) filter (where {settled})",
        },
        f"settled_rows >= {FEWEST} and median_of_t3_over_kl not between {RATIO[0]} and {RATIO[1]}",
    )


def _dense(itself: str, noise: str) -> PlausibilityCheck:
    noisy = f"starts_with(recipe, 'noise-') and {noise}"
    return PlausibilityCheck(
        "dense_equals_itself",
        "The dense model against itself, and a sublayer that no recipe touched, differ by exactly nothing; the dense "
        f"model computed in another way (recipes noise-*) by a median of at most {NOISE_NATS} nats.",
        {
            "rows_of_dense_against_itself": f"count(*) filter (where {itself})",
            "largest_kl_nats": f"max(kl_dense_pruned_nats) filter (where {itself})",
            "median_kl_of_noise_nats": f"median(kl_dense_pruned_nats) filter (where {noisy})",
        },
        f"largest_kl_nats > 0 or median_kl_of_noise_nats > {NOISE_NATS}",
    )


_IDENTITY = PlausibilityCheck(
    "kl_keeps_its_identity",
    f"KL summed token by token and KL from the normalisers agree to {RESIDUAL:g} of 1 + KL nats.",
    {"largest_residual": "max(abs(identity_residual_nats) / (1 + kl_dense_pruned_nats))"},
    f"largest_residual > {RESIDUAL}",
)
_NUMBERS = PlausibilityCheck(
    "numbers_are_finite",
    "No measured number is NaN or infinite: the largest share of such rows in a column. It also breaks the table's "
    "rules, which block what stands on it.",
    {},
    "",
)
_GRADED = PlausibilityCheck(
    "answers_are_graded",
    "Every sample with a right answer is judged; programs that were not allowed to run are counted apart.",
    {
        "samples": "count(*)",
        "share_not_graded": "avg(cast(target is not null and is_correct is null and verdict is distinct from 'not_run' "
        "as integer))",
        "share_not_run": "avg(cast(verdict is not distinct from 'not_run' as integer))",
    },
    "share_not_graded > 0",
)
DRIFTS: Mapping[str, tuple[PlausibilityCheck, ...]] = {
    "layer_transitions": (
        _theorem_3("lens = 'normed'"),
        _IDENTITY,
        _dense(
            "(recipe = 'dense' or (scope <> 'propagated' and not is_changed))",
            "lens = 'normed' and scope = 'propagated'",
        ),
        _NUMBERS,
    ),
    "decoding_steps": (
        _theorem_3("true"),
        _IDENTITY,
        _dense("recipe = 'dense'", "trajectory = 'teacher_forced'"),
        _NUMBERS,
    ),
    "text_tokens": (_dense("recipe = 'dense'", "true"), _NUMBERS),
    "task_samples": (_GRADED,),
}


def drifts_of(table: Table) -> tuple[PlausibilityCheck, ...]:
    """What is compared in a table; nothing in most."""
    return DRIFTS.get(table.name, ())


def measured(table: Table, rows: pl.DataFrame, violations: Collection[Violation] = ()) -> list[CheckResult]:
    """All comparisons of a table on the rows of one partition.

    Args:
        table: the definition.
        rows: the partition.
        violations: of the table's rules, as the store found them; without them no number is known to be unsound.
    """
    found: list[CheckResult] = []
    if not drifts_of(table):
        return found
    with engine(os.getpid()).cursor() as connection:
        connection.register("rows", rows.to_arrow())
        for drift in drifts_of(table):
            if drift is _NUMBERS:
                failing = [each.rows_failing for each in violations if each.check == FINITE]
                share = max(failing, default=0) / max(rows.height, 1)
                found.append(CheckResult(drift.name, {"largest_share_not_finite": share}, bool(failing)))
                continue
            figures = ", ".join(f"{expression} AS {name}" for name, expression in drift.figures.items())
            # Names and expressions are those above, never data.
            query = f"SELECT *, coalesce({drift.warns}, false) FROM (SELECT {figures} FROM rows)"  # noqa: S608
            *values, is_warning = connection.execute(query).fetchall()[0]
            told = [str(value) if isinstance(value, float) and not math.isfinite(value) else value for value in values]
            found.append(CheckResult(drift.name, dict(zip(drift.figures, told, strict=True)), is_warning))
    return found
