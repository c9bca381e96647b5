"""A whole search: effects of single treatments, trials of every strategy at every target, and their tables."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.search.allocation import (
    Numbers,
    Problem,
    greedy_choice,
    random_choice,
    uniform_choice,
)
from prunescope.pipelines.evaluation.search.curves import around, completed, measured_options, methods_of, stand_in
from prunescope.pipelines.evaluation.search.effects import EffectEngine, Effects
from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import KEEP, Allocation, Menu
from prunescope.pipelines.evaluation.search.published import sparsity_for
from prunescope.pipelines.evaluation.search.strategies import Expired, Strategy
from prunescope.pipelines.evaluation.search.trials import Trial, frame, half_width, interval, treatments_json
from prunescope.pipelines.evaluation.search.whole import FreeRunningMeasurement, WholeMeasurement, measurement_of
from prunescope.pipelines.evaluation.traces.isolated import Swap
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.studies.search_spec import DROPS, SearchSpec

# First items on which effects are measured, and those of them on which exchanges are proposed. Whole allocations are
# measured on all: a pass for each is cheap, and those that proposed an exchange make it look better than it is.
EFFECT_ITEMS, CONTEXT_ITEMS = 24, 8
# Moves that are accepted by their mean alone.
_BY_MEAN = {"uniform", "sum", "random"}
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
        menus: returns the menu of some treatments of `spec.menu`.
        items: the texts to measure on.
        journal: stores finished measurements.
        progress: receives the progress of each measurement.
    """

    def __init__(
        self,
        decoder: Decoder,
        spec: SearchSpec,
        menus: Callable[[Sequence[str]], Menu],
        items: Sequence[Item],
        journal: Journal,
        progress: Progress = SILENT,
    ) -> None:
        self._decoder, self._spec, self._menus, self._items = decoder, spec, menus, list(items)
        self._journal, self._progress = journal, progress
        self._whole: WholeMeasurement | FreeRunningMeasurement | None = None
        self._trials: list[Trial] = []
        self._deadline = 0.0
        # Treatments that may be chosen, by target.
        self._treatments: dict[float, set[str]] = {}

    def run(self) -> SearchResult:
        """Measure uniform allocations, the effects, then the trials of each strategy at each target.

        When the time is over, the trials so far are the result: each strategy returns its best allocation, and those
        that have none are left out.

        Raises:
            InputError: the menu cannot reach the largest target.
        """
        self._deadline = time.monotonic() + 60 * self._spec.minutes
        try:
            self._choose_methods()
        except Expired:
            return SearchResult(pl.DataFrame(schema=EFFECT_SCHEMA), self._rows(), False)
        menu, swaps, is_complete = self._menu, self._ordered_swaps(), True
        effects, seconds = self._effects(swaps, {}, EFFECT_ITEMS)
        for strategy in ("searched", *self._spec.controls):
            for share in sorted(self._spec.remove):
                self._use(menu.only(self._treatments[share]))
                is_complete &= self._run(strategy, share, effects)
        self._use(menu)
        return SearchResult(self._effect_rows(effects, seconds / len(swaps)), self._rows(), is_complete)

    def _choose_methods(self) -> None:
        """Choose at each target the method that does best with the same sparsity everywhere, by its mean.

        Methods are those with more sparsities than are measured. Which masks are better differs between models and
        calibration texts by more than an allocation can win. At a target that none reaches alone all are allowed.

        Raises:
            InputError: the menu cannot reach the largest target.
            Expired: the time of the search is over.
        """
        budget, shares = self._spec.budget, sorted(self._spec.remove)
        # Only drops save time.
        menu = [name for name in self._spec.menu if budget != "milliseconds" or name in DROPS]
        methods = methods_of(menu)
        near = {share: around(sparsity_for(share, budget) or 0, methods) for share in shares}
        winners = dict.fromkeys(shares, "")
        if methods:
            self._prune([name for name in menu if any(name in own for own in near.values())])
            winners = {share: self._uniform(share, near[share], methods) for share in shares}
        kept = {*winners.values()} if all(winners.values()) else {*methods.values()}
        self._prune([name for name in menu if name not in methods or methods[name] in kept])
        for share in shares:
            if self._problem.most < share * self._total:
                raise InputError(
                    f"search: the menu removes at most {self._problem.most / self._total:.1%} of the {budget}, and "
                    f"{share:.1%} are asked for; add treatments that remove more, or lower `remove`"
                )
            own = {winners[share], ""} if winners[share] else {*methods.values(), ""}
            self._treatments[share] = {name for name in menu if methods.get(name, "") in own}

    def _uniform(self, share: float, near: AbstractSet[str], methods: Mapping[str, str]) -> str:
        """Measure each method at the same sparsity everywhere; return the best one, or "" where none reaches a target.

        Args:
            share: the target.
            near: treatments around it.
            methods: method of each treatment.
        """
        sizes = [sum(matrix.size for matrix in own.matrices.values()) for own in self._menu.sublayers.values()]
        winner = ""
        for method in dict.fromkeys(methods.values()):
            # Sublayers that no treatment changes are kept.
            treatments = {KEEP, *(name for name in near if methods[name] == method)}
            allowed = np.array([option.treatment in treatments for option in self._menu.options])
            try:
                choice = uniform_choice(self._problem, np.array(sizes), share * self._total, allowed)
            except InputError:
                continue
            allocation, best = self._menu.allocation(choice), self._best("searched", share)
            if self._measure("searched", share, "uniform", allocation, None, best).is_accepted:
                winner = method
        return winner

    def _prune(self, treatments: Sequence[str]) -> None:
        """Go on with a menu of some treatments; the time to prune does not count."""
        started = time.monotonic()
        menu = self._menus(treatments)
        self._deadline += time.monotonic() - started
        self._engine = EffectEngine(self._decoder, menu, self._items, self._spec.seed)
        self._use(menu)

    def _use(self, menu: Menu) -> None:
        self._menu = menu
        self._problem = Problem(
            np.array([list(menu.sublayers).index(option.sublayer) for option in menu.options]),
            np.array([float(getattr(option, self._spec.budget) or 0) for option in menu.options]),
        )
        self._total = menu.total(self._spec.budget)

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

    def _effects(self, swaps: Sequence[Swap], context: Allocation, items: int) -> tuple[Effects, float]:
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
        is_complete = True
        try:
            if name == "hidden" and (start := self._best("searched", share, "uniform")) is not None:
                self._measure(name, share, "uniform", start.allocation, None, None)
            if name in {"searched", "hidden"}:
                self._strategy(name, share, effects).run()
            else:
                self._baseline(name, share, effects)
        except Expired:
            is_complete = False
        own = [place for place, trial in enumerate(self._trials) if (trial.strategy, trial.remove) == (name, share)]
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
            self._best(name, share),
        )

    def _by_option(self, effects: Effects, values: Numbers) -> Numbers:
        """Return effects of all options from those of the swaps."""
        pairs, places = zip(effects.swaps, values, strict=True), self._menu.places
        return completed(self._menu, {places[swap]: float(own) for swap, own in pairs if swap in places})

    def _by_options(self, effects: Effects, overlap: Numbers) -> Numbers:
        """Return the correlations of all pairs of options: those of the swaps that are most like them; 0 for keep."""
        places = self._menu.places
        number = {places[swap]: column for column, swap in enumerate(effects.swaps) if swap in places}
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
            best = self._best(name, share)
            expected = None if name == "random" else float(costs[choice].sum())
            self._measure(name, share, name, self._menu.allocation(choice), expected, best)

    def _best(self, name: str, share: float, *moves: str) -> Trial | None:
        """Return the last accepted trial of a strategy at a target, of some moves if any are given."""
        own = (trial for trial in reversed(self._trials) if (trial.strategy, trial.remove) == (name, share))
        return next((trial for trial in own if trial.is_accepted and (not moves or trial.move in moves)), None)

    def _measure(
        self, name: str, share: float, move: str, allocation: Allocation, expected: float | None, parent: Trial | None
    ) -> Trial:
        """Measure an allocation on all items and append the trial.

        A trial is accepted if its paired difference to its parent lies below zero with its 95 % interval; of uniform
        and random allocations and of the first sum of effects the lower mean is, and every step of a greedy removal. An
        exchange is accepted by the mean of the items on which no effect was measured; without two of these, of those
        that did not propose it.
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
        self._trials.append(replace(trial, is_accepted=name == "greedy" or parent is None or _is_better(trial, parent)))
        return self._trials[-1]

    def _measured(self, allocation: Allocation) -> dict[str, Numbers]:
        started = time.monotonic()
        self._whole = self._whole or measurement_of(self._spec.objective, self._decoder, self._items)
        kl, cosines = self._whole.measure(self._menu.variant(allocation))
        return {"kl": kl, "one_minus_cos": cosines, "seconds": np.array(time.monotonic() - started)}

    def _require_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise Expired

    def _rows(self) -> pl.DataFrame:
        return frame([trial.row([item.id for item in self._items]) for trial in self._trials])

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


def _is_better(trial: Trial, parent: Trial) -> bool:
    difference = trial.objective - parent.objective
    if trial.move == "exchange":
        for seen in (EFFECT_ITEMS, CONTEXT_ITEMS):
            if len(unseen := difference[seen:]) > 1:
                return bool(unseen.mean() < 0)
    return interval(difference)[1 if trial.move in _BY_MEAN else 2] < 0
