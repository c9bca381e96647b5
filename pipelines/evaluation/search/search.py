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
from prunescope.pipelines.evaluation.search.effects import EffectEngine, Effects
from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import DROP, KEEP, Allocation, Menu, sparsities
from prunescope.pipelines.evaluation.search.published import sparsity_for
from prunescope.pipelines.evaluation.search.splits import (
    Reference,
    Split,
    around,
    methods_of,
    nearest,
    parts_of,
    predicted_effects,
    within_reach,
)
from prunescope.pipelines.evaluation.search.strategies import Expired, Strategy
from prunescope.pipelines.evaluation.search.trials import Trial, frame, half_width, interval, treatments_json
from prunescope.pipelines.evaluation.search.whole import FreeRunningMeasurement, WholeMeasurement, measurement_of
from prunescope.pipelines.evaluation.traces.isolated import Swap
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.recipes.mixed import sublayer_of
from prunescope.pipelines.studies.search_spec import DROPS, SearchSpec

# First items on which effects are measured, and those of them on which exchanges are proposed. Whole allocations are
# measured on all: a pass for each is cheap, and those that proposed an exchange make it look better than it is.
EFFECT_ITEMS, CONTEXT_ITEMS = 16, 8
# Ends of the names of treatments whose sparsity is split between matrices, by the strategy whose effects split it.
SUFFIXES = {"searched": "-by-kl", "hidden": "-by-cos"}
# Stands for the sparsity of a target that no sparsity reaches.
_NO_SPARSITY = 1.0
# Moves that are accepted by their mean alone.
_BY_MEAN = {"uniform", "sum", "random"}
_ARRAYS = ("kl", "one_minus_cos", "kl_overlap", "cos_overlap", "reference")
_EFFECT_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "layer": pl.Int16,
    "sublayer": pl.String,
    "matrix": pl.String,
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


Menus = Callable[[Sequence[str], Sequence[MixedRecipe]], Menu]


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
        menus: returns the menu of some treatments of `spec.menu`, and of others whose parts differ.
        items: the texts to measure on.
        journal: stores finished measurements.
        progress: receives the progress of each measurement.
    """

    def __init__(
        self,
        decoder: Decoder,
        spec: SearchSpec,
        menus: Menus,
        items: Sequence[Item],
        journal: Journal,
        progress: Progress = SILENT,
    ) -> None:
        self._decoder, self._spec, self._menus, self._items = decoder, spec, menus, list(items)
        self._journal, self._progress = journal, progress
        self._whole: WholeMeasurement | FreeRunningMeasurement | None = None
        self._trials: list[Trial] = []
        self._deadline = 0.0
        # Methods that may be chosen, and the sparsity that removes as much, by target.
        self._allowed: dict[float, set[str]] = {}
        self._goals: dict[float, float] = {}
        # The sparsity of each method that is measured, and what the effects of the others are computed from.
        self._probes: dict[str, str] = {}
        self._references: dict[str, Reference] = {}
        self._recipes: dict[str, MixedRecipe] = {}
        # The treatments of the menu that may be chosen: of methods with many sparsities, and others.
        self._methods: dict[str, str] = {}
        self._others: list[str] = []

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
        swaps, is_complete = self._ordered_swaps(), True
        effects, seconds = self._effects(swaps, {}, EFFECT_ITEMS)
        searched = self._split("searched", effects)
        for strategy in ("searched", *self._spec.controls):
            self._use(searched)
            if strategy == "hidden" and time.monotonic() <= self._deadline:
                self._use(self._split(strategy, effects))
            for share in sorted(self._spec.remove):
                is_complete &= self._run(strategy, share, effects)
        self._use(searched)
        return SearchResult(self._effect_rows(effects, seconds / len(swaps)), self._rows(), is_complete)

    def _choose_methods(self) -> None:
        """Choose at each target the method that does best with the same sparsity everywhere, by its mean.

        Methods are those with more than three sparsities. Which masks are better differs between models and calibration
        texts by more than an allocation can win. At a target that none reaches alone all are allowed.

        Raises:
            InputError: the menu cannot reach the largest target.
            Expired: the time of the search is over.
        """
        budget, shares = self._spec.budget, sorted(self._spec.remove)
        # Only drops save time.
        menu = [name for name in self._spec.menu if budget != "milliseconds" or name in DROPS]
        methods, self._others = methods_of(menu), [name for name in menu if name not in methods_of(menu)]
        self._goals = {share: sparsity_for(share, budget) or _NO_SPARSITY for share in shares}
        near = {share: around(goal, methods) for share, goal in self._goals.items()}
        winners = dict.fromkeys(shares, "")
        if methods:
            self._use(self._pruned([name for name in menu if any(name in own for own in near.values())]))
            winners = {share: self._uniform(share, near[share], methods) for share in shares}
        kept = {*winners.values()} if all(winners.values()) else {*methods.values()}
        self._methods = {name: method for name, method in methods.items() if method in kept}
        # One sparsity of each method is measured: that of the middle one of its targets.
        middle = {method: [share for share in shares if winners[share] in {method, ""}] for method in kept}
        goals = {method: self._goals[own[len(own) // 2]] for method, own in middle.items()}
        self._probes = {method: nearest(goals[method], self._of(method)) for method in kept}
        highest = [nearest(1, self._of(method)) for method in kept]
        self._use(self._pruned([*dict.fromkeys([*self._probes.values(), *highest]), *self._others]))
        for share in shares:
            if self._problem.most < share * self._total:
                raise InputError(
                    f"search: the menu removes at most {self._problem.most / self._total:.1%} of the {budget}, and "
                    f"{share:.1%} are asked for; add treatments that remove more, or lower `remove`"
                )
            self._allowed[share] = {winners[share]} if winners[share] else kept

    def _of(self, method: str) -> dict[str, str]:
        """Return the treatments of one method, by name with the method."""
        return {name: own for name, own in self._methods.items() if own == method}

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

    def _split(self, strategy: str, effects: Effects) -> Menu:
        """Return the menu with every sparsity split between the matrices of its sublayer, as their effects are."""
        parts, suffix = parts_of(self._menu.sublayers), SUFFIXES[strategy]
        means = effects.mean(self._values(strategy, effects))[0]
        columns, sparsity = {swap: index for index, swap in enumerate(effects.swaps)}, sparsities([*self._methods])
        recipes = list[MixedRecipe]()
        for method, measured in self._probes.items():
            own = [columns[part.sublayer, part.treated(measured)] for part in parts]
            split = Split(parts, means[own])
            for name in within_reach([*self._goals.values()], self._of(method)):
                recipes.append(split.recipe(name, suffix))
                self._references[name + suffix] = Reference(
                    method, measured, sparsity[measured][1], split.sparsities(sparsity[name][1])
                )
        # The uniform allocations are measured with the same menu.
        near = set[str]().union(*(around(goal, self._methods) for goal in self._goals.values()))
        self._recipes |= {recipe.name: recipe for recipe in recipes}
        uniform = [name for name in self._methods if name in near | {*self._probes.values()}]
        return self._pruned([*uniform, *self._others], recipes)

    def _choosable(self, shares: Sequence[float], strategy: str) -> Menu:
        """Return the menu of the treatments that a strategy may choose for some targets."""
        methods = set[str]().union(*(self._allowed[share] for share in shares))
        suffix = SUFFIXES.get(strategy, SUFFIXES["searched"])
        split = [name for name, own in self._references.items() if own.method in methods and name.endswith(suffix)]
        return self._menu.only([*split, *self._others])

    def _pruned(self, treatments: Sequence[str], splits: Sequence[MixedRecipe] = ()) -> Menu:
        """Return a menu of some treatments; the time to prune does not count."""
        started = time.monotonic()
        menu = self._menus(treatments, splits)
        self._deadline += time.monotonic() - started
        return menu

    def _use(self, menu: Menu) -> None:
        self._menu, self._problem = menu, self._problem_of(menu)
        self._engine = EffectEngine(self._decoder, menu, self._items, self._spec.seed)
        self._total = menu.total(self._spec.budget)

    def _problem_of(self, menu: Menu) -> Problem:
        return Problem(
            np.array([list(menu.sublayers).index(option.sublayer) for option in menu.options]),
            np.array([float(getattr(option, self._spec.budget) or 0) for option in menu.options]),
        )

    def _ordered_swaps(self) -> list[Swap]:
        """Return the swaps to measure; a sublayer's first is the one in the middle of what they remove."""
        by_sublayer: dict[str, list[tuple[int, Swap]]] = {label: [] for label in self._menu.sublayers}
        for part in parts_of(self._menu.sublayers):
            for measured in self._probes.values():
                swap = part.sublayer, part.treated(measured)
                by_sublayer[part.sublayer].append((self._menu.removed(*swap)[0], swap))
        for option in self._menu.options:
            if option.treatment in {DROP, *self._others}:
                by_sublayer[option.sublayer].append((option.parameters, (option.sublayer, option.treatment)))
        swaps = []
        for own in by_sublayer.values():
            own.sort()
            if own:
                middle = own.pop(len(own) // 2)
                swaps += [swap for _, swap in (middle, *own)]
        return swaps

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
            recipe = f"{label}-{100 * share:g}-{digest[:6]}"
            whole = self._in_full(best.allocation)
            self._trials[places[-1]] = replace(best, is_result=True, recipe=recipe, recipe_treatments=whole)
        return is_complete

    def _in_full(self, allocation: Allocation) -> dict[str, str]:
        """Return the treatments of an allocation by sublayer, or by matrix where they are split."""
        whole = dict[str, str]()
        for label, treatment in allocation.items():
            if treatment in self._recipes:
                own = self._recipes[treatment].matrix_recipes
                whole |= {place: each.name for place, each in own.items() if sublayer_of(place) == label}
            elif treatment != KEEP:
                whole[label] = treatment
        return whole

    @staticmethod
    def _reaches(trial: Trial) -> bool:
        return trial.removed >= trial.remove * (1 - 1e-9)

    def _strategy(self, name: str, share: float, effects: Effects) -> Strategy:
        overlap = effects.cos_overlap if name == "hidden" else effects.kl_overlap
        menu = self._choosable([share], name)
        costs, overlap = self._predicted(menu, effects, self._values(name, effects), overlap)
        return Strategy(
            menu,
            self._problem_of(menu),
            share * self._total,
            costs,
            overlap,
            lambda move, allocation, expected, parent: self._measure(name, share, move, allocation, expected, parent),
            lambda allocation, options: self._in_context(name, menu, allocation, options),
            self._spec.measurements,
            self._best(name, share),
        )

    @staticmethod
    def _values(name: str, effects: Effects) -> Numbers:
        return effects.one_minus_cos if name == "hidden" else effects.kl

    def _predicted(self, menu: Menu, effects: Effects, values: Numbers, overlap: Numbers) -> tuple[Numbers, Numbers]:
        """Return the effect of each option, and the correlations of their shifts, from those of the swaps."""
        columns = {swap: index for index, swap in enumerate(effects.swaps)}
        return predicted_effects(menu, self._references, columns, effects.mean(values)[0], overlap)

    def _in_context(self, name: str, menu: Menu, allocation: Allocation, options: Sequence[int]) -> Numbers:
        """Return the objective inside an allocation of some options less that of the allocation; NaN for the others."""
        self._require_time()
        others = [(menu.options[index].sublayer, menu.options[index].treatment) for index in options]
        first = others[0][0]
        swaps = [(first, allocation.get(first, KEEP)), *others]  # the first one changes nothing
        effects, _ = self._effects(swaps, allocation, CONTEXT_ITEMS)
        means = self._values(name, effects).mean(axis=0)
        found = np.full(len(menu.options), np.nan)
        found[list(options)] = means[1:] - means[0]
        return found

    def _baseline(self, name: str, share: float, effects: Effects) -> None:
        """Spend as many trials as `searched` did on random allocations, or on the steps of a greedy removal."""
        target = share * self._total
        count = max(1, sum((trial.strategy, trial.remove) == ("searched", share) for trial in self._trials))
        menu = self._choosable([share], name)
        costs, problem = self._predicted(menu, effects, effects.kl, effects.kl_overlap)[0], self._problem_of(menu)
        generator = np.random.default_rng([self._spec.seed, round(1e6 * share)])
        for step in range(1, count + 1):
            goal = target if name == "random" else target * step / count
            choice = (
                random_choice(problem, goal, generator) if name == "random" else greedy_choice(problem, costs, goal)
            )
            best = self._best(name, share)
            expected = None if name == "random" else float(costs[choice].sum())
            self._measure(name, share, name, menu.allocation(choice), expected, best)

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
        """Return the rows of `search_effects`: of all swaps, and of treatments that are computed from their parts."""
        means, errors = effects.mean(effects.kl)
        cosines = effects.mean(effects.one_minus_cos)[0]
        seen = np.isfinite(effects.kl)
        rows = []
        for index, swap in enumerate(effects.swaps):
            own = effects.kl[seen[:, index], index]
            half, mean = half_width(float(errors[index]), len(own)), float(means[index])
            interval = {"kl_low": max(0.0, mean - half), "kl_high": mean + half}
            values = {"kl_dense_pruned_nats": mean, "one_minus_cos_h": float(cosines[index])}
            rows.append(self._about(*swap) | values | interval | {"n_items": len(own), "item_kl": own.tolist()})
        menu = self._choosable(self._spec.remove, "searched")
        computed = [
            self._predicted(menu, effects, *values)[0]
            for values in ((effects.kl, effects.kl_overlap), (effects.one_minus_cos, effects.cos_overlap))
        ]
        for index, option in enumerate(menu.options):
            if option.treatment in self._references:
                names = ("kl_dense_pruned_nats", "one_minus_cos_h")
                values = dict(zip(names, (float(own[index]) for own in computed), strict=True))
                # A computed value has no interval of its own.
                rows.append(self._about(option.sublayer, option.treatment) | values | {"n_items": 0, "item_kl": []})
        return pl.DataFrame([row | {"seconds": seconds} for row in rows], schema=EFFECT_SCHEMA)

    def _about(self, label: str, treatment: str) -> dict[str, object]:
        """Return the sublayer, matrices and treatment of a row of `search_effects`, and what is removed."""
        sublayer, (whole, _, part) = self._menu.sublayers[label], treatment.partition(" ")
        option = self._menu.options[self._menu.places[label, whole]]
        parameters, saved = self._menu.removed(label, treatment) if part else (option.parameters, option.bytes)
        return {
            "layer": sublayer.layer,
            "sublayer": sublayer.kind,
            "matrix": part or "all",
            "treatment": whole,
            "parameters_removed": parameters,
            "bytes_removed": saved,
            "milliseconds_removed": option.milliseconds,
        }


def _is_better(trial: Trial, parent: Trial) -> bool:
    difference = trial.objective - parent.objective
    if trial.move == "exchange":
        for seen in (EFFECT_ITEMS, CONTEXT_ITEMS):
            if len(unseen := difference[seen:]) > 1:
                return bool(unseen.mean() < 0)
    return interval(difference)[1 if trial.move in _BY_MEAN else 2] < 0
