"""Treatments that a search chooses from: the best method's sparsities, split between matrices, and all others."""

from collections.abc import Mapping, Sequence

from prunescope.pipelines.evaluation.search.allocation import Numbers
from prunescope.pipelines.evaluation.search.effects import Effects
from prunescope.pipelines.evaluation.search.menu import DROP, KEEP, Allocation, Menu, Option, sparsities
from prunescope.pipelines.evaluation.search.published import sparsity_for
from prunescope.pipelines.evaluation.search.splits import (
    Part,
    Reference,
    Split,
    around,
    growth,
    methods_of,
    nearest,
    parts_of,
    predicted_effects,
    within_reach,
)
from prunescope.pipelines.evaluation.traces.isolated import Swap
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.recipes.mixed import sublayer_of
from prunescope.pipelines.studies.search_spec import DROPS, SearchSpec

# Stands for the sparsity of a target that no sparsity reaches.
_NO_SPARSITY = 1.0


class Treatments:
    """The treatments of a search.

    Methods are those with more than three sparsities on the menu. One sparsity of each is measured in every matrix
    alone; treatments such as `wanda-22-by-kl-20`, a sparsity of 22 % split by the KLs at 20 %, follow from that.

    Args:
        spec: menu, targets and budget.

    Attributes:
        methods: method of each treatment that has one, by name.
        others: the other treatments of the menu.
        near: names of the treatments around each target.
        probes: the treatment that is measured in every matrix, by method.
    """

    def __init__(self, spec: SearchSpec) -> None:
        # Only drops save time.
        menu = [name for name in spec.menu if spec.budget != "milliseconds" or name in DROPS]
        self.methods: Mapping[str, str] = methods_of(menu)
        self.others = [name for name in menu if name not in self.methods]
        self._goals = {share: sparsity_for(share, spec.budget) or _NO_SPARSITY for share in sorted(spec.remove)}
        self.near = {share: around(goal, self.methods) for share, goal in self._goals.items()}
        self.probes: dict[str, str] = {}
        self._allowed: dict[float, list[str]] = {}
        self._references: dict[str, Reference] = {}
        self._splits: dict[str, MixedRecipe] = {}

    def keep(self, winners: Mapping[float, str]) -> list[str]:
        """Leave out the methods that are best at no target, and return the names to measure or to know the limits of.

        Args:
            winners: the best method at each target; "" where none reaches it alone, and all are kept.
        """
        every = list(dict.fromkeys(self.methods.values()))
        kept = [method for method in every if not all(winners.values()) or method in winners.values()]
        self._allowed = {share: [winner] if winner else kept for share, winner in winners.items()}
        self.methods = {name: method for name, method in self.methods.items() if method in kept}
        for method in kept:
            own = [goal for share, goal in self._goals.items() if method in self._allowed[share]]
            self.probes[method] = nearest(own[(len(own) - 1) // 2], self._of(method))
        highest = [nearest(1, self._of(method)) for method in kept]
        return [*dict.fromkeys([*self.probes.values(), *highest]), *self.others]

    def swaps(self, menu: Menu) -> list[Swap]:
        """Return what to measure; a sublayer's first swap is the one in the middle of what they remove."""
        by_sublayer: dict[str, list[tuple[int, Swap]]] = {label: [] for label in menu.sublayers}
        for part in parts_of(menu.sublayers):
            for probe in self.probes.values():
                swap = part.sublayer, part.treated(probe)
                by_sublayer[part.sublayer].append((menu.removed(*swap)[0], swap))
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

        Args:
            menu: any menu of the model.
            effects: of `swaps`.
            by: `kl` or `cos`, the effect that splits.
        """
        parts, own = parts_of(menu.sublayers), sparsities([*self.methods])
        means, columns = effects.mean(_values(effects, by)[0])[0], _columns(effects)
        recipes: dict[str, MixedRecipe] = {}
        for method, probe in self.probes.items():
            places, measured = [columns[part.sublayer, part.treated(probe)] for part in parts], own[probe][1]
            split = Split(parts, means[places], measured)
            for name in within_reach([*self._goals.values()], self._of(method)):
                recipe = split.recipe(name, f"-by-{by}-{100 * measured:g}")
                recipes[recipe.name] = recipe
                self._references[recipe.name] = Reference(method, probe, measured, split.sparsities(own[name][1]))
        self._splits |= recipes
        # The same sparsity everywhere is measured with the same menu.
        uniform = {*self.probes.values()}.union(*self.near.values())
        return [*(name for name in self.methods if name in uniform), *self.others], [*recipes.values()]

    def choosable(self, menu: Menu, shares: Sequence[float]) -> Menu:
        """Return a menu of the treatments that may be chosen for some targets."""
        methods = {method for share in shares for method in self._allowed[share]}
        return menu.only([*(name for name, own in self._references.items() if own.method in methods), *self.others])

    def is_split(self, treatment: str) -> bool:
        """Return whether a treatment's sparsity is split between matrices."""
        return treatment in self._references

    def predicted(self, menu: Menu, effects: Effects, by: str) -> tuple[Numbers, Numbers]:
        """Return the effect of each option of a menu, and the correlations of their shifts.

        Args:
            menu: the options.
            effects: of `swaps`.
            by: `kl` or `cos`.
        """
        values, overlap = _values(effects, by)
        return predicted_effects(menu, self._references, _columns(effects), effects.mean(values)[0], overlap)

    def of_parts(self, option: Option) -> list[tuple[Part, Swap, float]]:
        """Return the parts of a split treatment's sublayer, their measured swaps and the factors of their effects."""
        reference = self._references[option.treatment]
        return [
            (part, (part.sublayer, part.treated(reference.treatment)), growth(sparsity / reference.sparsity))
            for part, sparsity in reference.own.items()
            if part.sublayer == option.sublayer
        ]

    def in_full(self, allocation: Allocation) -> dict[str, str]:
        """Return the treatments of an allocation by sublayer, or by matrix where they are split."""
        whole = dict[str, str]()
        for label, treatment in allocation.items():
            if treatment in self._splits:
                own = self._splits[treatment].matrix_recipes
                whole |= {place: each.name for place, each in own.items() if sublayer_of(place) == label}
            elif treatment != KEEP:
                whole[label] = treatment
        return whole

    def _of(self, method: str) -> dict[str, str]:
        return {name: own for name, own in self.methods.items() if own == method}


def _columns(effects: Effects) -> dict[Swap, int]:
    return {swap: index for index, swap in enumerate(effects.swaps)}


def _values(effects: Effects, by: str) -> tuple[Numbers, Numbers]:
    return (effects.kl, effects.kl_overlap) if by == "kl" else (effects.one_minus_cos, effects.cos_overlap)
