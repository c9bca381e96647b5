"""Display order of models, recipes and prompts: that of the study, then by name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class DisplayOrder:
    """Names of models, recipes and prompts in the study's order; the recipe `dense` always comes first."""

    models: Sequence[str] = ()
    recipes: Sequence[str] = ()
    prompts: Sequence[str] = ()

    def of_variant(self, model: str, recipe: str) -> tuple[object, ...]:
        """Return the sort key of a variant."""
        return (*_sort_key(model, self.models), recipe != "dense", *_sort_key(recipe, self.recipes))

    def of_prompt(self, model: str, prompt: str) -> tuple[object, ...]:
        """Return the sort key of a prompt."""
        return (*_sort_key(model, self.models), *_sort_key(prompt, self.prompts))


def _sort_key(name: str, known: Sequence[str]) -> tuple[int, list[tuple[int, str]], str]:
    """Return the sort key of a name; numbers inside it are compared by value, so `wanda-9` comes before `wanda-10`."""
    pieces = [(int(piece[:18]) if piece.isdecimal() else -1, piece) for piece in _DIGITS.split(name)[:20]]
    return (known.index(name) if name in known else len(known), pieces, name)
