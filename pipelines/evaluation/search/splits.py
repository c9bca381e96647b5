"""Split of a sublayer's sparsity between its matrices, and prediction of effects at other sparsities.

An effect grows with the third power of the sparsity. Each matrix is pruned alone at one sparsity; from these effects
follow the best split of any sparsity and its cost.
"""

import hashlib
import json
from collections import Counter
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
# A method with more sparsities than this in the menu is split. The treatments of other methods are measured as they
# are.
_FEW = 3
# Power of the sparsity with which an effect grows. Measured on sublayers of SmolLM2-135M: 3.0 ± 0.3 between 10 and 26
# %, 3.3 ± 0.3 between 26 and 70 %.
_POWER = 3.0
# Power by which differences between measured effects are shrunk, because part of them is error. Compared with power 1
# on SmolLM2-135M at 10, 20, 30 and 40 %, 0.8 changes the KL of whole allocations by -2, -2, -4 and -8 % on the texts
# and prompts of a search, and by +2, +2, -1 and -4 % on windows of WikiText-2.
_KEPT = 0.8
# Sparsities are used up to this factor away from the measured one or from a target; farther away the power need not
# hold. On SmolLM2, 95 % in the first layer's queries and keys, which have no effect at 20 %, doubled the KL of an
# allocation.
_REACH = 3.0
# Targets up to this factor above or below a measured sparsity share its measurement.
_SAME_PROBE = 2.0
# Limits of a matrix's sparsity, and of the ratio of its sparsity to that of its sublayer.
_LOWEST, _HIGHEST, _FARTHEST = 0.01, 0.7, 4.0


def methods_of(treatments: Sequence[str]) -> dict[str, str]:
    """Return the method of each treatment, for methods with more than three sparsities."""
    own = sparsities(treatments)
    counts = Counter(family for family, _ in own.values())
    return {name: family for name, (family, _) in own.items() if counts[family] > _FEW}


def around(sparsity: float, methods: Mapping[str, str]) -> set[str]:
    """Return, for each method, the names of the treatments next to a sparsity: at or below it, and above it."""
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
    """Return the treatment of a method to measure per target (ascending): few in all, each within a factor of two."""
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
    """Matrices of one sublayer whose names have the same end, such as `q_proj`: usually one matrix, or one per expert.

    `size` is their number of weights, `inputs` the number of inputs of the narrowest.
    """

    sublayer: str
    name: str
    size: int
    inputs: int

    @property
    def place(self) -> str:
        """Name of the group in a mixed recipe."""
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
    """Return the effects of groups, shrunk towards what they have in common; their sum stays the same.

    Effects measured on few texts are uncertain. The effect per weight becomes the geometric mean of the group's own and
    of what its sublayer and the kind of its matrix predict, to the power 0.8.
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

    If effects add up and grow with the third power of the sparsity, their sum is smallest if each matrix's sparsity is
    proportional to (weights / effect)^½.

    `effects` has the effect of each group alone under the treatment `probe`; `by` is its kind, `kl` or `cos`. `name` is
    the end of the names of split treatments, equal for equal splits only.
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
        """Return the sparsity of every group if each sublayer as a whole has a given sparsity.

        A matrix has at least two zeros per row. It has at most three times the measured sparsity and at most 70 %, or
        the sparsity of its sublayer if that is more.
        """
        found, labels = np.empty(len(self._groups)), np.array([group.sublayer for group in self._groups])
        for label in dict.fromkeys(labels):
            own = np.flatnonzero(labels == label)
            sizes = np.array([self._groups[index].size for index in own])
            least = np.array([max(_LOWEST, 2 / self._groups[index].inputs) for index in own]).clip(max=sparsity)
            most, goal = max(min(_HIGHEST, _REACH * self._measured), sparsity), sparsity * sizes.sum()
            low, high = 0.0, 1 / float(self._ratio[own].min())
            for _ in range(60):
                middle = (low + high) / 2
                values = np.clip(self._ratio[own] * middle, least, most)
                low, high = (low, middle) if values @ sizes >= goal else (middle, high)
            found[own] = np.clip(self._ratio[own] * high, least, most)
        # Rounded up, so that at least as much is removed as with one sparsity.
        return dict(zip(self._groups, (np.ceil(1e4 * found - 1e-6) / 1e4).tolist(), strict=True))

    def recipe(self, treatment: str) -> MixedRecipe:
        """Return a treatment named by its sparsity, such as `wanda-20`, split between the matrices of all sublayers."""
        stem = treatment.rpartition("-")[0]
        own = {each.place: f"{stem}-{100 * x:g}" for each, x in self.sparsities(sparsity_of(treatment)).items()}
        return MixedRecipe.model_validate({"name": treatment + self.name, "predecessors": "dense", "treatments": own})

    def reference(self, treatment: str) -> "Reference":
        """Return what the effects of a treatment that `recipe` splits are computed from."""
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

    `probe` was measured for each group alone, at the sparsity `measured`; `own` has the sparsities under the treatment.
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
    """Return the effect of every option: 0 if it keeps the sublayer, a sum over matrices if it is not measured.

    `references` has the sources of the treatments that were not measured, by name; `effects` those of measured swaps.
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
