"""A whole search: effects of single treatments, trials of every strategy at every target, and their tables."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.search.allocation import Numbers, Problem, greedy_choice, random_choice
from prunescope.pipelines.evaluation.search.curves import completed, measured_options, stand_in
from prunescope.pipelines.evaluation.search.effects import EffectEngine, Effects
from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import KEEP, Allocation, Menu
from prunescope.pipelines.evaluation.search.strategies import Expired, Strategy
from prunescope.pipelines.evaluation.search.trials import Trial, frame, half_width, interval, treatments_json
from prunescope.pipelines.evaluation.search.whole import FreeRunningMeasurement, WholeMeasurement, measurement_of
from prunescope.pipelines.evaluation.traces.isolated import Swap
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.studies.search_spec import SearchSpec

# Items on which exchanges are proposed; they are judged on all.
CONTEXT_ITEMS = 8
_ARRAYS = ("kl", "one_minus_cos", "kl_overlap", "cos_overlap", "reference")
_EFFECT_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "layer": pl.Int16,
    "sublayer": pl.String,
    "treatment": pl.String,
    "parameters_removed": pl.Int64,
    "bytes_removed": pl.Int64,
    "milliseconds_removed": pl.Float64,
    "kl_dense_pruned_nats": pl.Float64,
    "kl_low": pl.Float64,
    "kl_high": pl.Float64,
    "one_minus_cos_h": pl.Float64,
    "n_items": pl.Int32,
    "item_kl": pl.List(pl.Float32),
    "seconds": pl.Float64,
}
EFFECT_SCHEMA = pl.Schema(_EFFECT_TYPES)


@dataclass(frozen=True)
class SearchResult:
    """Rows of `search_effects` and `search_trials`, without the columns that name model and search.

    Attributes:
        effects: of single treatments.
        trials: in order.
        is_complete: whether every strategy ended before the time did.
    """

    effects: pl.DataFrame
    trials: pl.DataFrame
    is_complete: bool


class Search:
    """A search on one model.

    Args:
        decoder: the dense model.
        spec: targets, objective, budget and strategies.
        menu: the treatments.
        items: the texts to measure on.
        journal: stores finished measurements.
        progress: receives the progress of each measurement.

    Raises:
        InputError: the menu cannot reach the largest target.
    """

    def __init__(
        self,
        decoder: Decoder,
        spec: SearchSpec,
        menu: Menu,
        items: Sequence[Item],
        journal: Journal,
        progress: Progress = SILENT,
    ) -> None:
        self._decoder, self._spec, self._menu, self._items = decoder, spec, menu, list(items)
        self._journal, self._progress = journal, progress
        self._engine = EffectEngine(decoder, menu, items, spec.seed)
        self._problem = Problem(
            np.array([list(menu.sublayers).index(option.sublayer) for option in menu.options]),
            np.array([float(getattr(option, spec.budget) or 0) for option in menu.options]),
        )
        self._total = menu.total(spec.budget)
        for share in spec.remove:
            if self._problem.most < share * self._total:
                raise InputError(
                    f"search: the menu removes at most {self._problem.most / self._total:.1%} of the {spec.budget}, "
                    f"and {share:.1%} are asked for; add treatments that remove more, or lower `remove`"
                )
        self._whole: WholeMeasurement | FreeRunningMeasurement | None = None
        self._trials: list[Trial] = []
        self._deadline = 0.0

    def run(self) -> SearchResult:
        """Measure the effects, then the trials of each strategy at each target; `searched` comes first.

        When the time is over, the trials so far are the result: each strategy returns its best allocation, and those
        that have none are left out.
        """
        self._deadline = time.monotonic() + 60 * self._spec.minutes
        swaps = self._ordered_swaps()
        effects, seconds = self._effects(swaps, {}, None)
        is_complete = True
        for strategy in ("searched", *self._spec.controls):
            for share in sorted(self._spec.remove):
                is_complete &= self._run(strategy, share, effects)
        rows = frame([trial.row([item.id for item in self._items]) for trial in self._trials])
        return SearchResult(self._effect_rows(effects, seconds / len(swaps)), rows, is_complete)

    def _ordered_swaps(self) -> list[Swap]:
        """Return the swaps to measure; a sublayer's first is the one in the middle of what they remove."""
        by_sublayer: dict[str, list[int]] = {}
        for index in measured_options(self._menu):
            by_sublayer.setdefault(self._menu.options[index].sublayer, []).append(index)
        swaps = []
        for own in by_sublayer.values():
            own.sort(key=lambda index: self._menu.options[index].parameters)
            middle = own.pop(len(own) // 2)
            swaps += [self._swap(index) for index in (middle, *own)]
        return swaps

    def _swap(self, index: int) -> Swap:
        option = self._menu.options[index]
        return option.sublayer, option.treatment

    def _effects(self, swaps: Sequence[Swap], context: Allocation, items: int | None) -> tuple[Effects, float]:
        """Return effects and the seconds that they took, from the journal or measured now."""

        def measure() -> dict[str, NDArray[Any]]:
            started = time.monotonic()
            found = self._engine.measure(swaps, context, items, self._progress)
            arrays = {name: getattr(found, name) for name in _ARRAYS}
            return arrays | {"seconds": np.array(time.monotonic() - started)}

        stored = self._journal.remember(["effects", list(swaps), treatments_json(context), items], measure)
        return Effects(swaps=tuple(swaps), **{name: stored[name] for name in _ARRAYS}), float(stored["seconds"])

    def _run(self, name: str, share: float, effects: Effects) -> bool:
        """Run one strategy at one target and mark its result; return whether it ended before the time did."""
        first, is_complete = len(self._trials), True
        try:
            if name in {"searched", "hidden"}:
                self._strategy(name, share, effects).run()
            else:
                self._baseline(name, share, effects)
        except Expired:
            is_complete = False
        own = range(first, len(self._trials))
        # The steps of a greedy removal before the last one remove less than the target.
        places = [place for place in own if self._trials[place].is_accepted and self._reaches(self._trials[place])]
        if places:
            best = self._trials[places[-1]]
            digest = hashlib.sha256(treatments_json(best.allocation).encode()).hexdigest()
            label = "mixed" if name == "searched" else f"mixed-{name}"
            self._trials[places[-1]] = replace(best, is_result=True, recipe=f"{label}-{100 * share:g}-{digest[:6]}")
        return is_complete

    @staticmethod
    def _reaches(trial: Trial) -> bool:
        return trial.removed >= trial.remove * (1 - 1e-9)

    def _strategy(self, name: str, share: float, effects: Effects) -> Strategy:
        values = effects.one_minus_cos if name == "hidden" else effects.kl
        overlap = effects.cos_overlap if name == "hidden" else effects.kl_overlap
        return Strategy(
            self._menu,
            self._problem,
            share * self._total,
            self._by_option(effects, effects.mean(values)[0]),
            self._by_options(effects, overlap),
            lambda move, allocation, expected, parent: self._measure(name, share, move, allocation, expected, parent),
            lambda allocation, options: self._in_context(name, allocation, options),
            self._spec.measurements,
        )

    def _by_option(self, effects: Effects, values: Numbers) -> Numbers:
        """Return effects of all options from those of the swaps."""
        pairs = zip(effects.swaps, values, strict=True)
        return completed(self._menu, {self._menu.places[swap]: float(own) for swap, own in pairs})

    def _by_options(self, effects: Effects, overlap: Numbers) -> Numbers:
        """Return the correlations of all pairs of options: those of the swaps that are most like them; 0 for keep."""
        number = {self._menu.places[swap]: column for column, swap in enumerate(effects.swaps)}
        like = [-1 if other is None else number[other] for other in stand_in(self._menu, list(number))]
        bordered = np.pad(overlap, (0, 1))  # the last row and column are those of keep
        return bordered[np.ix_(like, like)]

    def _in_context(self, name: str, allocation: Allocation, options: Sequence[int]) -> Numbers:
        """Return the objective inside an allocation of some options less that of the allocation; NaN for the others."""
        self._require_time()
        first = self._menu.options[options[0]].sublayer
        swaps = [(first, allocation.get(first, KEEP)), *map(self._swap, options)]  # the first one changes nothing
        effects, _ = self._effects(swaps, allocation, CONTEXT_ITEMS)
        means = (effects.one_minus_cos if name == "hidden" else effects.kl).mean(axis=0)
        found = np.full(len(self._menu.options), np.nan)
        found[list(options)] = means[1:] - means[0]
        return found

    def _baseline(self, name: str, share: float, effects: Effects) -> None:
        """Spend as many trials as `searched` did on random allocations, or on the steps of a greedy removal."""
        target = share * self._total
        count = max(1, sum((trial.strategy, trial.remove) == ("searched", share) for trial in self._trials))
        costs = self._by_option(effects, effects.mean(effects.kl)[0])
        generator = np.random.default_rng([self._spec.seed, round(1e6 * share)])
        for step in range(1, count + 1):
            goal = target if name == "random" else target * step / count
            choice = (
                random_choice(self._problem, goal, generator)
                if name == "random"
                else greedy_choice(self._problem, costs, goal)
            )
            best = next((trial for trial in reversed(self._trials) if _is_best(trial, name, share)), None)
            expected = None if name == "random" else float(costs[choice].sum())
            self._measure(name, share, name, self._menu.allocation(choice), expected, best)

    def _measure(
        self, name: str, share: float, move: str, allocation: Allocation, expected: float | None, parent: Trial | None
    ) -> Trial:
        """Measure an allocation on all items and append the trial.

        A trial is accepted if its paired difference to its parent lies below zero with its 95 % interval; of random
        allocations the lower mean is, and every step of a greedy removal.
        """
        self._require_time()
        self._progress.start(f"{name} {share:.0%}: {move}", 1)
        measured = self._journal.remember(["trial", treatments_json(allocation)], lambda: self._measured(allocation))
        self._progress.done()
        trial = Trial(
            len(self._trials),
            name,
            move,
            share,
            self._problem.total(self._menu.choice(allocation)) / self._total,
            allocation,
            expected,
            measured["kl"],
            measured["one_minus_cos"],
            parent,
            float(measured["seconds"]),
        )
        difference = None if parent is None else interval(trial.objective - parent.objective)
        is_accepted = name == "greedy" or difference is None or difference[1 if name == "random" else 2] < 0
        self._trials.append(replace(trial, is_accepted=is_accepted))
        return self._trials[-1]

    def _measured(self, allocation: Allocation) -> dict[str, Numbers]:
        started = time.monotonic()
        self._whole = self._whole or measurement_of(self._spec.objective, self._decoder, self._items)
        kl, cosines = self._whole.measure(self._menu.variant(allocation))
        return {"kl": kl, "one_minus_cos": cosines, "seconds": np.array(time.monotonic() - started)}

    def _require_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise Expired

    def _effect_rows(self, effects: Effects, seconds: float) -> pl.DataFrame:
        """Return the rows of `search_effects`; those of unmeasured options lie on their sublayer's curve."""
        means, errors = effects.mean(effects.kl)
        number = {swap: column for column, swap in enumerate(effects.swaps)}
        seen = np.isfinite(effects.kl)
        half = [
            half_width(error, items) for error, items in zip(errors.tolist(), seen.sum(axis=0).tolist(), strict=True)
        ]
        by_option = {
            "kl_dense_pruned_nats": self._by_option(effects, means),
            "one_minus_cos_h": self._by_option(effects, effects.mean(effects.one_minus_cos)[0]),
        }
        rows = []
        for index, option in enumerate(self._menu.options):
            if option.treatment == KEEP:
                continue
            column = number.get(self._swap(index))
            own = [] if column is None else effects.kl[seen[:, column], column].tolist()
            sublayer = self._menu.sublayers[option.sublayer]
            about = {"layer": sublayer.layer, "sublayer": sublayer.kind, "treatment": option.treatment}
            removed = {
                "parameters_removed": option.parameters,
                "bytes_removed": option.bytes,
                "milliseconds_removed": option.milliseconds,
            }
            values: dict[str, float | None] = {name: float(of[index]) for name, of in by_option.items()}
            # A value on the curve has no interval of its own.
            values["kl_low"] = None if column is None else max(0.0, float(means[column] - half[column]))
            values["kl_high"] = None if column is None else float(means[column] + half[column])
            rows.append(about | removed | values | {"n_items": len(own), "item_kl": own, "seconds": seconds})
        return pl.DataFrame(rows, schema=EFFECT_SCHEMA)


def _is_best(trial: Trial, strategy: str, share: float) -> bool:
    return trial.strategy == strategy and trial.remove == share and trial.is_accepted
