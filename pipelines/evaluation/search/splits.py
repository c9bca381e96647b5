"""Split of a sublayer's sparsity between its matrices, and effects of sparsities from those of one.

An effect grows with the third power of the sparsity, so that the matrices of one sublayer, each pruned alone at one
sparsity, tell how to share any sparsity between them, and what it costs.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunescope.pipelines.evaluation.search.menu import KEEP, Menu, sparsities
from prunescope.pipelines.evaluation.traces.isolated import Swap
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.recipes.mixed import part_of

Numbers = NDArray[np.float64]
# Sparsities of a method in a menu; of one with more they are split, of others each treatment is measured as it is.
_FEW = 3
# Power of the sparsity with which an effect grows: for sublayers of SmolLM2-135M 3.0 ± 0.3 between 10 and 26 %, and 3.3
# ± 0.3 between 26 and 70 %.
_POWER = 3.0
# Power of the differences between measured effects that is kept; the rest counts as errors. Whole allocations of
# SmolLM2-135M by 0.8 have 2, 2, 4 and 8 % less KL than those by 1 at 10, 20, 30 and 40 % on the texts and prompts of a
# search, and on windows of WikiText-2 2 % more at 10 and 20 %, 1 and 4 % less at 30 and 40 %.
_KEPT = 0.8
# Sparsities up to this factor away from the measured one, or from a target, are taken: farther away the power need not
# hold. On SmolLM2 95 % of the first layer's queries and keys, which do nothing at 20 %, doubled the KL of a whole.
_REACH = 3.0
# Targets up to this factor above or below a measured sparsity share its measurement.
_SAME_PROBE = 2.0
# Limits of a matrix's sparsity, beside that of its sublayer, and of the ratio of the two.
_LOWEST, _HIGHEST, _FARTHEST = 0.01, 0.7, 4.0


def methods_of(treatments: Sequence[str]) -> dict[str, str]:
    """Return the treatments of methods with more than three sparsities, by name, with their method."""
    own = sparsities(treatments)
    counts = Counter(family for family, _ in own.values())
    return {name: family for name, (family, _) in own.items() if counts[family] > _FEW}


def around(sparsity: float, methods: Mapping[str, str]) -> set[str]:
    """Return the names of each method's treatments next to a sparsity, at most and above it."""
    own, found = sparsities([*methods]), set()
    for family in {*methods.values()}:
        values = {own[name][1]: name for name in methods if methods[name] == family}
        found.add(values[max((each for each in values if each <= sparsity), default=min(values))])
        found.add(values[min((each for each in values if each > sparsity), default=max(values))])
    return found


def nearest(sparsity: float, names: Iterable[str]) -> str:
    """Return the name of the treatment with the nearest sparsity."""
    return min(names, key=lambda name: abs(sparsity_of(name) - sparsity))


def probes_of(targets: Sequence[float], methods: Mapping[str, str]) -> dict[float, str]:
    """Return for each target the treatment of a method to measure: few of them, each within twice the target or half.

    Args:
        targets: in ascending order.
        methods: the treatments of one method.
    """
    found: dict[float, str] = {}
    for target in targets:
        if target not in found:
            together = [each for each in targets if target <= each <= _SAME_PROBE**2 * target * (1 + 1e-9)]
            found |= dict.fromkeys(together, nearest(float(np.sqrt(together[0] * together[-1])), methods))
    return found


def within_reach(targets: Sequence[float], methods: Mapping[str, str]) -> list[str]:
    """Return the treatments whose sparsities the best allocation for some targets may give to a sublayer."""
    near = set[str]().union(*(around(target, methods) for target in targets))
    low, high = min(targets) / _REACH, max(targets) * _REACH
    return [name for name in methods if name in near or low <= sparsity_of(name) <= high]


@dataclass(frozen=True)
class MatrixGroup:
    """The matrices of one sublayer whose names end in the same way: usually one, else those of its experts.

    Attributes:
        sublayer: label of the sublayer.
        name: the end of the names, such as `q_proj`.
        size: weights.
        inputs: of the narrowest of the matrices.
    """

    sublayer: str
    name: str
    size: int
    inputs: int

    @property
    def place(self) -> str:
        """The name of the group in a mixed recipe."""
        return f"{self.sublayer}.{self.name}"

    def swap(self, treatment: str) -> Swap:
        """Return the swap of these matrices alone for those of a treatment."""
        return self.sublayer, f"{treatment} {self.name}"


def matrix_groups(sublayers: Mapping[str, Sublayer]) -> list[MatrixGroup]:
    """Return the groups of all sublayers, in the order of their matrices."""
    found: dict[tuple[str, str], MatrixGroup] = {}
    for label, sublayer in sublayers.items():
        for name, matrix in sublayer.matrices.items():
            key, inputs = (label, part_of(name)), matrix.shape[1]
            before = found.get(key, MatrixGroup(*key, 0, inputs))
            found[key] = MatrixGroup(*key, before.size + matrix.size, min(before.inputs, inputs))
    return list(found.values())


def shrunk(groups: Sequence[MatrixGroup], effects: Numbers) -> Numbers:
    """Return the effects of groups, each alone, drawn towards what they have in common; their sum stays.

    Effects measured on few texts are uncertain, so each weight's effect is the geometric mean of its own group's and
    of what its sublayer and the kind of its matrix tell, and of the differences between these 0.8th powers are kept.

    Args:
        groups: of all sublayers.
        effects: of each of them.
    """
    size = np.array([float(group.size) for group in groups])
    total = float(np.maximum(effects, 0).sum())
    own = np.maximum(effects, 0) / max(total, np.finfo(float).tiny) / size
    of_sublayer = _mean_density([group.sublayer for group in groups], own, size)
    kinds = [f"{group.sublayer.partition('.')[0]}.{group.name}" for group in groups]
    expected = _mean_density(kinds, of_sublayer, size)
    of_kind = np.divide(_mean_density(kinds, own, size), expected, out=np.ones_like(own), where=expected > 0)
    found: Numbers = size * np.sqrt(own * of_sublayer * of_kind) ** _KEPT
    return found * (total / max(float(found.sum()), np.finfo(float).tiny))


class Split:
    """Sparsities of all matrices for any sparsity of their sublayers.

    Of effects that add up and grow with the third power of the sparsity, the sum is smallest where each matrix's
    sparsity goes like (weights / effect)^½.

    Args:
        groups: of all sublayers.
        effects: of each group alone.
        probe: the treatment with which they were measured.
        by: `kl` or `cos`, the kind of effect, for the name.

    Attributes:
        probe: that treatment.
        name: end of the names of split treatments; the same for the same split alone.
    """

    def __init__(self, groups: Sequence[MatrixGroup], effects: Numbers, probe: str, by: str = "kl") -> None:
        self._groups, self.probe, self._measured = list(groups), probe, sparsity_of(probe)
        size = np.array([float(group.size) for group in groups])
        density = np.maximum(effects, 0) / max(float(np.max(effects)), np.finfo(float).tiny) / size
        middle = _mean_density([group.sublayer for group in groups], density, size)
        relative = np.divide(density, middle, out=np.ones_like(density), where=middle > 0)
        self._ratio = np.clip(relative, _FARTHEST**-2, _FARTHEST**2) ** (-1 / (_POWER - 1))
        digest = hashlib.sha256(json.dumps([probe, self._ratio.round(4).tolist()]).encode()).hexdigest()
        self.name = f"-by-{by}-{digest[:6]}"

    def sparsities(self, sparsity: float) -> dict[MatrixGroup, float]:
        """Return the sparsity of every group where each sublayer as a whole has a given one.

        A matrix has at least two zeros a row, and at most three times the measured sparsity or 70 %, whichever is less;
        it has more only where its sublayer has.
        """
        found = np.empty(len(self._groups))
        by_sublayer: defaultdict[str, list[int]] = defaultdict(list)
        for index, group in enumerate(self._groups):
            by_sublayer[group.sublayer].append(index)
        for own in by_sublayer.values():
            sizes = np.array([self._groups[index].size for index in own])
            least = np.array([max(_LOWEST, 2 / self._groups[index].inputs) for index in own]).clip(max=sparsity)
            most, goal = max(min(_HIGHEST, _REACH * self._measured), sparsity), sparsity * sizes.sum()
            low, high = 0.0, 1 / float(self._ratio[own].min())
            for _ in range(60):
                middle = (low + high) / 2
                values = np.clip(self._ratio[own] * middle, least, most)
                low, high = (low, middle) if values @ sizes >= goal else (middle, high)
            found[own] = np.clip(self._ratio[own] * high, least, most)
        # Rounded up, so that as much is removed as with one sparsity.
        return dict(zip(self._groups, (np.ceil(1e4 * found - 1e-6) / 1e4).tolist(), strict=True))

    def recipe(self, treatment: str) -> MixedRecipe:
        """Return a treatment of all sublayers with its sparsity split between their matrices.

        Args:
            treatment: name of a recipe that ends in its sparsity, such as `wanda-20`.
        """
        stem = treatment.rpartition("-")[0]
        treatments = {
            group.place: f"{stem}-{100 * own:g}" for group, own in self.sparsities(sparsity_of(treatment)).items()
        }
        return MixedRecipe.model_validate(
            {"name": treatment + self.name, "predecessors": "dense", "treatments": treatments}
        )

    def reference(self, treatment: str) -> "Reference":
        """Return what the effects of a treatment are computed from, split as by `recipe`."""
        return Reference(self.probe, self._measured, self.sparsities(sparsity_of(treatment)))


def sparsity_of(treatment: str) -> float:
    """Return the sparsity of an unstructured mask of that name."""
    ((_, sparsity),) = sparsities([treatment]).values()
    return sparsity


def _mean_density(keys: Sequence[str], density: Numbers, size: Numbers) -> Numbers:
    """Return for each group the mean density of all weights with its key."""
    _, number = np.unique(np.array(keys), return_inverse=True)
    mean: Numbers = np.bincount(number, density * size) / np.bincount(number, size)
    return mean[number]


@dataclass(frozen=True)
class Reference:
    """Sparsities from which the effects of one treatment are computed.

    Attributes:
        probe: the treatment that was measured for each group alone.
        measured: its sparsity.
        own: sparsities under the treatment itself.
    """

    probe: str
    measured: float
    own: Mapping[MatrixGroup, float]

    def terms(self, sublayer: str) -> dict[MatrixGroup, float]:
        """Return the factor of the measured effect of each group of a sublayer."""
        return {
            group: float((sparsity / self.measured) ** _POWER)
            for group, sparsity in self.own.items()
            if group.sublayer == sublayer
        }


def predicted_effects(menu: Menu, references: Mapping[str, Reference], effects: Mapping[Swap, float]) -> Numbers:
    """Return the effect of every option: 0 where a sublayer is kept, and the sum over matrices where it is computed.

    Args:
        menu: the options.
        references: of the treatments that were not measured, by name.
        effects: of the swaps that were measured.
    """

    def effect(label: str, treatment: str) -> float:
        if treatment == KEEP:
            return 0.0
        if treatment not in references:
            return max(0.0, effects[label, treatment])
        reference = references[treatment]
        terms = reference.terms(label).items()
        return sum(factor * max(0.0, effects[group.swap(reference.probe)]) for group, factor in terms)

    return np.array([effect(option.sublayer, option.treatment) for option in menu.options])
