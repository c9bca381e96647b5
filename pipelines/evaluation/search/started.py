"""A search that starts from a pruned model and makes sublayers dense again; `search` starts from the dense one."""

import time
from collections.abc import Collection, Sequence

import numpy as np
import polars as pl
from pydantic import ValidationError

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.core.validation_errors import problems_of
from prunescope.pipelines.evaluation.search.effect_rows import SCHEMA as EFFECTS
from prunescope.pipelines.evaluation.search.effect_rows import measured_rows
from prunescope.pipelines.evaluation.search.effects import Effects
from prunescope.pipelines.evaluation.search.menu import DROP, KEEP, Allocation
from prunescope.pipelines.evaluation.search.search import EFFECT_ITEMS, Search, SearchResult
from prunescope.pipelines.evaluation.search.strategies import Expired, Restoration
from prunescope.pipelines.evaluation.search.trials import Trial
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.methods.layer_sparsity import layer_sparsities
from prunescope.pipelines.pruning.module_selection import chosen_matrices, require_matches
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.recipes import DepthRecipe, MatrixRecipe, MixedRecipe, Recipe, as_treatment, is_spelled, steps
from prunescope.pipelines.recipes.mixed import part_of

# Numbers of sublayers put back at which the controls are compared with the first ones of the search.
_COUNTS = (2, 4, 8)
# Random sets of each size.
_DRAWS = 5


class StartedSearch(Search):
    """Search that makes sublayers of `start` dense again, as far as `spec.put_back` allows.

    The first half of the items chooses. The other half is held out: it measures what the first 2, 4 and 8 sublayers of
    the search and its result bring back, and what controls of the same size bring back.
    """

    _steps = Restoration

    def run(self) -> SearchResult:
        """Measure the effects of the start's treatments alone, the trials, and some of them on held-out items.

        Raises:
            InputError: nothing would stay pruned, or no sublayer may be put back.
        """
        self._deadline = time.monotonic() + 60 * self._spec.minutes
        start = self._treatments.start
        self._use(self._pruned(*self._treatments.of_start()).within(start))
        share = self._target(start) / self._total
        effects = self._effects([*start.items()], {}, EFFECT_ITEMS)
        controls = [name for name in ("random", "greedy") if name in self._spec.controls]
        try:
            self._measure("searched", share, "start", start, None, None)
            is_complete = all(self._run(name, share, effects) for name in ("searched", *controls))
            self._measure_held_out(share, effects, controls)
        except Expired:
            is_complete = False
        return SearchResult(pl.DataFrame(measured_rows(self._menu, effects), schema=EFFECTS), self._rows(), is_complete)

    def _target(self, start: Allocation) -> float:
        """Return what must stay removed, in the budget's unit; errors as in `run`."""
        removed, unit = self._problem.removed[self._menu.choice(start)], self._spec.unit
        scale, form = (1.0, "{:.0f}") if unit == "sublayers" else (self._total, "{:.2%}")
        (allowed,), smallest = self._spec.targets, removed[removed != 0].min(initial=np.inf) / scale
        what = f"`search.put_back.{unit}` is {form.format(allowed)}"
        target = float(removed.sum()) - scale * allowed
        if target <= 1e-9 * self._total:
            most = form.format(float(removed.sum()) / scale)
            raise InputError(f"{what}, and the whole start takes {most}: nothing would stay pruned; lower it")
        if allowed < smallest:
            raise InputError(f"{what}, less than the smallest sublayer takes, {form.format(smallest)}; raise it")
        return target

    def _goal(self, trial: Trial) -> str:
        return f"back-{self._n_put_back(trial)}"

    def _n_put_back(self, trial: Trial) -> int:
        """Return how many sublayers of the start a trial keeps."""
        return sum(trial.allocation.get(label, KEEP) == KEEP for label in self._treatments.start)

    def _measure_held_out(self, share: float, effects: Effects, controls: Sequence[str]) -> None:
        """Measure the start, the first sublayers put back, the result, and sets of equal size by each control."""
        own = [trial for trial in self._trials if trial.move == "restore" and trial.is_accepted]
        reported = {count: trial for trial in own if (count := self._n_put_back(trial)) in _COUNTS}
        if (result := self._best("searched", share)) is not None:
            reported[self._n_put_back(result)] = result
        self._items, self._whole, self._measured_on = self._held_out, None, "held out"
        start = self._measure("searched", share, "held_out", self._treatments.start, None, None)
        costs = self._treatments.predicted(self._menu, effects, "kl")
        for count, trial in sorted((count, trial) for count, trial in reported.items() if count):
            self._measure("searched", share, "held_out", trial.allocation, None, start)
            target = self._problem.total(self._menu.choice(trial.allocation))
            for name in controls:
                generator = np.random.default_rng([self._spec.seed, count])
                for _ in range(_DRAWS if name == "random" else 1):
                    choice = self._drawn(name, self._problem, costs, target, generator)
                    self._measure(name, share, "held_out", self._menu.allocation(choice), None, start)


def as_mixture(decoder: Decoder, recipe: Recipe, statistics: Statistics, progress: Progress = SILENT) -> MixedRecipe:
    """Return a recipe that can start a search as one treatment per sublayer or matrix.

    All are pruned on dense predecessors, as the treatments of every search are, so that a sublayer that is put back
    leaves the others as they are.

    Raises:
        InputError: a treatment cannot be that of one sublayer, or a statistic is missing.
    """
    treatments, dropped = dict[str, object](), tuple[str, ...]()
    if drops := tuple(step for step in steps(recipe) if isinstance(step, DepthRecipe)):
        dropping = drops[0] if len(drops) == 1 else recipe.model_copy(update={"parts": drops})
        tables = statistics.activation_stats, statistics.block_influence
        dropped = prune(decoder, dropping, *tables, statistics.tokens, progress, dtype=statistics.dtype).dropped
        treatments |= dict.fromkeys(dropped, DROP)
    match steps(recipe)[-1]:
        case MixedRecipe() as mixed:
            own = mixed.treatments.items()
            treatments |= {place: each if isinstance(each, str) else as_treatment(each) for place, each in own}
        case MatrixRecipe() as last:
            treatments |= _by_place(decoder, last, statistics, dropped)
    # The name stands for the treatments in every allocation.
    name = recipe.name if is_spelled(recipe) else f"{recipe.name[:90]}-{recipe.hash[:6]}"
    try:
        return MixedRecipe.model_validate({"name": name, "predecessors": "dense", "treatments": treatments})
    except ValidationError as error:
        raise InputError(f"`search.start`: {problems_of(error)[0][1]}") from None


def _by_place(
    decoder: Decoder, recipe: MatrixRecipe, statistics: Statistics, dropped: Collection[str]
) -> dict[str, object]:
    """Return the treatment of each sublayer, or of those of its matrices that the recipe's `modules` choose."""
    require_matches(decoder, recipe)
    sparsities, found = layer_sparsities(decoder, recipe, statistics.activation_stats, dropped), dict[str, object]()
    for sublayer in decoder.sublayers:
        chosen, sparsity = chosen_matrices(sublayer, recipe), sparsities[sublayer.layer]
        if sublayer.label in dropped or sparsity == 0:
            continue
        parts, others = ({*map(part_of, names)} for names in (chosen, sublayer.matrices.keys() - chosen.keys()))
        if parts & others:
            raise InputError(
                f"`search.start`: `modules` of {recipe.name} choose some of the matrices {sublayer.label}."
                f"{min(parts & others)}, which a mixture treats alike; choose all or none"
            )
        own = {} if sparsity is None else {"sparsity": sparsity, "ratios": "uniform"}
        treatment = as_treatment(recipe.model_copy(update=own | {"modules": ()}))
        places = [sublayer.label] if parts and not others else [f"{sublayer.label}.{part}" for part in sorted(parts)]
        found |= dict.fromkeys(places, treatment)
    return found
