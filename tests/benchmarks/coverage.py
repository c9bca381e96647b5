"""Coverage of the 95 % intervals of `sql/macros`, by simulation: `python -m tests.benchmarks.coverage [STUDIES]`.

Simulates studies with a known truth, computes their intervals by the very SQL macros, and prints how often each covers
the truth, and its mean width. The seed is fixed.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl
from tabulate import tabulate

import prunescope.sql
from prunescope.warehouse.catalogue.database import view_sql

SIZES = (2, 5, 20, 200)
SHARES = (0.0, 0.02, 0.5, 1.0)
# Tokens of a prompt, and the correlation of two tokens of one prompt.
TOKENS, TOGETHER = 32, 0.2
# Rounding must not exclude a truth at the end of an interval.
SUMMARY = """
select
    coalesce(avg((ends[1] <= $truth + 1e-12 and ends[2] >= $truth - 1e-12)::int), 0),
    coalesce(avg(ends[2] - ends[1]), 0),
    count(ends[1]) / count(*)
from ({})
"""
OF_MEAN = """
select {ends} as ends
from (select {mean} as mean, half_width_of_mean({values}, {weights}) as half from rows group by study)"""


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


def of_mean(mean: str, ends: str, values: str = "x", weights: str = "1.0") -> str:
    """Return the query of the intervals of a mean over the units of a study."""
    return OF_MEAN.format(mean=mean, ends=ends, values=values, weights=weights)


T, T_OF_LOGARITHM = "[mean - half, mean + half]", "interval_of_positive_mean(mean, half)"


class Simulation:
    """Simulated studies of a given number, on the macros of `sql/`."""

    def __init__(self, studies: int, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> None:
        self.studies = studies
        self.sizes = sizes
        self.chance = np.random.default_rng(seed)
        self.connection = duckdb.connect()
        for path in sorted((Path(prunescope.sql.__path__[0]) / "macros").glob("*.sql")):
            self.connection.execute(path.read_text(encoding="utf-8"))

    def shapes(self, most: int = 400_000) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield every size, and the studies and units that are drawn of it."""
        for n in self.sizes:
            yield n, (min(self.studies, most // n), n)

    def cell(self, method: str, n: int, p: object, truth: float, intervals: str, /, **columns: object) -> Cell:
        """Return the coverage of the intervals that a query over `rows` gives as `ends`.

        Args:
            method: macro and what it is of.
            n: independent units of each study.
            p: the truth in words.
            truth: the truth.
            intervals: the query.
            columns: those of `rows`, arrays whose first axis is `study`.
        """
        arrays = {name: np.asarray(values) for name, values in columns.items()}
        shape = np.broadcast_shapes(*(values.shape for values in arrays.values()))
        arrays.setdefault("study", np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)))
        rows = pl.DataFrame({name: np.broadcast_to(values, shape).ravel() for name, values in arrays.items()})
        self.connection.register("rows", rows.to_arrow())
        [found] = self.connection.execute(SUMMARY.format(intervals), {"truth": float(truth)}).fetchall()
        return Cell(method, n, p, *found)

    def shares(self) -> Iterator[Cell]:
        """Yield cells of independent successes."""
        for n, p in itertools.product(self.sizes, SHARES):
            successes = self.chance.binomial(n, p, self.studies)
            yield self.cell("share", n, p, p, "select wilson_interval(x, n) as ends from rows", x=successes, n=n)

    def clustered(self, together: float) -> Iterator[Cell]:
        """Yield cells of tokens that come by prompt."""
        name = "share of tokens by prompt, " + (f"correlated {together}" if together else "independent")
        query = "select wilson_interval_over_clusters(x, n) as ends from rows group by study"
        for (n, shape), p in itertools.product(self.shapes(), SHARES):
            own = np.full(shape, p)
            if together and 0 < p < 1:
                prior = (1 - together) / together
                own = self.chance.beta(p * prior, (1 - p) * prior, shape)
            yield self.cell(name, n, p, p, query, x=self.chance.binomial(TOKENS, own), n=TOKENS)

    def changes(self) -> Iterator[Cell]:
        """Yield cells of the paired change of an accuracy."""
        query = "select interval_of_paired_change(l, g, n) as ends from rows"
        for n in self.sizes:
            for lost, gained in ((0, 0), (0.02, 0), (0.1, 0.02), (0.5, 0), (0.3, 0.3), (1, 0)):
                drawn = self.chance.multinomial(n, [lost, gained, 1 - lost - gained], self.studies)
                name = f"lost {lost}, gained {gained}"
                yield self.cell("paired change", n, name, gained - lost, query, l=drawn[:, 0], g=drawn[:, 1], n=n)

    def lost_by_first_token(self) -> Iterator[Cell]:
        """Yield cells of the share of lost answers that the first token loses; how many are lost is chance, too."""
        query = "select wilson_interval(x, n) as ends from rows"
        for n in self.sizes:
            for lost, first in ((0.3, 0.5), (0.3, 0.9), (0.1, 0.5), (0.9, 0.02), (1, 1)):
                all_lost = self.chance.binomial(n, lost, self.studies)
                by_first, name = self.chance.binomial(all_lost, first), f"lost {lost}, of these {first}"
                yield self.cell("lost by the first token", n, name, first, query, x=by_first, n=all_lost)

    def losses(self) -> Iterator[Cell]:
        """Yield cells of the loss of a task, of a dense and a pruned variant that are right together more often."""
        query = """
        select case when dense > 0 then interval_of_ratio(
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
        for n in self.sizes:
            for dense, pruned in ((1.0, 1.0), (1.0, 0.0), (0.98, 0.96), (0.9, 0.5), (0.5, 0.5), (0.5, 0.02)):
                both = dense * pruned + 0.5 * np.sqrt(dense * (1 - dense) * pruned * (1 - pruned))
                both = min(both, dense, pruned)
                shares = np.clip([both, dense - both, pruned - both, 1 - dense - pruned + both], 0, 1)
                b, d, p, _ = self.chance.multinomial(n, shares / shares.sum(), self.studies).T
                name, kept = f"{dense} to {pruned}", pruned / dense
                yield self.cell("kept score of a task", n, name, kept, query, b=b, d=b + d, p=b + p, n=n)

    def means(self) -> Iterator[Cell]:
        """Yield cells of means over prompts, of normal and of skewed values."""
        for n, shape in self.shapes():
            draws = self.chance.normal(0, 1, shape)
            yield self.cell("mean (t)", n, "normal", 0, of_mean("avg(x)", T), x=draws)
            for sigma in (0.5, 0.7, 1.0, 1.5):
                name, query = "mean of positive values (t of logarithm)", of_mean("avg(x)", T_OF_LOGARITHM)
                draws = self.chance.lognormal(0, sigma, shape)
                yield self.cell(name, n, f"lognormal {sigma}", np.exp(sigma**2 / 2), query, x=draws)

    def growths(self) -> Iterator[Cell]:
        """Yield cells of the mean over prompts of a difference of two skewed, correlated values."""
        truth = np.exp(0.25) - np.exp(0.125 - 0.5)
        for n, shape in self.shapes():
            shared = self.chance.normal(0, 0.5, shape)
            growth = np.exp(shared + self.chance.normal(0, 0.5, shape)) - np.exp(shared - 0.5)
            query = of_mean("avg(x)", T)
            yield self.cell("mean of a skewed difference (t)", n, "lognormal", truth, query, x=growth)

    def medians(self) -> Iterator[Cell]:
        """Yield cells of the median first flip, of which no value beyond the end of the texts is seen."""
        query = """
        select interval_of_median(sorted, place) as ends
        from (select list_sort(list(x)) as sorted, place_of_median_low(count(*)) as place from rows group by study)"""
        for n, shape in self.shapes():
            for hazard, end in ((0.05, 1000), (0.05, 16), (0.05, 10), (0.5, 16)):
                # The first step with half of all flips up to it; never, if the texts end before it.
                median = int(np.ceil(np.log(0.5) / np.log(1 - hazard))) - 1
                steps = self.chance.geometric(hazard, shape) - 1.0
                name, truth = f"hazard {hazard}, {end} steps", median if median < end else np.inf
                yield self.cell("median first flip", n, name, truth, query, x=np.where(steps < end, steps, np.inf))

    def sequences(self) -> Iterator[Cell]:
        """Yield cells of the sequence KL, per text and per token: heavy-tailed sums over texts of unequal length."""
        samples, longest = 4, 64
        tokens_per_text = float(np.minimum(np.arange(1, 3000), longest) @ (47 / 48) ** np.arange(2999) / 48)
        for (n, shape), spread in itertools.product(self.shapes(100_000), (0.5, 1.0)):
            # Tokens of one prompt are alike, a few tokens have most of the KL, and texts end early or are cut.
            lengths = np.minimum(self.chance.geometric(1 / 48, (*shape, samples)), longest)
            tokens = self.chance.lognormal(0, 1.5, (*lengths.shape, longest))
            tokens *= np.arange(longest) < lengths[..., None]
            kl = tokens.sum(-1) * self.chance.lognormal(0, spread, shape)[..., None]
            mean, name = np.exp(1.5**2 / 2 + spread**2 / 2), f"spread of prompts {spread}"
            rows = {"kl": kl.sum(-1), "tokens": lengths.sum(-1), "texts": samples}
            per_text = of_mean("avg(kl / texts)", T_OF_LOGARITHM, "kl / texts")
            yield self.cell("sequence KL per text", n, name, mean * tokens_per_text, per_text, **rows)
            per_token = of_mean("sum(kl) / sum(tokens)", T_OF_LOGARITHM, "kl", "tokens")
            yield self.cell("sequence KL per token", n, name, mean, per_token, **rows)

    def survivals(self) -> Iterator[Cell]:
        """Yield cells of the share of texts that are still equal, of which some end early."""
        view = view_sql()["greedy_survival"].sql
        for n, shape in self.shapes(200_000):
            for hazard, short, step in itertools.product((0.005, 0.05, 0.3), (0.0, 0.4), (0, 7)):
                flips = self.chance.geometric(hazard, shape) - 1
                ends = np.where(self.chance.random(shape) < short, self.chance.integers(0, 6, shape), step)
                # One row per text and step up to its flip, its end or the step in question.
                counts = np.minimum(np.minimum(flips, ends), step).ravel() + 1
                study = np.repeat(np.repeat(np.arange(shape[0]), n), counts)
                place = np.arange(len(study)) - np.repeat(np.cumsum(counts) - counts, counts)
                prompt, is_flip = np.repeat(np.arange(counts.size), counts), place == np.repeat(flips.ravel(), counts)
                # Once all texts have flipped the last interval stays; once all have ended there is none.
                query = f"""
                with noise_variants as (select 0 as model, '' as recipe where false),
                greedy_steps as (select study as model, 'r' as recipe, prompt_id, step, is_flip from rows),
                curves as ({view})
                select case
                    when max(step) = {step} or min(equal_share) = 0
                        then arg_max([equal_share_low, equal_share_high], step)
                end as ends
                from curves
                group by model"""
                name = f"hazard {hazard}, {short:.0%} end early, step {step}"
                rows = {"study": study, "prompt_id": prompt, "step": place, "is_flip": is_flip}
                truth = (1 - hazard) ** (step + 1)
                yield self.cell("share of greedy texts still equal", n, name, truth, query, **rows)

    def directions(self) -> Iterator[Cell]:
        """Yield cells of the verdicts of q13 on variants without a gap, on the same prompts: none of them may tell."""
        for n, variants in itertools.product((size for size in self.sizes if size >= 6), (1, 6, 24)):
            shape = (min(self.studies, 400_000 // (n * variants)), variants, n)
            draws = self.chance.normal(0, 1, shape) + self.chance.normal(0, 1, (shape[0], 1, n))
            query = f"""
            select [if(bool_or(told <> 'no difference shown'), 1, 0), 1] as ends
            from (
                select study, direction_of_mean(mean_over_units(x), {variants}) as told
                from rows group by study, variant
            )
            group by study"""
            name, variant = f"{variants} variants", np.arange(variants)[:, None]
            yield self.cell("direction of all variants", n, name, 0, query, variant=variant, x=draws)

    def ranks(self) -> Iterator[Cell]:
        """Yield cells of rank correlations over variants of two numbers that are jointly normal."""
        for (n, shape), together in itertools.product(self.shapes(), (0.0, 0.5, 0.9)):
            x, noise = self.chance.normal(size=shape), self.chance.normal(size=shape)
            query = f"""
            select interval_of_correlation(r, half_width_of_rank_correlation(r, {n})) as ends
            from (
                select corr(x, y) as r
                from (select study, midrank(x, study) as x, midrank(y, study) as y from rows) group by study
            )"""
            truth, y = 6 / np.pi * np.arcsin(together / 2), together * x + np.sqrt(1 - together**2) * noise
            yield self.cell("rank correlation over variants", n, together, truth, query, x=x, y=y)

    def cells(self) -> Iterator[Cell]:
        """Yield all cells."""
        yield from self.shares()
        yield from self.clustered(0)
        yield from self.clustered(TOGETHER)
        of_kinds = (self.changes, self.lost_by_first_token, self.losses, self.means, self.growths, self.directions)
        for kind in (*of_kinds, self.ranks, self.medians, self.sequences, self.survivals):
            yield from kind()


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
