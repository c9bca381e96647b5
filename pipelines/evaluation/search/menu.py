"""Menu of a search: the treatments of each sublayer, what each removes, and the variants of whole allocations.

The weights of a treatment come from one pass of the calibration tokens through the dense model, so that allocations are
combined without pruning again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.pruning.apply import prune_all
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.weight_delta import WEIGHT_BYTES, LazyMapping, WeightDelta
from prunescope.pipelines.recipes import MaskingRecipe, MixedRecipe, Recipe, parse_recipe
from prunescope.pipelines.recipes.mixed import part_of
from prunescope.pipelines.studies.search_spec import DROPS

KEEP, DROP = "keep", "drop"
# Treatment of each sublayer, by label; sublayers without an entry are kept.
Allocation = Mapping[str, str]


@dataclass(frozen=True)
class Option:
    """One treatment of one sublayer (its label): `keep`, `drop` or the name of a recipe.

    It removes `parameters` weights, and saves `bytes` in a file with packed masks and codes and `milliseconds` per
    decoding step; None if the time was not measured.
    """

    sublayer: str
    treatment: str
    parameters: int
    bytes: int
    milliseconds: float | None = None

    @property
    def sublayers(self) -> int:
        """Return 1, or 0 if the sublayer is kept."""
        return int(self.treatment != KEEP)


class Menu:
    """Treatments of every sublayer of a model.

    `treatments` are names of recipes that change matrices, `drop`, `attn-drop` and `mlp-drop`; `keep` is always
    included. `splits` are treatments of all sublayers with one recipe per matrix. `step_milliseconds` has the time of
    each sublayer in a decoding step, by label; None if time is not the budget.

    Raises:
        InputError: a recipe does not fit the model.
        ComputationError: a recipe's arithmetic failed.
    """

    def __init__(
        self,
        decoder: Decoder,
        treatments: Sequence[str],
        statistics: Statistics,
        splits: Sequence[MixedRecipe] = (),
        step_milliseconds: Mapping[str, float] | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.sublayers: Mapping[str, Sublayer] = {each.label: each for each in decoder.sublayers}
        self._step_milliseconds = step_milliseconds
        written = (parse_recipe(name) for name in treatments if name not in DROPS)
        dense = {"predecessors": "dense"}
        recipes: list[Recipe] = [*(recipe.model_copy(update=dense) for recipe in written), *splits]
        self._variants: dict[str, Variant] = {}
        # Weights and bytes that a treatment removes from a matrix; cached, because counting reads the changes.
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}
        for name, pruned in prune_all(decoder, recipes, statistics, progress).items() if recipes else ():
            if not isinstance(pruned, Variant):
                raise pruned
            self._variants[name] = pruned
        saved, options = None if step_milliseconds is None else 0.0, list[Option]()
        for label, sublayer in self.sublayers.items():
            options.append(Option(label, KEEP, 0, 0, saved))
            if {DROP, f"{sublayer.kind}-{DROP}"} & set(treatments):
                size = sum(matrix.size for matrix in sublayer.matrices.values())
                time = None if step_milliseconds is None else step_milliseconds[label]
                options.append(Option(label, DROP, size, size * WEIGHT_BYTES, time))
            for name, variant in self._variants.items():
                if any(matrix in variant.changes for matrix in sublayer.matrices):
                    options.append(Option(label, name, *self.removed(label, name), saved))
        self.options: tuple[Option, ...] = tuple(options)

    def only(self, treatments: Collection[str]) -> "Menu":
        """Return the menu with only some of its recipes; keeping and dropping stay."""
        return self._with(each for each in self.options if each.treatment in {KEEP, DROP, *treatments})

    def within(self, allocation: Allocation) -> "Menu":
        """Return the menu of an allocation: in each sublayer its treatment, and keeping."""
        return self._with(each for each in self.options if each.treatment in {KEEP, allocation.get(each.sublayer)})

    def _with(self, options: Iterable[Option]) -> "Menu":
        own = copy(self)
        own.options = tuple(options)
        vars(own).pop("places", None)  # cached for all options
        return own

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """Index of each option, by sublayer and treatment."""
        return {(option.sublayer, option.treatment): index for index, option in enumerate(self.options)}

    def choice(self, allocation: Allocation) -> NDArray[np.int64]:
        """Return the indices of an allocation's options, one per sublayer."""
        return np.array([self.places[label, allocation.get(label, KEEP)] for label in self.sublayers])

    def allocation(self, choice: NDArray[np.int64]) -> dict[str, str]:
        """Return the allocation of some options, by their indices."""
        return {self.options[index].sublayer: self.options[index].treatment for index in choice}

    def total(self, budget: str) -> float:
        """Return the total of the budget: weights, bytes, sublayers or milliseconds per decoding step."""
        if budget == "sublayers":
            return float(len(self.sublayers))
        if budget == "milliseconds":
            return sum((self._step_milliseconds or {}).values())
        size = sum(matrix.size for sublayer in self.sublayers.values() for matrix in sublayer.matrices.values())
        return float(size * (WEIGHT_BYTES if budget == "bytes" else 1))

    def weights(self, sublayer: str, treatment: str) -> Mapping[str, WeightDelta]:
        """Return the changes of a sublayer's matrices under a treatment other than `drop`, by name.

        A treatment is of all matrices, or of those with one name: `wanda-20 q_proj`.
        """
        if treatment == KEEP:
            return {}
        whole, names = self._changed(sublayer, treatment)
        return {name: self._variants[whole].changes[name] for name in names}

    def removed(self, sublayer: str, treatment: str) -> tuple[int, int]:
        """Return how many weights and bytes a treatment other than `drop` removes from a sublayer."""
        whole, names = self._changed(sublayer, treatment)
        for name in names:
            if (whole, name) not in self._counts:
                change = self._variants[whole].changes[name]
                masked = change.shape[0] * change.shape[1] - change.kept
                self._counts[whole, name] = masked, change.saved_bytes
        counts = [self._counts[whole, name] for name in names]
        return sum(masked for masked, _ in counts), sum(saved for _, saved in counts)

    def _changed(self, sublayer: str, treatment: str) -> tuple[str, list[str]]:
        """Return the recipe of a treatment, and the matrices that it changes."""
        whole, _, part = treatment.partition(" ")
        names = (name for name in self.sublayers[sublayer].matrices if not part or part_of(name) == part)
        return whole, [name for name in names if name in self._variants[whole].changes]

    def variant(self, allocation: Allocation) -> Variant:
        """Return the variant of an allocation; its weights are read when they are used."""
        chosen = {
            name: self._variants[treatment].changes
            for label, treatment in allocation.items()
            if treatment not in {KEEP, DROP}
            for name in self.sublayers[label].matrices
            if name in self._variants[treatment].changes
        }
        dropped = tuple(label for label, treatment in allocation.items() if treatment == DROP)
        return Variant(LazyMapping(chosen, lambda name: chosen[name][name]), dropped=dropped)


def sparsities(treatments: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Return, per unstructured mask, what it shares with masks of other sparsities, and its sparsity."""
    recipes = {name: parse_recipe(name) for name in treatments if name not in DROPS}
    return {
        name: (recipe.model_copy(update={"sparsity": None}).parameters_json, recipe.sparsity)
        for name, recipe in recipes.items()
        if isinstance(recipe, MaskingRecipe) and recipe.sparsity is not None
    }
