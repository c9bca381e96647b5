"""Treatments that a search chooses from: the best method's sparsities, split between matrices, and all others."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from prunescope.pipelines.evaluation.search.allocation import Numbers
from prunescope.pipelines.evaluation.search.effects import Effects
from prunescope.pipelines.evaluation.search.menu import DROP, KEEP, Allocation, Menu, Option
from prunescope.pipelines.evaluation.search.published import sparsity_for
from prunescope.pipelines.evaluation.search.splits import (
    Reference,
    Split,
    around,
    matrix_groups,
    methods_of,
    nearest,
    predicted_effects,
    probes_of,
    shrunk,
    sparsity_of,
    within_reach,
)
from prunescope.pipelines.evaluation.traces.isolated import Swap
from prunescope.pipelines.recipes import MixedRecipe, as_treatment
from prunescope.pipelines.recipes.mixed import sublayer_of
from prunescope.pipelines.studies.search_spec import DROPS, SearchSpec

# Sparsity of a target that no sparsity reaches.
_NO_SPARSITY = 1.0


class Treatments:
    """Treatments of a search.

    A method is one with more than three sparsities on the menu. A few of its sparsities, its probes, are measured in
    every matrix alone: one probe serves all targets within a factor of two. Split treatments, such as
    `wanda-22-by-kl-3fa1c2`, follow from the probes. The end of the name identifies the split. A search from `start` has
    its treatments alone.

    Attributes:
        methods: method of each treatment that has one, by name.
        others: the other treatments of the menu.
        near: names of the treatments around each target.
        start: allocation of the start's treatments.
    """

    def __init__(self, spec: SearchSpec, start: MixedRecipe | None = None) -> None:
        # Only drops save time.
        menu = [name for name in spec.menu if spec.budget != "milliseconds" or name in DROPS]
        self.methods: Mapping[str, str] = methods_of(menu)
        self.others = [name for name in menu if name not in self.methods]
        self._goals = {share: sparsity_for(share, spec.budget) or _NO_SPARSITY for share in sorted(spec.remove)}
        self.near = {share: around(goal, self.methods) for share, goal in self._goals.items()}
        # Per target, the probe of each method that may be chosen.
        self._probes: dict[float, list[str]] = {}
        self._references: dict[str, Reference] = {}
        self._splits: dict[str, MixedRecipe] = {} if start is None else {start.name: start}
        self.start: Allocation = {
            label: DROP if recipe.treatments.get(label) == DROP else name
            for name, recipe in self._splits.items()
            for label in recipe.sublayers
        }
        self._unsplit: dict[str, str] = {}

    def keep(self, winners: Mapping[float, str]) -> list[str]:
        """Remove the methods that are best at no target; return the treatments to prune before any is split.

        These are the treatments to measure, and those with the highest sparsities, which decide whether targets can be
        reached. `winners` has the best method at each target; "" if none reaches it alone, and all are kept.
        """
        every = list(dict.fromkeys(self.methods.values()))
        kept = [method for method in every if not all(winners.values()) or method in winners.values()]
        self.methods = {name: method for name, method in self.methods.items() if method in kept}
        self._probes = {share: [] for share in self._goals}
        for method in kept:
            shares = [share for share in self._goals if winners[share] in {method, ""}]
            probes = probes_of([self._goals[share] for share in shares], self._of(method))
            for share in shares:
                self._probes[share].append(probes[self._goals[share]])
        highest = [nearest(1, self._of(method)) for method in kept]
        return [*dict.fromkeys([*self._all_probes, *highest]), *self.others]

    def of_start(self) -> tuple[list[str], list[MixedRecipe]]:
        """Return the names and the mixed recipe of the start's treatments."""
        return [DROP] if DROP in self.start.values() else [], [*self._splits.values()]

    def swaps(self, menu: Menu) -> list[Swap]:
        """Return what to measure; the first swap of a sublayer is the median by what the swaps remove."""
        by_sublayer: dict[str, list[tuple[int, Swap]]] = {label: [] for label in menu.sublayers}
        for group in matrix_groups(menu.sublayers):
            for probe in self._all_probes:
                swap = group.swap(probe)
                by_sublayer[group.sublayer].append((menu.removed(*swap)[0], swap))
        for option in menu.options:
            if option.treatment in {DROP, *self.others}:
                by_sublayer[option.sublayer].append((option.parameters, (option.sublayer, option.treatment)))
        swaps = []
        for own in by_sublayer.values():
            own.sort()
            if own:
                middle = own.pop(len(own) // 2)
                swaps += [swap for _, swap in (middle, *own)]
        return swaps

    def split(self, menu: Menu, effects: Effects, by: str) -> tuple[list[str], list[MixedRecipe]]:
        """Return the names and the mixed recipes of a menu with every sparsity split between the matrices.

        `effects` are those of `swaps`. `by`, `kl` or `cos`, is the effect that decides the split.
        """
        groups, alone = matrix_groups(menu.sublayers), self.alone(menu, effects, by)
        # Uniform sparsities are measured with the same menu.
        uniform = {*self._all_probes}.union(*self.near.values()) & {*self.methods}
        recipes: dict[str, MixedRecipe] = {}
        for probe in self._all_probes:
            split = Split(groups, np.array([alone[group.swap(probe)] for group in groups]), probe, by)
            goals = [self._goals[share] for share, probes in self._probes.items() if probe in probes]
            own = self._of(self.methods[probe])
            for name in within_reach(goals, own):
                recipe = split.recipe(name)
                recipes[recipe.name] = recipe
                self._references[recipe.name] = split.reference(name)
                self._unsplit[recipe.name] = name
        self._splits |= recipes
        for name in uniform:
            # The effect follows from the nearest measured sparsity of its method.
            own = self._of(self.methods[name])
            probe = nearest(sparsity_of(name), [each for each in self._all_probes if each in own])
            even = dict.fromkeys(groups, sparsity_of(name))
            self._references[name] = Reference(probe, sparsity_of(probe), even)
        return [*(name for name in self.methods if name in uniform), *self.others], [*recipes.values()]

    def choosable(self, menu: Menu, share: float) -> Menu:
        """Return a menu of the treatments that may be chosen for a target."""
        if share not in self._probes:  # a search from a start
            return menu
        probes, near = self._probes[share], {*within_reach([self._goals[share]], self.methods)}
        split = [
            name
            for name, unsplit in self._unsplit.items()
            if self._references[name].probe in probes and unsplit in near
        ]
        return menu.only([*split, *self.others])

    def known(self, menu: Menu) -> Menu:
        """Return a menu of the treatments whose effects are measured or computed."""
        return menu.only([*self._references, *self.others])

    def computed(self, menu: Menu) -> Iterator[tuple[Option, Reference]]:
        """Yield the options whose effects are computed, with what they are computed from."""
        for option in menu.options:
            if option.treatment in self._references:
                yield option, self._references[option.treatment]

    def alone(self, menu: Menu, effects: Effects, by: str) -> dict[Swap, float]:
        """Return the effect of each measured swap; effects of matrices are shrunk towards what they have in common.

        The other treatments of a sublayer change by the same factor as the sum of its matrices.
        """
        means = effects.mean(effects.kl if by == "kl" else effects.one_minus_cos)[0]
        found, groups = dict(zip(effects.swaps, means.tolist(), strict=True)), matrix_groups(menu.sublayers)
        before, drawn = defaultdict[str, float](float), defaultdict[str, float](float)
        for probe in self._all_probes:
            own = [group.swap(probe) for group in groups]
            after = shrunk(groups, np.array([found[swap] for swap in own])).tolist()
            for swap, value in zip(own, after, strict=True):
                before[swap[0]] += found[swap]
                drawn[swap[0]] += value
                found[swap] = value
        for label, treatment in effects.swaps:
            if treatment in {DROP, *self.others} and before[label] > 0:
                found[label, treatment] *= drawn[label] / before[label]
        return found

    def predicted(self, menu: Menu, effects: Effects, by: str) -> Numbers:
        """Return the effect of each option of a menu."""
        return predicted_effects(menu, self._references, self.alone(menu, effects, by))

    def in_full(self, allocation: Allocation) -> dict[str, object]:
        """Return the treatments of an allocation by sublayer, or by matrix if they are split."""
        whole = dict[str, object]()
        for label, treatment in allocation.items():
            if treatment in self._splits:
                own = self._splits[treatment].matrix_recipes
                whole |= {place: as_treatment(each) for place, each in own.items() if sublayer_of(place) == label}
            elif treatment != KEEP:
                whole[label] = treatment
        return whole

    @property
    def _all_probes(self) -> list[str]:
        return list(dict.fromkeys(probe for own in self._probes.values() for probe in own))

    def _of(self, method: str) -> dict[str, str]:
        return {name: own for name, own in self.methods.items() if own == method}
