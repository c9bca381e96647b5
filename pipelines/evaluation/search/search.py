"""A whole search: effects of single treatments, then trials of every strategy at every target, and their tables."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.search.allocation import (
    Choice,
    Numbers,
    Problem,
    filled_up,
    greedy_choice,
    random_choice,
    uniform_choice,
)
from prunescope.pipelines.evaluation.search.effect_rows import SCHEMA as EFFECTS
from prunescope.pipelines.evaluation.search.effect_rows import computed_rows, measured_rows
from prunescope.pipelines.evaluation.search.effects import EffectEngine, Effects
from prunescope.pipelines.evaluation.search.items import Item, middle
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import KEEP, Allocation, Menu
from prunescope.pipelines.evaluation.search.strategies import Expired, Strategy
from prunescope.pipelines.evaluation.search.treatments import Treatments
from prunescope.pipelines.evaluation.search.trials import SCHEMA as TRIALS
from prunescope.pipelines.evaluation.search.trials import Trial, log_ratios, treatments_json
from prunescope.pipelines.evaluation.search.whole import WholeMeasurement
from prunescope.pipelines.evaluation.traces.isolated import Swap
from prunescope.pipelines.metrics.mean_interval import interval
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.studies.search_spec import SearchSpec

# Effects are measured on the first EFFECT_ITEMS items; exchanges are proposed from the first CONTEXT_ITEMS. Whole
# allocations are measured on all items: that costs one pass each, and the items that proposed an exchange make it look
# better than it is.
EFFECT_ITEMS, CONTEXT_ITEMS = 16, 8
Menus = Callable[[Sequence[str], Sequence[MixedRecipe]], Menu]


@dataclass(frozen=True)
class SearchResult:
    """Rows of `search_effects` and `search_trials`, without model and search; whether every strategy ended in time."""

    effects: pl.DataFrame
    trials: pl.DataFrame
    is_complete: bool


class Search:
    """Search on one model.

    `menus` returns the menu for some treatments of `spec.menu` and some mixed recipes. `items` are the texts to measure
    on. `journal` stores finished measurements. `start` is that of a `StartedSearch`, which holds half of the items out.
    """

    # What `searched` and `hidden` do.
    _steps: type[Strategy] = Strategy

    def __init__(
        self,
        decoder: Decoder,
        spec: SearchSpec,
        menus: Menus,
        items: Sequence[Item],
        journal: Journal,
        progress: Progress = SILENT,
        start: MixedRecipe | None = None,
    ) -> None:
        half = len(items) if start is None else middle(len(items))
        self._items, self._held_out = list(items[:half]), list(items[half:])
        self._decoder, self._spec, self._menus = decoder, spec, menus
        self._journal, self._progress = journal, progress
        self._whole: WholeMeasurement | None = None
        # First part of a trial's key in the journal, which names the items.
        self._measured_on = "trial"
        self._trials: list[Trial] = []
        self._deadline = 0.0
        self._treatments = Treatments(spec, start)

    def run(self) -> SearchResult:
        """Measure uniform allocations, then the effects, then the trials of each strategy at each target.

        When the time is over, the trials so far are the result. Each strategy returns its best allocation; a strategy
        without one is left out.

        Raises:
            InputError: the menu cannot reach the largest target.
        """
        self._deadline = time.monotonic() + 60 * self._spec.minutes
        try:
            self._choose_methods()
        except Expired:
            return SearchResult(pl.DataFrame(schema=EFFECTS), self._rows(), False)
        swaps, is_complete = self._treatments.swaps(self._menu), True
        effects = self._effects(swaps, {}, EFFECT_ITEMS)
        rows = [*measured_rows(self._menu, effects)]
        searched = self._pruned(*self._treatments.split(self._menu, effects, "kl"))
        rows += computed_rows(searched, effects, self._treatments)
        for strategy in ("searched", *self._spec.controls):
            self._use(searched)
            if strategy == "hidden" and time.monotonic() <= self._deadline:
                names, splits = self._treatments.split(self._menu, effects, "cos")
                self._use(self._pruned(names, splits))
                # The unsplit treatments already have rows.
                own = self._menu.only([split.name for split in splits])
                rows += computed_rows(own, effects, self._treatments)
            for share in sorted(self._spec.remove):
                is_complete &= self._run(strategy, share, effects)
        return SearchResult(pl.DataFrame(rows, schema=EFFECTS), self._rows(), is_complete)

    def _choose_methods(self) -> None:
        """Choose, per target, the method that does best with the same sparsity in every sublayer.

        Which method makes the better masks depends on the model and the calibration texts, and matters more than the
        allocation. If no method reaches a target alone, all are allowed. Errors are those of `run`, and Expired.
        """
        own, shares = self._treatments, sorted(self._spec.remove)
        winners = dict.fromkeys(shares, "")
        if own.methods:
            near = set[str]().union(*own.near.values())
            self._use(self._pruned([name for name in own.methods if name in near]))
            winners = {share: self._uniform(share) for share in shares}
        self._use(self._pruned(own.keep(winners)))
        if self._problem.most < shares[-1] * self._total:
            raise InputError(
                f"search: the menu removes at most {self._problem.most / self._total:.1%} of the {self._spec.budget}, "
                f"and {shares[-1]:.1%} are asked for; add treatments that remove more, or lower `remove`"
            )

    def _uniform(self, share: float) -> str:
        """Measure each method at the same sparsity everywhere; return the best, or "" if none reaches the target."""
        sizes = [sum(matrix.size for matrix in own.matrices.values()) for own in self._menu.sublayers.values()]
        methods, winner = self._treatments.methods, ""
        for method in dict.fromkeys(methods.values()):
            # Sublayers that no treatment changes are kept.
            treatments = {KEEP, *(name for name in self._treatments.near[share] if methods[name] == method)}
            allowed = np.array([option.treatment in treatments for option in self._menu.options])
            try:
                choice = uniform_choice(self._problem, np.array(sizes), share * self._total, allowed)
            except InputError:
                continue
            allocation, best = self._menu.allocation(choice), self._best("searched", share)
            if self._measure("searched", share, "uniform", allocation, None, best).is_accepted:
                winner = method
        return winner

    def _pruned(self, treatments: Sequence[str], splits: Sequence[MixedRecipe] = ()) -> Menu:
        """Return a menu of some treatments; the search time excludes the pruning."""
        started = time.monotonic()
        menu = self._menus(treatments, splits)
        self._deadline += time.monotonic() - started
        return menu

    def _use(self, menu: Menu) -> None:
        self._menu, self._problem = menu, self._problem_of(menu)
        self._engine = EffectEngine(self._decoder, menu, self._items, self._journal)
        self._total = menu.total(self._spec.unit)

    def _problem_of(self, menu: Menu) -> Problem:
        return Problem(
            np.array([list(menu.sublayers).index(option.sublayer) for option in menu.options]),
            np.array([float(getattr(option, self._spec.unit) or 0) for option in menu.options]),
        )

    def _effects(self, swaps: Sequence[Swap], context: Allocation, items: int) -> Effects:
        """Return effects, from the journal or measured now, on fewer items if half of the time left is not enough."""
        until = (time.monotonic() + self._deadline) / 2
        return self._engine.measure(swaps, context, items, self._progress, until)

    def _run(self, name: str, share: float, effects: Effects) -> bool:
        """Run one strategy at one target and mark its result; return whether it ended before the time was over."""
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
        # Before its last step, a greedy removal has removed less than the target.
        best = self._best(name, share, least=share * (1 - 1e-9))
        if best is not None:
            digest = hashlib.sha256(treatments_json(best.allocation).encode()).hexdigest()
            label = "mixed" if name == "searched" else f"mixed-{name}"
            recipe = f"{label}-{self._goal(best)}-{digest[:6]}"
            whole = self._treatments.in_full(best.allocation)
            self._trials[best.number] = replace(best, is_result=True, recipe=recipe, recipe_treatments=whole)
        return is_complete

    def _goal(self, trial: Trial) -> str:
        """Return the part of a result's name that tells targets apart."""
        return f"{100 * trial.remove:g}"

    def _strategy(self, name: str, share: float, effects: Effects) -> Strategy:
        menu = self._treatments.choosable(self._menu, share)
        costs = effects.spread * self._treatments.predicted(menu, effects, "cos" if name == "hidden" else "kl")
        return self._steps(
            menu,
            self._problem_of(menu),
            share * self._total,
            costs,
            lambda move, allocation, expected, parent: self._measure(name, share, move, allocation, expected, parent),
            lambda allocation, options: self._in_context(name, menu, allocation, options),
            self._spec.measurements,
            self._best(name, share),
        )

    def _in_context(self, name: str, menu: Menu, allocation: Allocation, options: Sequence[int]) -> Numbers:
        """Return how much each of some options changes the objective inside an allocation; NaN for all others."""
        self._require_time()
        others = [(menu.options[index].sublayer, menu.options[index].treatment) for index in options]
        first = others[0][0]
        swaps = [(first, allocation.get(first, KEEP)), *others]  # the first swap changes nothing
        effects = self._effects(swaps, allocation, CONTEXT_ITEMS)
        values = effects.one_minus_cos if name == "hidden" else effects.kl
        gains = np.expm1(log_ratios(values[:, 1:], values[:, :1]).mean(axis=0))
        found = np.full(len(menu.options), np.nan)
        found[list(options)] = values[:, 0].mean() * gains
        return found

    def _baseline(self, name: str, share: float, effects: Effects) -> None:
        """Measure as many trials as `searched` had: random allocations, or the steps of a greedy choice."""
        target = share * self._total
        count = max(1, sum((trial.strategy, trial.remove) == ("searched", share) for trial in self._trials))
        menu = self._treatments.choosable(self._menu, share)
        costs, problem = effects.spread * self._treatments.predicted(menu, effects, "kl"), self._problem_of(menu)
        # From a start, an allocation that removes less than the target puts back too much.
        begin = problem.most if self._treatments.start else 0.0
        generator = np.random.default_rng([self._spec.seed, round(1e6 * share)])
        for step in range(1, count + 1):
            goal = target if name == "random" else target * step / count + begin * (count - step) / count
            choice = self._drawn(name, problem, costs, goal, generator)
            best = self._best(name, share)
            expected = None if name == "random" else float(costs[choice].sum())
            self._measure(name, share, name, menu.allocation(choice), expected, best)

    def _drawn(
        self, name: str, problem: Problem, costs: Numbers, goal: float, generator: np.random.Generator
    ) -> Choice:
        """Return the choice of a control; from a start, the greedy one puts back sublayers while they fit."""
        if name == "random":
            return random_choice(problem, goal, generator)
        choice = greedy_choice(problem, costs, goal)
        return filled_up(problem, costs, choice, goal) if self._treatments.start else choice

    def _best(self, name: str, share: float, move: str = "", least: float = 0) -> Trial | None:
        """Return the last accepted trial of a strategy at a target, of a move if it is given, that removes enough."""
        own = (trial for trial in reversed(self._trials) if (trial.strategy, trial.remove) == (name, share))
        fitting = (trial for trial in own if trial.move == (move or trial.move) and trial.removed >= least)
        return next((trial for trial in fitting if trial.is_accepted), None)

    def _measure(
        self, name: str, share: float, move: str, allocation: Allocation, expected: float | None, parent: Trial | None
    ) -> Trial:
        """Measure an allocation on all items and append the trial.

        A trial is accepted if the geometric mean of its objective is below its parent's. An exchange is compared only
        on items on which no effect was measured. If there are fewer than two, it is compared on the items that did not
        propose it. If there are fewer than two of those, the 95 % interval of the difference of logarithms must lie
        below zero. Every step of a greedy removal is accepted, and no trial on items that are held out.
        """
        self._require_time()
        self._progress.start(f"{name} {share:.0%}: {move}", 1)
        key = [self._measured_on, treatments_json(allocation)]
        measured = self._journal.remember(key, lambda: self._measured(allocation))
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
            item_ids=tuple(item.id for item in self._items),
        )
        is_better = name == "greedy" or parent is None or _is_better(trial, parent)
        self._trials.append(replace(trial, is_accepted=is_better and move != "held_out"))
        return self._trials[-1]

    def _measured(self, allocation: Allocation) -> dict[str, Numbers]:
        started = time.monotonic()
        self._whole = self._whole or WholeMeasurement(self._decoder, self._items)
        kl, cosines = self._whole.measure(self._menu.variant(allocation))
        return {"kl": kl, "one_minus_cos": cosines, "seconds": np.array(time.monotonic() - started)}

    def _require_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise Expired

    def _rows(self) -> pl.DataFrame:
        return pl.DataFrame([trial.row() for trial in self._trials], schema=TRIALS)


def _is_better(trial: Trial, parent: Trial) -> bool:
    change = log_ratios(trial.objective, parent.objective)
    if trial.move != "exchange":
        return bool(change.mean() < 0)
    for seen in (EFFECT_ITEMS, CONTEXT_ITEMS):
        if len(unseen := change[seen:]) > 1:
            return bool(unseen.mean() < 0)
    return interval(change)[2] < 0
