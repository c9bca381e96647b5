"""Coverage of the 95 % intervals of `sql/macros`, by simulation: `python -m tests.benchmarks.coverage [STUDIES]`.

Simulates studies with a known truth, computes their intervals by the very SQL macros, and prints how often each covers
the truth, and its mean width. The seed is fixed.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl
from tabulate import tabulate

import prunescope.sql

SIZES = (2, 5, 20, 200)
SHARES = (0.0, 0.02, 0.5, 1.0)
# Tokens of a prompt, and the correlation of two tokens of one prompt.
TOKENS, TOGETHER = 32, 0.2
# Rounding must not exclude a truth at the end of an interval.
SUMMARY = """
select
    coalesce(avg((ends[1] <= truth + 1e-12 and ends[2] >= truth - 1e-12)::int), 0),
    coalesce(avg(ends[2] - ends[1]), 0),
    count(ends[1]) / count(*)
from ({})
"""


class Cell(NamedTuple):
    """Coverage of one method for one truth and size.

    Attributes:
        method: macro and what it is of.
        n: independent units of each study.
        p: the true share, or the truth in words.
        coverage: share of studies whose interval covers the truth.
        width: mean width of the intervals.
        known: share of studies that have an interval; the others do not count.
    """

    method: str
    n: int
    p: object
    coverage: float
    width: float
    known: float


class Simulation:
    """Simulated studies of a given number, on the macros of `sql/`."""

    def __init__(self, studies: int, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> None:
        self.studies = studies
        self.sizes = sizes
        self.chance = np.random.default_rng(seed)
        self.connection = duckdb.connect()
        for path in sorted((Path(prunescope.sql.__path__[0]) / "macros").glob("*.sql")):
            self.connection.execute(path.read_text(encoding="utf-8"))

    def cell(self, method: str, n: int, p: object, rows: pl.DataFrame, intervals: str) -> Cell:
        """Return the coverage of the intervals that a query over `rows` gives as `ends` beside `truth`."""
        self.connection.register("rows", rows.to_arrow())
        [(coverage, width, known)] = self.connection.execute(SUMMARY.format(intervals)).fetchall()
        return Cell(method, n, p, coverage, width, known)

    def shares(self) -> Iterator[Cell]:
        """Yield cells of independent successes."""
        for n in self.sizes:
            for p in SHARES:
                rows = pl.DataFrame({"x": self.chance.binomial(n, p, self.studies), "n": n, "truth": p})
                yield self.cell("share", n, p, rows, "select truth, wilson_interval(x, n) as ends from rows")

    def clustered(self, together: float) -> Iterator[Cell]:
        """Yield cells of tokens that come by prompt."""
        name = "share of tokens by prompt, " + (f"correlated {together}" if together else "independent")
        for n in self.sizes:
            for p in SHARES:
                size = (min(self.studies, 400_000 // n), n)
                own = np.full(size, p)
                if together and 0 < p < 1:
                    prior = (1 - together) / together
                    own = self.chance.beta(p * prior, (1 - p) * prior, size)
                study = np.repeat(np.arange(size[0]), n)
                rows = pl.DataFrame({"study": study, "x": self.chance.binomial(TOKENS, own).ravel(), "n": TOKENS})
                query = f"select {p} as truth, wilson_interval_over_clusters(x, n) as ends from rows group by study"
                yield self.cell(name, n, p, rows, query)

    def changes(self) -> Iterator[Cell]:
        """Yield cells of the paired change of an accuracy."""
        for n in self.sizes:
            for lost, gained in ((0, 0), (0.02, 0), (0.1, 0.02), (0.5, 0), (0.3, 0.3), (1, 0)):
                cells = self.chance.multinomial(n, [lost, gained, 1 - lost - gained], self.studies)
                rows = pl.DataFrame({"l": cells[:, 0], "g": cells[:, 1], "n": n, "truth": float(gained - lost)})
                query = "select truth, interval_of_paired_change(l, g, n) as ends from rows"
                yield self.cell("paired change", n, f"lost {lost}, gained {gained}", rows, query)

    def losses(self) -> Iterator[Cell]:
        """Yield cells of the loss of a task, of a dense and a pruned variant that are right together more often."""
        for n in self.sizes:
            for dense, pruned in ((1.0, 1.0), (1.0, 0.0), (0.98, 0.96), (0.9, 0.5), (0.5, 0.5), (0.5, 0.02)):
                both = dense * pruned + 0.5 * np.sqrt(dense * (1 - dense) * pruned * (1 - pruned))
                both = min(both, dense, pruned)
                shares = np.clip([both, dense - both, pruned - both, 1 - dense - pruned + both], 0, 1)
                cells = self.chance.multinomial(n, shares / shares.sum(), self.studies)
                rows = pl.DataFrame(
                    {"b": cells[:, 0], "d": cells[:, 0] + cells[:, 1], "p": cells[:, 0] + cells[:, 2], "n": n}
                )
                query = f"""
                select {pruned / dense} as truth, case when dense > 0 then interval_of_ratio(
                    pruned, of_pruned[1], of_pruned[2], dense, of_dense[1], of_dense[2], correlation
                ) end as ends
                from (
                    select
                        p / n as pruned,
                        wilson_interval(p, n) as of_pruned,
                        d / n as dense,
                        wilson_interval(d, n) as of_dense,
                        correlation_or_0(
                            covariance_of_outcomes(n, d, p, b), variance_of_outcomes(n, d), variance_of_outcomes(n, p)
                        ) as correlation
                    from rows
                )"""
                yield self.cell("kept score of a task", n, f"{dense} to {pruned}", rows, query)

    def means(self) -> Iterator[Cell]:
        """Yield cells of means over prompts, of normal and of skewed values."""
        for n in self.sizes:
            for spread, name, ends in (
                (0.0, "mean (t)", "[mean - half, mean + half]"),
                (0.5, "mean of positive values (t of logarithm)", "interval_of_positive_mean(mean, half)"),
                (1.0, "mean of positive values (t of logarithm)", "interval_of_positive_mean(mean, half)"),
            ):
                size = (min(self.studies, 400_000 // n), n)
                draws = self.chance.lognormal(0, spread, size) if spread else self.chance.normal(0, 1, size)
                rows = pl.DataFrame({"study": np.repeat(np.arange(size[0]), n), "x": draws.ravel()})
                truth = float(np.exp(spread**2 / 2)) if spread else 0.0
                query = f"""
                select {truth} as truth, {ends} as ends
                from (select avg(x) as mean, half_width_of_mean(x, 1.0) as half from rows group by study)"""
                yield self.cell(name, n, f"lognormal {spread}" if spread else "normal", rows, query)

    def growths(self) -> Iterator[Cell]:
        """Yield cells of the mean over prompts of a difference of two skewed, correlated values."""
        for n in self.sizes:
            size = (min(self.studies, 400_000 // n), n)
            shared = self.chance.normal(0, 0.5, size)
            growth = np.exp(shared + self.chance.normal(0, 0.5, size)) - np.exp(shared - 0.5)
            rows = pl.DataFrame({"study": np.repeat(np.arange(size[0]), n), "x": growth.ravel()})
            truth = float(np.exp(0.25) - np.exp(0.125 - 0.5))
            query = f"""
            select {truth} as truth, [mean - half, mean + half] as ends
            from (select avg(x) as mean, half_width_of_mean(x, 1.0) as half from rows group by study)"""
            yield self.cell("mean of a skewed difference (t)", n, "lognormal", rows, query)

    def medians(self) -> Iterator[Cell]:
        """Yield cells of the median first flip, of which no value beyond the end of the texts is seen."""
        for n in self.sizes:
            for hazard, end in ((0.05, 1000), (0.05, 16), (0.05, 10), (0.5, 16)):
                # The first step with half of all flips up to it; never, where the texts end before it.
                median = int(np.ceil(np.log(0.5) / np.log(1 - hazard))) - 1
                size = (min(self.studies, 400_000 // n), n)
                steps = self.chance.geometric(hazard, size) - 1.0
                rows = pl.DataFrame(
                    {
                        "study": np.repeat(np.arange(size[0]), n),
                        "x": np.where(steps < end, steps, np.inf).ravel(),
                        "truth": float(median) if median < end else np.inf,
                    }
                )
                query = """
                select truth, interval_of_median(sorted, place) as ends
                from (
                    select
                        any_value(truth) as truth,
                        list_sort(list(x)) as sorted,
                        place_of_median_low(count(*)) as place
                    from rows
                    group by study
                )"""
                yield self.cell("median first flip", n, f"hazard {hazard}, {end} steps", rows, query)

    def directions(self) -> Iterator[Cell]:
        """Yield cells of the verdicts of q13 on variants without a gap, on the same prompts: none of them may tell."""
        for n in (size for size in self.sizes if size >= 6):
            for variants in (1, 6, 24):
                size = (min(self.studies, 400_000 // (n * variants)), variants, n)
                draws = self.chance.normal(0, 1, size) + self.chance.normal(0, 1, (size[0], 1, n))
                study, variant, _ = (axis.ravel() for axis in np.indices(size))
                rows = pl.DataFrame({"study": study, "variant": variant, "x": draws.ravel()})
                query = f"""
                select 0 as truth, [if(bool_or(told <> 'no difference shown'), 1, 0), 1] as ends
                from (
                    select study, direction_of_mean(mean_over_units(x), {variants}) as told
                    from rows group by study, variant
                )
                group by study"""
                yield self.cell("direction of all variants", n, f"{variants} variants", rows, query)

    def ranks(self) -> Iterator[Cell]:
        """Yield cells of rank correlations over variants of two numbers that are jointly normal."""
        for n in self.sizes:
            for together in (0.0, 0.5, 0.9):
                size = (min(self.studies, 400_000 // n), n)
                x, noise = self.chance.normal(size=size), self.chance.normal(size=size)
                y = together * x + np.sqrt(1 - together**2) * noise
                rows = pl.DataFrame({"study": np.repeat(np.arange(size[0]), n), "x": x.ravel(), "y": y.ravel()})
                query = f"""
                select
                    {6 / np.pi * np.arcsin(together / 2)} as truth,
                    interval_of_correlation(r, half_width_of_rank_correlation(r, {n})) as ends
                from (
                    select corr(x, y) as r
                    from (select study, midrank(x, study) as x, midrank(y, study) as y from rows) group by study
                )"""
                yield self.cell("rank correlation over variants", n, together, rows, query)

    def cells(self) -> Iterator[Cell]:
        """Yield all cells."""
        yield from self.shares()
        yield from self.clustered(0)
        yield from self.clustered(TOGETHER)
        yield from self.changes()
        yield from self.losses()
        yield from self.means()
        yield from self.growths()
        yield from self.directions()
        yield from self.ranks()
        yield from self.medians()


def main() -> None:
    """Print the table."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rows = [
        (cell.method, cell.n, cell.p, f"{cell.coverage:.1%}", f"{cell.width:.3f}", f"{cell.known:.0%}")
        for cell in Simulation(studies).cells()
    ]
    headers = ("method", "n", "truth", "coverage", "mean width", "with interval")
    sys.stdout.write(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True) + "\n")


if __name__ == "__main__":
    main()
