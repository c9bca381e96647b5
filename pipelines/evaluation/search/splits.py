"""Split of a sublayer's sparsity between its matrices, and effects of sparsities from those of one.

An effect grows with the third power of the sparsity, so that the matrices of one sublayer, each pruned alone at one
sparsity, tell how to share any sparsity between them, and what it costs.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunescope.pipelines.evaluation.search.menu import KEEP, Menu, Option, sparsities
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.recipes.mixed import part_of

Numbers = NDArray[np.float64]
# Methods with more sparsities than this in a menu are split; of others each treatment is measured as it is.
_FEW = 3
# Power of the sparsity with which an effect grows: for sublayers of SmolLM2-135M 3.0 ± 0.3 between 10 and 26 %, and 3.3
# ± 0.3 between 26 and 70 %. A logit shift grows with half of it.
_POWER = 3.0
# Sparsities up to this factor away from the measured one, or from a target, are taken: farther away the power need not
# hold. On SmolLM2 95 % of the first layer's queries and keys, which do nothing at 20 %, doubled the KL of a whole.
_REACH = 3.0
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


def nearest(sparsity: float, methods: Mapping[str, str]) -> str:
    """Return the name of the treatment with the nearest sparsity."""
    own = sparsities([*methods])
    return min(own, key=lambda name: abs(own[name][1] - sparsity))


def within_reach(targets: Sequence[float], methods: Mapping[str, str]) -> list[str]:
    """Return the treatments whose sparsities the best allocation for some targets may give to a sublayer."""
    own, near = sparsities([*methods]), set[str]().union(*(around(target, methods) for target in targets))
    low, high = min(targets) / _REACH, max(targets) * _REACH
    return [name for name in methods if name in near or low <= own[name][1] <= high]


@dataclass(frozen=True)
class Part:
    """The matrices of one sublayer whose names end in the same way.

    Attributes:
        sublayer: its label.
        name: that end, such as `q_proj`.
        size: weights.
        inputs: of the narrowest of the matrices.
    """

    sublayer: str
    name: str
    size: int
    inputs: int

    @property
    def place(self) -> str:
        """Its name in a mixed recipe."""
        return f"{self.sublayer}.{self.name}"

    def treated(self, treatment: str) -> str:
        """Return the name of a treatment of this part alone."""
        return f"{treatment} {self.name}"


def parts_of(sublayers: Mapping[str, Sublayer]) -> list[Part]:
    """Return the parts of all sublayers, in the order of their matrices."""
    found: dict[tuple[str, str], Part] = {}
    for label, sublayer in sublayers.items():
        for name, matrix in sublayer.matrices.items():
            key, inputs = (label, part_of(name)), matrix.shape[1]
            before = found.get(key, Part(*key, 0, inputs))
            found[key] = Part(*key, before.size + matrix.size, min(before.inputs, inputs))
    return list(found.values())


class Split:
    """Sparsities of all parts for any sparsity of their sublayers.

    Of effects that add up and grow with the third power of the sparsity, the sum is smallest where each part's
    sparsity goes like (weights / effect)^½. Effects measured on few texts are uncertain, so each weight's effect is
    the geometric mean of its own part's and of what its sublayer and the kind of its matrix tell: on SmolLM2-135M at
    20 and 30 %, with 16 texts, the KL on other texts was 0 to 2 % lower than by either alone.

    Args:
        parts: of all sublayers.
        effects: of each part alone.
        measured: the sparsity at which they were measured.
    """

    def __init__(self, parts: Sequence[Part], effects: Numbers, measured: float) -> None:
        self.parts, self._highest = list(parts), min(_HIGHEST, _REACH * measured)
        size = np.array([float(part.size) for part in parts])
        own = np.maximum(effects, 0) / size
        own /= max(float(own.max()), np.finfo(float).tiny)
        of_sublayer = _shared([part.sublayer for part in parts], own, size)
        kinds = [f"{part.sublayer.partition('.')[0]}.{part.name}" for part in parts]
        expected = _shared(kinds, of_sublayer, size)
        of_kind = np.divide(_shared(kinds, own, size), expected, out=np.ones_like(own), where=expected > 0)
        density = np.sqrt(own * of_sublayer * of_kind)
        middle = _shared([part.sublayer for part in parts], density, size)
        relative = np.divide(density, middle, out=np.ones_like(own), where=middle > 0)
        self._ratio = np.clip(relative, _FARTHEST**-2, _FARTHEST**2) ** (-1 / (_POWER - 1))

    def sparsities(self, sparsity: float) -> dict[Part, float]:
        """Return the sparsity of every part where each sublayer as a whole has a given one.

        A part has at least two zeros a row, and at most three times the measured sparsity or 70 %, whichever is less;
        it has more only where its sublayer has.
        """
        found = np.empty(len(self.parts))
        by_sublayer: defaultdict[str, list[int]] = defaultdict(list)
        for index, part in enumerate(self.parts):
            by_sublayer[part.sublayer].append(index)
        for own in by_sublayer.values():
            sizes = np.array([self.parts[index].size for index in own])
            least = np.array([max(_LOWEST, 2 / self.parts[index].inputs) for index in own]).clip(max=sparsity)
            most, goal = max(self._highest, sparsity), sparsity * sizes.sum()
            low, high = 0.0, 1 / float(self._ratio[own].min())
            for _ in range(60):
                middle = (low + high) / 2
                values = np.clip(self._ratio[own] * middle, least, most)
                low, high = (low, middle) if values @ sizes >= goal else (middle, high)
            found[own] = np.clip(self._ratio[own] * high, least, most)
        return dict(zip(self.parts, found.round(4).tolist(), strict=True))

    def recipe(self, treatment: str, suffix: str) -> MixedRecipe:
        """Return a treatment of all sublayers with its sparsity split between their matrices.

        Args:
            treatment: name of a recipe that ends in its sparsity, such as `wanda-20`.
            suffix: appended to its name.
        """
        ((_, sparsity),) = sparsities([treatment]).values()
        stem = treatment.rpartition("-")[0]
        treatments = {part.place: f"{stem}-{100 * own:g}" for part, own in self.sparsities(sparsity).items()}
        return MixedRecipe.model_validate(
            {"name": treatment + suffix, "predecessors": "dense", "treatments": treatments}
        )


def _shared(keys: Sequence[str], density: Numbers, size: Numbers) -> Numbers:
    """Return for each part the mean density of all weights with its key."""
    _, number = np.unique(np.array(keys), return_inverse=True)
    mean: Numbers = np.bincount(number, density * size) / np.bincount(number, size)
    return mean[number]


def growth(factor: float) -> float:
    """Return the factor by which an effect grows with the sparsity."""
    return float(factor**_POWER)


@dataclass(frozen=True)
class Reference:
    """What the effects of a split treatment are computed from.

    Attributes:
        method: of the treatment.
        treatment: the one that was measured for each part alone.
        sparsity: of that treatment.
        own: sparsities under the split treatment.
    """

    method: str
    treatment: str
    sparsity: float
    own: Mapping[Part, float]


def predicted_effects(
    menu: Menu,
    references: Mapping[str, Reference],
    columns: Mapping[tuple[str, str], int],
    effects: Numbers,
    overlap: Numbers,
) -> tuple[Numbers, Numbers]:
    """Return the effect of every option, 0 where a sublayer is kept, and the correlations of all pairs of shifts.

    An option's shift of the logits is that of its swap, or the sum of its parts' shifts, each times the half power of
    what its sparsity is to the measured one.

    Args:
        menu: the options.
        references: of the split treatments, by name.
        columns: of the measured swaps.
        effects: of these swaps, not negative.
        overlap: correlations of their shifts.
    """
    size = np.sqrt(np.maximum(effects, 0))
    shifts = np.zeros((len(menu.options), len(size)))
    for index, option in enumerate(menu.options):
        for column, factor in _terms(option, references, columns).items():
            shifts[index, column] = factor * size[column]
    products = shifts @ overlap @ shifts.T
    costs = np.maximum(products.diagonal(), 0)
    scale = np.sqrt(np.where(costs > 0, costs, 1))
    return costs, products / scale / scale[:, None]


def _terms(
    option: Option, references: Mapping[str, Reference], columns: Mapping[tuple[str, str], int]
) -> dict[int, float]:
    """Return the measured shifts that an option's shift consists of, with their factors."""
    if option.treatment == KEEP:
        return {}
    if option.treatment not in references:
        return {columns[option.sublayer, option.treatment]: 1.0}
    reference = references[option.treatment]
    return {
        columns[option.sublayer, part.treated(reference.treatment)]: growth(own / reference.sparsity) ** 0.5
        for part, own in reference.own.items()
        if part.sublayer == option.sublayer
    }
